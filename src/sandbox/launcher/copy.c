/*
 * What a sandbox wrote, as the overlay keeps it, from one folder to another: files with their holes and several names,
 * folders with the mark that hides what lies below them, links, and the marks of what was removed. Devices, fifos and
 * sockets are skipped and counted. No other extended attributes: those of users that overlays would heed are not theirs.
 */
#include "init.h"

#include <dirent.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

enum { COPY_DEPTH = 500 };

static struct {
  int root; /* the target; names in `links` begin there */
  uint64_t bytes, skipped, entries;
  char error[ERROR_SIZE];
} copying;

static bool refuse(const char *path, const char *why) {
  if (copying.error[0] == 0) format(copying.error, sizeof copying.error, "%.300s: %s", path, why);
  return false;
}

static void copy_attributes(int parent, const char *name, const struct stat *status) {
  struct timespec times[2] = {status->st_atim, status->st_mtim};
  set_owner(parent, name, status->st_uid, status->st_gid);
  if (!S_ISLNK(status->st_mode)) fchmodat(parent, name, status->st_mode & 07777, 0);
  utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW);
}

/* The parts of a file that hold something. */
static bool copy_content(int from, int to, const char *path, off_t size) {
  static char chunk[CHUNK];
  for (off_t at = 0; at < size;) {
    off_t data = lseek(from, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break; /* nothing but a hole */
    off_t end = data < 0 ? size : lseek(from, data, SEEK_HOLE);
    if (data < 0) data = at;
    if (end < 0 || end > size) end = size;
    for (at = data; at < end;) {
      size_t part = end - at < (off_t)sizeof chunk ? (size_t)(end - at) : sizeof chunk;
      ssize_t n = pread(from, chunk, part, at);
      if (n <= 0) return refuse(path, n < 0 ? strerror(errno) : "shorter than it was");
      for (ssize_t written = 0, m; written < n; written += m)
        if ((m = pwrite(to, chunk + written, (size_t)(n - written), at + written)) <= 0)
          return refuse(path, strerror(m < 0 ? errno : ENOSPC));
      at += n;
      copying.bytes += (uint64_t)n;
    }
  }
  return ftruncate(to, size) == 0 ? true : refuse(path, strerror(errno));
}

static bool copy_file(int from, int to, const char *name, const char *path, const struct stat *status) {
  const char *first = link_find(status, path);
  if (first != NULL) return linkat(copying.root, first, to, name, 0) == 0 ? true : refuse(path, strerror(errno));
  int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (source < 0) return refuse(path, strerror(errno));
  int target = openat(to, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
  bool good = target >= 0 ? copy_content(source, target, path, status->st_size) : refuse(path, strerror(errno));
  close(source);
  if (target >= 0) close(target);
  if (good) copy_attributes(to, name, status);
  return good;
}

static bool copy_link(int from, int to, const char *name, const char *path, const struct stat *status) {
  char target[PATH_MAX];
  ssize_t n = readlinkat(from, name, target, sizeof target - 1);
  if (n < 0) return refuse(path, strerror(errno));
  target[n] = 0;
  if (symlinkat(target, to, name) != 0) return refuse(path, strerror(errno));
  copy_attributes(to, name, status);
  return true;
}

static bool copy_below(int from, int to, const char *path, int depth);

static bool copy_folder(int from, int to, const char *name, const char *path, int depth, const struct stat *status) {
  char mark = 0;
  if (depth > COPY_DEPTH) return refuse(path, "folders are nested too deeply");
  if (mkdirat(to, name, 0700) != 0) return refuse(path, strerror(errno));
  int source = openat(from, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
  int target = openat(to, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
  bool good = source >= 0 && target >= 0 ? true : refuse(path, strerror(errno));
  if (good && fgetxattr(source, OPAQUE_ATTRIBUTE, &mark, 1) == 1 && mark == 'y')
    good = fsetxattr(target, OPAQUE_ATTRIBUTE, "y", 1, 0) == 0 ? true : refuse(path, strerror(errno));
  good = good && copy_below(source, target, path, depth);
  if (source >= 0) close(source);
  if (target >= 0) close(target);
  if (good) copy_attributes(to, name, status);
  return good;
}

static bool copy_entry(int from, int to, const char *name, const char *path, int depth) {
  struct stat status;
  copying.entries++;
  if (fstatat(from, name, &status, AT_SYMLINK_NOFOLLOW) != 0) return refuse(path, strerror(errno));
  if (S_ISREG(status.st_mode)) return copy_file(from, to, name, path, &status);
  if (S_ISLNK(status.st_mode)) return copy_link(from, to, name, path, &status);
  if (S_ISDIR(status.st_mode)) return copy_folder(from, to, name, path, depth + 1, &status);
  if (S_ISCHR(status.st_mode) && status.st_rdev == makedev(0, 0))
    return mknodat(to, name, S_IFCHR, makedev(0, 0)) == 0 ? true : refuse(path, strerror(errno));
  copying.skipped++;
  return true;
}

static bool copy_below(int from, int to, const char *path, int depth) {
  char below[PATH_MAX];
  int again = dup(from);
  DIR *directory = again >= 0 ? fdopendir(again) : NULL;
  if (directory == NULL) return refuse(path, strerror(errno));
  bool good = true;
  for (struct dirent *item; good && (item = readdir(directory)) != NULL;) {
    if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0) continue;
    int length = snprintf(below, sizeof below, "%s%s%s", path, *path != 0 ? "/" : "", item->d_name);
    good = length < (int)sizeof below ? copy_entry(from, to, item->d_name, below, depth)
                                      : refuse(path, "a path is too long");
  }
  closedir(directory);
  return good;
}

/* Payload, as settings: from, to (folders; `to` is made), sync. */
void layer_copy(uint32_t request, const uint8_t *payload, size_t length) {
  const char *from = setting(payload, length, "from"), *to = setting(payload, length, "to");
  uint64_t answer[3];
  struct stat status = {0};
  memset(&copying, 0, sizeof copying);
  if (from == NULL || to == NULL) {
    reply_error(request, 0, "bad request");
    return;
  }
  int source = open_folder(-1, from, false);
  copying.root = source < 0 ? -1 : open_folder(-1, to, true);
  bool good = copying.root >= 0 && fstat(source, &status) == 0 ? true : refuse(from, strerror(errno));
  good = good && copy_below(source, copying.root, "", 0);
  if (good) {
    copy_attributes(copying.root, ".", &status);
    if (setting_number(payload, length, "sync", 0) != 0 && syncfs(copying.root) != 0) good = refuse(to, strerror(errno));
  }
  links_forget();
  if (source >= 0) close(source);
  if (copying.root >= 0) close(copying.root);
  answer[0] = copying.bytes;
  answer[1] = copying.skipped;
  answer[2] = copying.entries;
  if (good) reply(request, 0, answer, sizeof answer);
  else reply_error(request, 0, "%s", copying.error);
}
