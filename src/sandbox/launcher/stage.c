/*
 * The factory's mount namespaces. Two are kept:
 *
 *   host   a slave copy of the host's mounts, entered only to pick up the lower layers of a profile
 *   stage  a tmpfs root with nothing but /proc, a template of /dev, and those lower layers under /base/<id>
 *
 * Every sandbox is cloned from `stage`, so the cost of a sandbox does not grow with the host's mounts, and a process
 * that is about to become a sandbox has no path to the host's files.
 */
#include "launcher.h"

#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif

static int host_namespace = -1, stage_namespace = -1;
/* A user namespace with the sandboxes' id mapping, for id-mapped mounts; -1 where that is impossible. */
static int mapping_namespace = -1;
static uint32_t first_id;
/* What is picked up keeps the host's ids until it is lent to a sandbox. */
static bool lending;

static bool fail(char *error, size_t capacity, const char *what) {
  format(error, capacity, "%s: %s", what, strerror(errno));
  return false;
}

/* The id maps of a process in a new user namespace: a range of its own, or only our one user as root. */
bool write_id_maps(pid_t pid, const struct level *level, uint32_t first) {
  char path[64], map[64];
  if (!level->mapped) {
    format(path, sizeof path, "/proc/%d/setgroups", pid);
    write_text_at(AT_FDCWD, path, "deny");
  }
  for (int group = 0; group < 2; group++) {
    format(path, sizeof path, "/proc/%d/%s", pid, group ? "gid_map" : "uid_map");
    if (level->mapped) format(map, sizeof map, "0 %u %u", first, level->id_count);
    else format(map, sizeof map, "0 0 1");
    if (!write_text_at(AT_FDCWD, path, map)) return false;
  }
  return true;
}

/* A user namespace outlives the process that made it while a descriptor refers to it. */
static int make_mapping_namespace(const struct level *level) {
  int ready[2];
  char path[64], byte;
  if (pipe2(ready, O_CLOEXEC) != 0) return -1;
  pid_t child = fork();
  if (child < 0) return -1;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    byte = unshare(CLONE_NEWUSER) == 0 ? 0 : (char)errno;
    write_all(ready[1], &byte, 1);
    pause();
    _exit(0);
  }
  close(ready[1]);
  int fd = -1;
  if (read(ready[0], &byte, 1) == 1 && (errno = byte) == 0 && write_id_maps(child, level, level->first_id)) {
    format(path, sizeof path, "/proc/%d/ns/user", child);
    fd = open(path, O_RDONLY | O_CLOEXEC);
  }
  close(ready[0]);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  return fd;
}

int stage_probe_mapping(const struct level *level) {
  int mapping = make_mapping_namespace(level);
  if (mapping < 0 || unshare(CLONE_NEWNS) != 0) return errno;
  int tree = (int)syscall(SYS_open_tree, AT_FDCWD, "/usr", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (tree < 0) return errno;
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)mapping};
  return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0 ? 0 : errno;
}

/* The six harmless devices. Nodes where we may make them; in a user namespace, binds of the host's. */
static bool make_devices(const char *stage, char *error, size_t capacity) {
  static const struct {
    const char *name;
    unsigned major, minor;
  } devices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
  static const char *const links[][2] = {{"/proc/self/fd", "fd"},
                                         {"/proc/self/fd/0", "stdin"},
                                         {"/proc/self/fd/1", "stdout"},
                                         {"/proc/self/fd/2", "stderr"},
                                         {"pts/ptmx", "ptmx"}};
  char path[PATH_SIZE + 32], host[64];
  format(path, sizeof path, "%s/dev", stage);
  if (mount("dev", path, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k,nr_inodes=64") != 0)
    return fail(error, capacity, "mount of the device folder");
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    format(path, sizeof path, "%s/dev/%s", stage, devices[i].name);
    if (mknod(path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) == 0) {
      chmod(path, 0666);
      continue;
    }
    format(host, sizeof host, "/dev/%s", devices[i].name);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
    if (fd >= 0) close(fd);
    if (mount(host, path, NULL, MS_BIND, NULL) != 0) return fail(error, capacity, host);
  }
  for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
    format(path, sizeof path, "%s/dev/%s", stage, links[i][1]);
    if (symlink(links[i][0], path) != 0) return fail(error, capacity, path);
  }
  format(path, sizeof path, "%s/dev/pts", stage);
  mkdir(path, 0755);
  format(path, sizeof path, "%s/dev/shm", stage);
  mkdir(path, 0755);
  format(path, sizeof path, "%s/dev", stage);
  if (mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) != 0)
    return fail(error, capacity, "read-only device folder");
  return true;
}

