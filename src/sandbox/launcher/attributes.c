/* What is known about files, and changing it. */
#include "init.h"

#include <dirent.h>

struct attributes {
  uint32_t kind; /* 'f', 'd', 'l' or 'o' for others */
  uint32_t mode, uid, gid;
  uint64_t size;
  int64_t mtime_ns;
} __attribute__((packed));

static bool one_owner;

void files_have_one_owner(void) { one_owner = true; }

void set_owner(int parent, const char *name, uid_t uid, gid_t gid) {
  /* Where there is no such id, it belongs to root. */
  if (!one_owner && fchownat(parent, name, uid, gid, AT_SYMLINK_NOFOLLOW) != 0) errno = 0;
}

static bool take_path(uint32_t request, const uint8_t *payload, size_t length, char path[PATH_SIZE]) {
  if (length >= PATH_SIZE) {
    reply_error(request, 0, "path is too long");
    return false;
  }
  memcpy(path, payload, length);
  path[length] = 0;
  return true;
}

/* Payload: u32 flags, path. */
void file_stat(uint32_t request, const uint8_t *payload, size_t length) {
  char path[PATH_SIZE];
  uint32_t flags = 0;
  struct stat status;
  if (length < 4 || !take_path(request, payload + 4, length - 4, path)) return;
  memcpy(&flags, payload, 4);
  int fd = open_path(path, O_PATH | (flags & FILE_FOLLOW ? 0 : O_NOFOLLOW), FILE_FOLLOW);
  if (fd < 0 || fstat(fd, &status) != 0) {
    int error = errno;
    if (fd >= 0) close(fd);
    bool missing = error == ENOENT || error == ENOTDIR;
    reply_error(request, missing ? FLAG_MISSING : 0, "%.300s: %s", path, strerror(error));
    return;
  }
  close(fd);
  struct attributes found = {
      .kind = S_ISREG(status.st_mode) ? 'f' : S_ISDIR(status.st_mode) ? 'd' : S_ISLNK(status.st_mode) ? 'l' : 'o',
      .mode = status.st_mode & 07777,
      .uid = status.st_uid,
      .gid = status.st_gid,
      .size = (uint64_t)status.st_size,
      .mtime_ns = (int64_t)status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec};
  reply(request, 0, &found, sizeof found);
}

enum { CHANGE_MODE = 1, CHANGE_OWNER = 2, CHANGE_RECURSIVE = 4 };
struct change {
  uint32_t what, mode;
  uint32_t uid, gid; /* UINT32_MAX: as it is */
};

static bool change_one(int parent, const char *name, const struct stat *status, const struct change *change) {
  if (change->what & CHANGE_OWNER && fchownat(parent, name, change->uid, change->gid, AT_SYMLINK_NOFOLLOW) != 0)
    return false;
  if (!(change->what & CHANGE_MODE) || S_ISLNK(status->st_mode)) return true;
  /* By descriptor: between looking and changing, the name may have become a link. */
  int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  char own[64];
  struct stat now;
  format(own, sizeof own, "/proc/self/fd/%d", fd);
  bool good = fd >= 0 && fstat(fd, &now) == 0 && (S_ISLNK(now.st_mode) || chmod(own, change->mode) == 0);
  int saved = errno;
  if (fd >= 0) close(fd);
  errno = saved;
  return good;
}

static bool change_tree(int parent, const char *name, const struct change *change, int depth) {
  struct stat status;
  if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT && depth > 0;
  if (!change_one(parent, name, &status, change)) return false;
  if (!(change->what & CHANGE_RECURSIVE) || !S_ISDIR(status.st_mode) || depth > MAX_DEPTH) return true;
  int folder = openat(parent, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
  DIR *directory = folder >= 0 ? fdopendir(folder) : NULL;
  if (directory == NULL) return false;
  bool good = true;
  for (struct dirent *item; good && (item = readdir(directory)) != NULL;)
    if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
      good = change_tree(dirfd(directory), item->d_name, change, depth + 1);
  int saved = errno;
  closedir(directory);
  errno = saved;
  return good;
}

/* "user", "user:group", ":group", by name or number. With "user" alone the group is the user's. */
static bool find_owner(uint32_t request, char *owner, struct change *change) {
  struct user user;
  char *group = strchr(owner, ':');
  if (group != NULL) *group++ = 0;
  change->uid = change->gid = UINT32_MAX;
  if (*owner != 0) {
    if (!user_find(owner, &user)) {
      reply_error(request, 0, "there is no user %.64s in the sandbox", owner);
      return false;
    }
    change->uid = user.uid;
    change->gid = user.gid;
  }
  if (group == NULL || *group == 0 || group_find(group, &change->gid)) return true;
  reply_error(request, 0, "there is no group %.64s in the sandbox", group);
  return false;
}

/* Payload: u32 what, u32 mode, owner, NUL, path. */
void file_change(uint32_t request, const uint8_t *payload, size_t length) {
  struct change change = {0};
  char path[PATH_SIZE], owner[128];
  size_t owner_length = length <= 8 ? 0 : strnlen((const char *)payload + 8, length - 8);
  if (length <= 8 + owner_length || owner_length >= sizeof owner) {
    reply_error(request, 0, "bad request");
    return;
  }
  memcpy(&change, payload, 8);
  memcpy(owner, payload + 8, owner_length + 1);
  if (!take_path(request, payload + 9 + owner_length, length - 9 - owner_length, path)) return;
  if (change.what & CHANGE_OWNER && !find_owner(request, owner, &change)) return;
  char *slash = strrchr(path, '/');
  const char *name = slash == NULL ? path : slash + 1;
  int parent = -1;
  if (*name == 0) errno = EINVAL; /* the root stays as it is */
  else {
    if (slash != NULL) *slash = 0;
    parent = open_path(slash == NULL ? "/" : path, O_DIRECTORY | O_PATH, FILE_FOLLOW);
  }
  bool good = parent >= 0 && change_tree(parent, name, &change, 0);
  int error = errno;
  if (parent >= 0) close(parent);
  if (slash != NULL) *slash = '/';
  if (good) reply(request, 0, NULL, 0);
  else reply_error(request, error == ENOENT || error == ENOTDIR ? FLAG_MISSING : 0, "%.300s: %s", path, strerror(error));
}
