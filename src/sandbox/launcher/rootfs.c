/*
 * The sandbox's root file system. One tmpfs with a size and an inode limit holds everything that can be written: the
 * root (profile `host`) or the overlay's upper layer (`directory`), /usr's upper layer, and /dev/shm.
 */
#include "launcher.h"

#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>

/* /base/layer-<id>/<name>.up: */
enum { LAYER_NAME = 40 };

static void make(const char *path, mode_t mode) {
  if (mkdir(path, mode) != 0 && errno != EEXIST) setup_fail(path);
}

/* `mkdir -p` of a path below the current folder. */
static void make_below(const char *path) {
  char copy[PATH_SIZE];
  format(copy, sizeof copy, "%s", path);
  for (char *slash = strchr(copy, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(copy, 0755);
    *slash = '/';
  }
  mkdir(copy, 0755);
}

static void write_file(const char *path, const char *text) {
  int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0 || !write_all(fd, text, strlen(text))) setup_fail(path);
  close(fd);
}

static void bind_to(const char *from, const char *to, unsigned long flags) {
  if (mount(from, to, NULL, MS_BIND | flags, NULL) != 0) setup_fail(to);
}

/* An overlay of what earlier sandboxes wrote to `name`, newest first, and `lower`, which may be NULL. Without either, nothing. */
static void mount_overlay(const struct sandbox_spec *spec, const char *lower, const char *name, const char *target) {
  static char lowers[MAX_LAYERS * LAYER_NAME + PATH_SIZE], options[sizeof lowers + 256];
  char upper[64], work[64];
  size_t length = 0;
  lowers[0] = 0;
  for (uint32_t i = 0; i < spec->layer_count; i++) {
    format(lowers + length, sizeof lowers - length, "%s/base/layer-%u/%s.up", length > 0 ? ":" : "", spec->layers[i], name);
    if (access(lowers + length + (length > 0), F_OK) == 0) length += strlen(lowers + length);
    else lowers[length] = 0; /* nothing was written there */
  }
  if (length == 0 && lower == NULL) return;
  if (lower != NULL) format(lowers + length, sizeof lowers - length, "%s%s", length > 0 ? ":" : "", lower);
  format(upper, sizeof upper, "/tmp/%s.up", name);
  format(work, sizeof work, "/tmp/%s.work", name);
  make(upper, 0755);
  make(work, 0755);
  format(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s,userxattr", lowers, upper, work);
  if (mount("overlay", target, "overlay", MS_NODEV, options) != 0) setup_fail("overlay");
}

/* The few files of /etc that programs ask for. Nothing of the host's is copied. */
static void make_etc(void) {
  make("etc", 0755);
  write_file("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n");
  write_file("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n");
  write_file("etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n");
  write_file("etc/hostname", "sandbox\n");
  write_file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
}

static void make_host_root(const struct base *base, uint32_t id, const struct sandbox_spec *spec) {
  static const char *const folders[] = {"usr", "proc", "dev", "home", "logs", "mnt", "opt", "run", "srv", "var"};
  char from[PATH_SIZE + 64];
  bool fresh = spec->layer_count == 0;
  if (fresh) {
    make("/tmp/root.up", 0755);
    bind_to("/tmp/root.up", "/root", 0);
  } else {
    mount_overlay(spec, NULL, "root", "/root");
  }
  if (chdir("/root") != 0) setup_fail("entering the new root");
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) make(folders[i], 0755);
  make("root", 0700);
  make("tmp", 01777);
  make("var/tmp", 01777);
  for (int i = 0; i < base->link_count; i++)
    if (symlink(base->links[i][1], base->links[i][0]) != 0 && errno != EEXIST) setup_fail(base->links[i][0]);
  if (fresh) make_etc();
  if (base->has_usr) {
    format(from, sizeof from, "/base/%u/usr", id);
    mount_overlay(spec, from, "usr", "usr");
  }
  /* Without the host's: what earlier sandboxes changed there. */
  if (base->bare && !fresh) mount_overlay(spec, NULL, "usr", "usr");
  for (int i = 0; i < base->tree_count; i++) {
    make(base->trees[i], 0755);
    format(from, sizeof from, "/base/%u/%s", id, base->trees[i]);
    bind_to(from, base->trees[i], 0);
  }
}