static bool seal(const char *stage, const char *name, char *error, size_t capacity) {
  char path[PATH_SIZE + 32];
  format(path, sizeof path, "%s/%s", stage, name);
  if (mount(path, path, NULL, MS_BIND, NULL) != 0 ||
      mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
    return fail(error, capacity, path);
  return true;
}

/* `tmp` takes each sandbox's tmpfs, `root` its root file system; `none` and `nothing` hide folders and files. */
static bool make_folders(const char *stage, char *error, size_t capacity) {
  static const char *const names[] = {"proc", "dev", "tmp", "root", "base", "none"};
  char path[PATH_SIZE + 32];
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    format(path, sizeof path, "%s/%s", stage, names[i]);
    if (mkdir(path, 0755) != 0) return fail(error, capacity, path);
  }
  format(path, sizeof path, "%s/nothing", stage);
  int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0444);
  if (fd < 0) return fail(error, capacity, path);
  close(fd);
  /* Read-only mounts, and so are their binds: as an ordinary user, the sandboxes' root owns these. */
  return seal(stage, "none", error, capacity) && seal(stage, "nothing", error, capacity);
}

bool stage_enter(struct level *level, const char *stage, char *error, size_t capacity) {
  char path[PATH_SIZE + 32];
  umask(0);
  first_id = level->first_id;
  if (!level->mapped && !enter_own_namespace(level, error, capacity)) return false;
  if (level->mapped && (mapping_namespace = make_mapping_namespace(level)) < 0)
    return fail(error, capacity, "user namespace");
  if (unshare(CLONE_NEWNS) != 0) return fail(error, capacity, "mount namespace");
  if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0) return fail(error, capacity, "slave mounts");
  host_namespace = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
  if (host_namespace < 0) return fail(error, capacity, "/proc/self/ns/mnt (is /proc mounted?)");
  if (unshare(CLONE_NEWNS) != 0) return fail(error, capacity, "second mount namespace");
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return fail(error, capacity, "private mounts");
  if (mount("stage", stage, "tmpfs", MS_NOSUID, "mode=755,size=4m") != 0) return fail(error, capacity, stage);
  if (!make_folders(stage, error, capacity) || !make_devices(stage, error, capacity)) return false;
  /* A fresh /proc may be mounted in a user namespace only where a complete one is visible already. */
  format(path, sizeof path, "%s/proc", stage);
  if (mount("/proc", path, NULL, MS_BIND | MS_REC, NULL) != 0) return fail(error, capacity, "bind of /proc");
  if (chdir(stage) != 0 || syscall(SYS_pivot_root, ".", ".") != 0) return fail(error, capacity, "pivot_root");
  if (umount2(".", MNT_DETACH) != 0 || chdir("/") != 0) return fail(error, capacity, "leaving the host's root");
  stage_namespace = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
  if (stage_namespace < 0) return fail(error, capacity, "/proc/self/ns/mnt");
  return true;
}

/* A detached copy of the mount of a host folder or file; owned by the sandbox's root where id-mapped mounts work. */
static int pick_up(const char *path, bool writable) {
  int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (fd < 0 && errno == EINVAL) /* locked submounts may only be copied together */
    fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
  if (fd < 0) return -1;
  struct mount_attr attributes = {.attr_set = (writable ? 0 : MOUNT_ATTR_RDONLY) | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
  syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes);
  if (mapping_namespace >= 0 && !lending) {
    struct mount_attr mapping = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)mapping_namespace};
    bool mapped = syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &mapping, sizeof mapping) == 0;
    /* Where that is impossible, what a sandbox writes has the ids it has there; so must the folder it writes to. */
    if (!mapped && writable) fchownat(fd, "", first_id, first_id, AT_EMPTY_PATH);
  }
  return fd;
}

/* Makes every missing parent of `path`. */
static void make_parents(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(path, 0755);
    *slash = '/';
  }
}

