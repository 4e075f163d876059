/*
 * Mounts that the factory shows a new sandbox with that sandbox's own ids (id-mapped): what earlier sandboxes wrote, and as root
 * the base it stands on. The sandbox itself may not make such mounts, so they are handed to it while it waits to be started.
 */
#include "launcher.h"

#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/utsname.h>

#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif

/* Of file systems in memory; earlier kernels cannot. */
bool can_show_with_ids(void) {
  struct utsname system;
  int major = 0, minor = 0;
  return uname(&system) == 0 && sscanf(system.release, "%d.%d", &major, &minor) == 2 && major * 1000 + minor >= 6003;
}

int mount_with_ids(const char *path, int namespace) {
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)namespace};
  int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
  if (fd < 0 || syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) == 0) return fd;
  int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

/* Those in memory; as root, of those on disk the ones that could be placed so. */
static bool is_lent(uint32_t layer, const struct level *level) {
  return (layer & STORED_LAYER) == 0 || (level->ranges && !stage_keeps_ids(layer));
}

/* The `i`th of what the sandbox gets: its base, then its layers. False when there are no more; an empty path: not this one. */
static bool lent_path(uint32_t i, const struct sandbox_spec *spec, const struct level *level, const struct base *base, char path[64]) {
  *path = 0;
  if (spec->ids == 0 && !level->ranges) return false;
  if (i == 0) {
    if (!spec->store && base->lent) format(path, 64, "/base/%u", spec->base);
    return true;
  }
  if (i > spec->layer_count) return false;
  if (is_lent(spec->layers[i - 1], level)) format(path, 64, "/base/layer-%u", spec->layers[i - 1]);
  return true;
}

bool lend_mounts(int to, pid_t pid, const struct sandbox_spec *spec, const struct level *level, const struct base *base) {
  char path[64];
  int namespace = -1;
  bool good = true;
  for (uint32_t i = 0; good && lent_path(i, spec, level, base, path); i++) {
    if (*path == 0) continue;
    if (namespace < 0) {
      char own[64];
      format(own, sizeof own, "/proc/%d/ns/user", pid);
      namespace = open(own, O_RDONLY | O_CLOEXEC);
    }
    int fd = namespace < 0 ? -1 : mount_with_ids(path, namespace);
    good = fd >= 0 && send_packet(to, &i, sizeof i, &fd, 1);
    int saved = errno;
    if (fd >= 0) close(fd);
    errno = saved;
  }
  int saved = errno;
  if (namespace >= 0) close(namespace);
  errno = saved;
  return good;
}

void take_mounts(int from, const struct sandbox_spec *spec, const struct level *level, const struct base *base) {
  char path[64];
  for (uint32_t i = 0; lent_path(i, spec, level, base, path); i++) {
    int fd = -1, count = 1;
    uint32_t index;
    if (*path == 0) continue;
    if (receive_packet(from, &index, sizeof index, &fd, &count, 0) != sizeof index || count != 1) _exit(125);
    if (syscall(SYS_move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) != 0) setup_fail(path);
    close(fd);
  }
}