/* A root file system from elsewhere may have something else there, as a link that leads to the stage. */
static void make_real_folder(const char *name, mode_t mode) {
  struct stat status;
  if (mkdir(name, mode) == 0) return;
  if (errno != EEXIST || lstat(name, &status) != 0) setup_fail(name);
  if (S_ISDIR(status.st_mode)) return;
  if (unlink(name) != 0 || mkdir(name, mode) != 0) setup_fail(name);
}

/* For a sandbox that only moves files between layers and its target. */
static void make_store_root(const struct sandbox_spec *spec) {
  char from[LAYER_NAME], to[LAYER_NAME];
  make("/tmp/root.up", 0755);
  bind_to("/tmp/root.up", "/root", 0);
  if (chdir("/root") != 0) setup_fail("entering the new root");
  make("proc", 0755);
  make("dev", 0755);
  make("layers", 0755);
  for (uint32_t i = 0; i < spec->layer_count; i++) {
    format(from, sizeof from, "/base/layer-%u", spec->layers[i]);
    format(to, sizeof to, "layers/%u", i);
    make(to, 0755);
    bind_to(from, to, 0);
  }
}

static void make_directory_root(uint32_t id, const struct sandbox_spec *spec) {
  static const char *const folders[] = {"proc", "dev", "tmp", "root", "logs"};
  char lower[64];
  format(lower, sizeof lower, "/base/%u/root", id);
  mount_overlay(spec, lower, "root", "/root");
  if (chdir("/root") != 0) setup_fail("entering the new root");
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
    make_real_folder(folders[i], strcmp(folders[i], "tmp") == 0 ? 01777 : 0755);
}

static void make_dev(void) {
  bind_to("/dev", "dev", MS_REC);
  if (mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") != 0)
    setup_fail("devpts");
  make("/tmp/shm", 01777);
  bind_to("/tmp/shm", "dev/shm", 0);
}

/*
 * `most`, or where sandboxes share a user's count, an eighth of what they have together, half of the user's (`halve_number`), but no fewer
 * than programs need. A kernel without the limit has the one of its user.
 */
static void limit_watches_of(const char *of_user, const char *own, bool shared, unsigned long least, unsigned long most) {
  char text[32];
  unsigned long share = most;
  if (shared && read_text_at(AT_FDCWD, of_user, text, sizeof text) > 0) share = strtoul(text, NULL, 10) / 2 / 8;
  format(text, sizeof text, "%lu", share < least ? least : share > most ? most : share);
  write_text_at(AT_FDCWD, own, text);
}

static void limit_watching(bool shared) {
  limit_watches_of("proc/sys/fs/inotify/max_user_instances", "proc/sys/user/max_inotify_instances", shared, 4, 32);
  limit_watches_of("proc/sys/fs/inotify/max_user_watches", "proc/sys/user/max_inotify_watches", shared, 4096, 32768);
}

/* /proc with the parts hidden or read-only that Docker hides, too. `shared`: what the kernel counts per user is, with other sandboxes. */
static void make_proc(bool shared) {
  static const char *const hidden[] = {"proc/kcore",       "proc/keys",      "proc/key-users", "proc/timer_list",
                                       "proc/sched_debug", "proc/latency_stats", "proc/kpagecount", "proc/kpageflags"};
  static const char *const hidden_folders[] = {"proc/acpi", "proc/scsi", "proc/asound"};
  static const char *const read_only[] = {"proc/sys", "proc/irq", "proc/bus", "proc/fs", "proc/sysrq-trigger"};
  if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
    setup_fail("/proc (is the host's /proc partly hidden, as in a container?)");
  limit_watching(shared);
  for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
    if (mount("/dev/null", hidden[i], NULL, MS_BIND, NULL) != 0 && errno != ENOENT) setup_fail(hidden[i]);
  for (size_t i = 0; i < sizeof hidden_folders / sizeof *hidden_folders; i++)
    if (mount("/none", hidden_folders[i], NULL, MS_BIND, NULL) != 0 && errno != ENOENT) setup_fail(hidden_folders[i]);
  for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
    if (mount(read_only[i], read_only[i], NULL, MS_BIND, NULL) != 0) {
      if (errno == ENOENT) continue;
      setup_fail(read_only[i]);
    }
    if (mount(NULL, read_only[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
      setup_fail(read_only[i]);
  }
}

static void make_binds(const struct base *base, uint32_t id) {
  char from[PATH_SIZE + 64];
  for (int i = 0; i < base->bind_count; i++) {
    const char *path = base->binds[i];
    format(from, sizeof from, "/base/%u/%s", id, path);
    if (base->bind_is_dir[i]) {
      make_below(path);
    } else {
      char parent[PATH_SIZE];
      format(parent, sizeof parent, "%s", path);
      char *slash = strrchr(parent, '/');
      if (slash != NULL) {
        *slash = 0;
        make_below(parent);
      }
      /* Of a lower layer, opening it would copy it. */
      int fd = access(path, F_OK) == 0 ? -1 : open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
      if (fd >= 0) close(fd);
    }
    bind_to(from, path, 0);
  }
}

/* What the sandbox must not see is covered, where it is there to be seen. Links are followed as the sandbox would. */
static void hide(const struct base *base) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  for (int i = 0; i < base->mask_count; i++) {
    char target[64];
    struct stat status;
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, base->masks[i], &how, sizeof how);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) continue;
    if (fd < 0 || fstat(fd, &status) != 0) setup_fail(base->masks[i]);
    format(target, sizeof target, "/proc/self/fd/%d", fd);
    bind_to(S_ISDIR(status.st_mode) ? "/none" : "/nothing", target, 0);
    close(fd);
  }
}