/* Copies a file of the host, which the stage cannot see, to `target`. The copy stays when a package manager replaces it. */
static bool copy_file(int from, const char *target) {
  char buffer[16384];
  ssize_t length;
  int to = open(target, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  if (to < 0) return false;
  bool copied = true;
  while (copied && (length = read(from, buffer, sizeof buffer)) != 0) copied = length > 0 && write_all(to, buffer, (size_t)length);
  close(to);
  return copied;
}

/* Puts host path `from` at /base/<id>/<name>: folders as mounts of the host's, files as copies; both read-only. */
static bool place(uint32_t id, const char *from, const char *name, bool *is_dir, char *error, size_t capacity) {
  char target[PATH_SIZE + 64];
  struct stat status = {0};
  int fd = -1;
  format(target, sizeof target, "/base/%u/%s", id, name);
  if (setns(host_namespace, CLONE_NEWNS) != 0) return fail(error, capacity, "entering the host's mounts");
  if (stat(from, &status) == 0) fd = S_ISDIR(status.st_mode) ? pick_up(from, false) : open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  int saved = errno;
  if (setns(stage_namespace, CLONE_NEWNS) != 0) {
    fprintf(stderr, "launcher: cannot return to the stage: %s\n", strerror(errno));
    _exit(70);
  }
  errno = saved;
  if (fd < 0) return fail(error, capacity, from);
  *is_dir = S_ISDIR(status.st_mode);
  make_parents(target);
  if (*is_dir) {
    mkdir(target, 0755);
  } else {
    bool copied = S_ISREG(status.st_mode) && copy_file(fd, target);
    close(fd);
    fd = copied ? pick_up(target, false) : -1;
    if (fd < 0) return fail(error, capacity, from);
  }
  bool placed = syscall(SYS_move_mount, fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) == 0;
  if (!placed) fail(error, capacity, target);
  close(fd);
  return placed;
}

/* Host profile: /usr, the top-level links into it, and top-level folders of systems that keep them apart. */
static bool place_host(uint32_t id, struct base *base, char *error, size_t capacity) {
  static const char *const names[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};
  bool is_dir;
  base->has_usr = place(id, "/usr", "usr", &is_dir, error, capacity);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[32], target[64];
    struct stat status;
    format(path, sizeof path, "/%s", names[i]);
    if (setns(host_namespace, CLONE_NEWNS) != 0) return fail(error, capacity, "entering the host's mounts");
    bool found = lstat(path, &status) == 0;
    ssize_t length = found && S_ISLNK(status.st_mode) ? readlink(path, target, sizeof target - 1) : -1;
    if (setns(stage_namespace, CLONE_NEWNS) != 0) _exit(70);
    if (length > 0) {
      target[length] = 0;
      format(base->links[base->link_count][0], sizeof base->links[0][0], "%s", names[i]);
      format(base->links[base->link_count++][1], sizeof base->links[0][1], "%s", target);
    } else if (found && S_ISDIR(status.st_mode)) {
      if (!place(id, path, names[i], &is_dir, error, capacity)) return false;
      format(base->trees[base->tree_count++], sizeof base->trees[0], "%s", names[i]);
    }
  }
  if (!base->has_usr && base->tree_count == 0) return false;
  return true;
}

static bool fill_base(uint32_t id, struct base *base, const uint8_t *settings, size_t length, char *error, size_t capacity) {
  bool is_dir;
  const char *value, *root = setting(settings, length, "root");
  memset(base, 0, sizeof *base);
  base->directory = root != NULL;
  if (root != NULL) {
    if (!place(id, root, "root", &is_dir, error, capacity)) return false;
    if (!is_dir) {
      format(error, capacity, "%s is not a folder", root);
      return false;
    }
  } else if (setting(settings, length, "bare") != NULL) {
    base->bare = true;
  } else if (!place_host(id, base, error, capacity)) {
    return false;
  }
  for (size_t cursor = 0; (value = setting_next(settings, length, "bind", &cursor)) != NULL;) {
    char host[PATH_SIZE];
    if (base->bind_count == MAX_BINDS || value[0] != '/' || strlen(value) >= PATH_SIZE - 8) continue;
    format(host, sizeof host, "%s", value);
    /* Profiles list what a system may have; what this one lacks is left out. */
    if (!place(id, host, value + 1, &base->bind_is_dir[base->bind_count], error, capacity)) continue;
    format(base->binds[base->bind_count++], PATH_SIZE, "%s", value + 1);
  }
  for (size_t cursor = 0; (value = setting_next(settings, length, "mask", &cursor)) != NULL;) {
    if (base->mask_count == MAX_MASKS) {
      format(error, capacity, "more than %d masked paths", MAX_MASKS);
      return false;
    }
    format(base->masks[base->mask_count++], PATH_SIZE, "%s", value);
  }
  base->used = true;
  return true;
}

/* Whether the mount, with those below it, can be shown with other ids. */
static bool can_be_lent(const char *path) {
  int copy = mount_with_ids(path, mapping_namespace);
  if (copy >= 0) close(copy);
  return copy >= 0;
}

/* With the host's ids, to be lent, where sandboxes have ranges of their own and all of it can be shown with others. */
bool stage_base(uint32_t id, struct base *base, const struct level *level, const uint8_t *settings, size_t length, char *error,
                size_t capacity) {
  char path[32];
  format(path, sizeof path, "/base/%u", id);
  mkdir(path, 0755);
  lending = level->ranges && mount(path, path, NULL, MS_BIND, NULL) == 0;
  bool to_lend = lending, filled = fill_base(id, base, settings, length, error, capacity);
  lending = false;
  base->lent = to_lend && filled && can_be_lent(path);
  if (!to_lend || !filled || base->lent) return filled;
  umount2(path, MNT_DETACH);
  return fill_base(id, base, settings, length, error, capacity);
}

bool stage_layer(uint32_t layer, int mount, uint64_t *bytes, char *error, size_t capacity) {
  char path[64];
  struct statfs status;
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
  unlinkat(mount, "usr.up", AT_REMOVEDIR); /* where nothing was written to: overlays are the quicker, the fewer their layers */
  format(path, sizeof path, "/base/layer-%u", layer);
  if (mkdir(path, 0755) != 0 && errno != EEXIST) return fail(error, capacity, path);
  if (syscall(SYS_move_mount, mount, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) != 0)
    return fail(error, capacity, "placing the layer");
  if (syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &attributes, sizeof attributes) != 0 || statfs(path, &status) != 0) {
    fail(error, capacity, "making the layer read-only");
    stage_drop(layer);
    return false;
  }
  *bytes = (status.f_blocks - status.f_bfree) * (uint64_t)status.f_bsize;
  return true;
}

void stage_drop(uint32_t layer) {
  char path[64];
  format(path, sizeof path, "/base/layer-%u", layer);
  umount2(path, MNT_DETACH); /* sandboxes that stand on it keep it until they end */
  rmdir(path);
}

/* A folder of the host at `target` in the stage. */
static bool place_folder(const char *from, const char *target, bool writable, char *error, size_t capacity) {
  struct stat status;
  if (setns(host_namespace, CLONE_NEWNS) != 0) return fail(error, capacity, "entering the host's mounts");
  int fd = pick_up(from, writable);
  int saved = errno;
  if (setns(stage_namespace, CLONE_NEWNS) != 0) _exit(70);
  errno = saved;
  if (fd < 0) return fail(error, capacity, from);
  bool placed = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
  if (!placed) errno = ENOTDIR;
  if (placed && mkdir(target, 0755) != 0 && errno != EEXIST) placed = false;
  else if (placed) placed = syscall(SYS_move_mount, fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) == 0;
  if (!placed) fail(error, capacity, from);
  close(fd);
  return placed;
}

/* Layers on disk that could not be placed to be lent: few, and of one file system. */
static uint32_t *keeping;
static size_t keeping_count;

bool stage_keeps_ids(uint32_t layer) {
  for (size_t i = 0; i < keeping_count; i++)
    if (keeping[i] == layer) return true;
  return false;
}

static bool note_keeping(uint32_t layer) {
  if (stage_keeps_ids(layer)) return true;
  uint32_t *more = realloc(keeping, (keeping_count + 1) * sizeof *keeping);
  if (more == NULL) return false;
  keeping = more;
  keeping[keeping_count++] = layer;
  return true;
}

bool stage_stored(uint32_t layer, const char *path, const struct level *level, char *error, size_t capacity) {
  char target[64];
  format(target, sizeof target, "/base/layer-%u", layer);
  lending = level->ranges;
  bool placed = place_folder(path, target, false, error, capacity);
  lending = false;
  if (!placed || !level->ranges || can_be_lent(target)) return placed;
  umount2(target, MNT_DETACH);
  if (!note_keeping(layer)) return fail(error, capacity, target);
  return place_folder(path, target, false, error, capacity);
}

bool stage_target(const char *path, char *error, size_t capacity) {
  return place_folder(path, "/base/target", true, error, capacity);
}

/* The folder stays: removing it would take the mount away from the sandbox, too. */
void stage_target_end(void) { umount2("/base/target", MNT_DETACH); }