/* What the layers hold counts against the limits of whoever stands on them. */
static void subtract_layers(const struct sandbox_spec *spec, uint64_t *disk, uint64_t *inodes) {
  enum { LEAST_DISK = 1 << 20, LEAST_INODES = 1024 };
  *disk = spec->disk;
  *inodes = spec->inodes;
  for (uint32_t i = 0; i < spec->layer_count; i++) {
    char path[LAYER_NAME];
    struct statfs status;
    if (spec->layers[i] & STORED_LAYER) continue;
    format(path, sizeof path, "/base/layer-%u", spec->layers[i]);
    if (statfs(path, &status) != 0) setup_fail(path);
    uint64_t used = (status.f_blocks - status.f_bfree) * (uint64_t)status.f_bsize;
    uint64_t used_inodes = status.f_files - status.f_ffree;
    *disk = used + LEAST_DISK < *disk ? *disk - used : LEAST_DISK;
    *inodes = used_inodes + LEAST_INODES < *inodes ? *inodes - used_inodes : LEAST_INODES;
  }
}

int rootfs_build(const struct base *base, uint32_t base_id, const struct sandbox_spec *spec, bool shared) {
  char options[128];
  uint64_t disk, inodes;
  umask(0);
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) setup_fail("private mounts");
  subtract_layers(spec, &disk, &inodes);
  format(options, sizeof options, "mode=755,size=%llu,nr_inodes=%llu", (unsigned long long)disk,
         (unsigned long long)inodes);
  if (mount("sandbox", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options) != 0) setup_fail("tmpfs");
  int writable = (int)syscall(SYS_open_tree, AT_FDCWD, "/tmp", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (spec->store) make_store_root(spec);
  else if (base->directory) make_directory_root(base_id, spec);
  else make_host_root(base, base_id, spec);
  make_dev();
  make_proc(shared);
  make_binds(base, base_id);
  hide(base);
  if (spec->target[0] != 0) {
    make_real_folder(TARGET_NAME, 0755);
    bind_to("/base/target", TARGET_NAME, 0);
  }
  if (syscall(SYS_pivot_root, ".", ".") != 0) setup_fail("pivot_root");
  if (umount2(".", MNT_DETACH) != 0 || chdir("/") != 0) setup_fail("leaving the stage");
  make_below(spec->workdir + 1); /* only now: links on the way lead no further than the sandbox's own root */
  if (chdir(spec->workdir) != 0) setup_fail(spec->workdir);
  umask(022);
  return writable;
}
