/*
 * What files hold, for the control process. All paths are resolved here, inside the sandbox. Without FILE_FOLLOW no link is
 * followed in any part of them, so that what an agent planted leads nowhere else; with it, links lead as far as the
 * sandbox's own root.
 */
#include "init.h"

#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/vfs.h>

int open_root(void) { return open(*private_root() == 0 ? "/" : private_root(), O_DIRECTORY | O_PATH | O_CLOEXEC); }

static int open_with_mode(const char *path, uint64_t flags, uint32_t mode, uint32_t file_flags) {
  uint64_t links = file_flags & FILE_FOLLOW ? RESOLVE_IN_ROOT : RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = links | RESOLVE_NO_MAGICLINKS};
  const char *relative = path + strspn(path, "/");
  int root = open_root();
  if (root < 0) return -1;
  int fd = (int)syscall(SYS_openat2, root, *relative == 0 ? "." : relative, &how, sizeof how);
  int saved = errno;
  close(root);
  errno = saved;
  return fd;
}

int open_path(const char *path, uint64_t flags, uint32_t file_flags) {
  return open_with_mode(path, flags, 0, file_flags);
}

/* A regular file, and none that the kernel makes up: init's own /proc would say things about init. */
static bool is_plain(int fd, struct stat *status) {
  struct statfs system;
  return fstat(fd, status) == 0 && S_ISREG(status->st_mode) && fstatfs(fd, &system) == 0 &&
         system.f_type != PROC_SUPER_MAGIC;
}

static void answer_failure(uint32_t request, const char *path, int error) {
  if (error == ENOENT || error == ENOTDIR) reply_error(request, FLAG_MISSING, "%.300s does not exist", path);
  else if (error == ELOOP) reply_error(request, 0, "%.300s is or passes through a symbolic link", path);
  else if (error == ENXIO || error == EISDIR) reply_error(request, 0, "%.300s is not a regular file", path);
  else reply_error(request, 0, "%.300s: %s", path, strerror(error));
}

struct range {
  uint64_t most;         /* bytes */
  uint64_t first, count; /* bytes, or lines from 1; `count` 0: to the end */
  uint32_t flags, reserved;
} __attribute__((packed));

/* Leaves in `content` what lies between the lines; true when the lines end before `most` bytes. */
static bool read_lines(int fd, const struct range *range, struct buffer *content) {
  static uint8_t chunk[CHUNK];
  uint64_t line = 1, end = range->count == 0 ? UINT64_MAX : range->first + range->count;
  ssize_t n;
  while (line < end && (n = read(fd, chunk, sizeof chunk)) > 0)
    for (ssize_t i = 0; i < n && line < end;) {
      uint8_t *newline = memchr(chunk + i, '\n', (size_t)(n - i));
      size_t part = newline == NULL ? (size_t)(n - i) : (size_t)(newline - chunk - i) + 1;
      if (line >= range->first) {
        if (buffer_length(content) + part > range->most) return false;
        buffer_append(content, chunk + i, part);
      }
      if (newline != NULL) line++;
      i += (ssize_t)part;
    }
  return true;
}

static bool read_bytes(int fd, const struct range *range, struct buffer *content) {
  static uint8_t chunk[CHUNK];
  ssize_t n = 0;
  if (lseek(fd, (off_t)range->first, SEEK_SET) < 0) return false;
  while (buffer_length(content) <= range->most && (n = read(fd, chunk, sizeof chunk)) > 0)
    buffer_append(content, chunk, (size_t)n);
  return n >= 0;
}

/* Payload: struct range, path. Reply: u64 size of the file, content. */
void file_read(uint32_t request, const uint8_t *payload, size_t length) {
  char path[PATH_SIZE];
  struct range range;
  struct stat status;
  struct buffer content = {0};
  if (length < sizeof range || length - sizeof range >= sizeof path) {
    reply_error(request, 0, "path is too long");
    return;
  }
  memcpy(&range, payload, sizeof range);
  memcpy(path, payload + sizeof range, length - sizeof range);
  path[length - sizeof range] = 0;
  /* O_NONBLOCK: a fifo must not make us wait for its other end. */
  int fd = open_path(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, range.flags);
  if (fd < 0) {
    answer_failure(request, path, errno);
    return;
  }
  bool plain = is_plain(fd, &status), lines = range.flags & FILE_LINES;
  uint64_t size = plain ? (uint64_t)status.st_size : 0;
  buffer_append(&content, &size, sizeof size);
  range.most += sizeof size; /* which are in the buffer, too */
  bool good = plain && (lines ? read_lines(fd, &range, &content) : read_bytes(fd, &range, &content));
  int error = errno;
  close(fd);
  size_t allowed = buffer_length(&content) < range.most ? buffer_length(&content) : (size_t)range.most;
  if (!plain) reply_error(request, 0, "%.300s is not a regular file", path);
  else if (!good && !lines) reply_error(request, 0, "%.300s: %s", path, strerror(error));
  else if (!good || (buffer_length(&content) > range.most && !(range.flags & FILE_PARTIAL)))
    reply_error(request, 0, "%.300s is larger than %llu bytes", path, (unsigned long long)(range.most - sizeof size));
  else reply(request, 0, content.data + content.start, allowed);
  buffer_free(&content);
}

/* Makes the folders above `path`, through links where there are some. */
static bool make_parents(const char *path) {
  char prefix[PATH_SIZE];
  int above = open_root();
  for (const char *slash = strchr(path + strspn(path, "/"), '/'); slash != NULL && above >= 0;
       slash = strchr(slash + 1, '/')) {
    format(prefix, sizeof prefix, "%.*s", (int)(slash - path), path);
    int next = open_path(prefix, O_DIRECTORY | O_PATH, FILE_FOLLOW);
    if (next < 0 && errno == ENOENT) {
      const char *name = strrchr(prefix, '/');
      if (mkdirat(above, name == NULL ? prefix : name + 1, 0755) == 0) next = open_path(prefix, O_DIRECTORY | O_PATH, FILE_FOLLOW);
    }
    int saved = errno;
    close(above);
    above = next;
    errno = saved;
  }
  if (above >= 0) close(above);
  return above >= 0;
}

struct writing {
  uint64_t offset;
  uint32_t mode; /* UINT32_MAX: as it is, or 0644 */
  uint32_t flags;
  uint32_t path_length, reserved;
} __attribute__((packed));

/* Payload: struct writing, path, content. */
void file_write(uint32_t request, const uint8_t *payload, size_t length) {
  char path[PATH_SIZE];
  struct writing writing;
  struct stat status;
  if (length >= sizeof writing) memcpy(&writing, payload, sizeof writing);
  if (length < sizeof writing || writing.path_length >= sizeof path || writing.path_length > length - sizeof writing) {
    reply_error(request, 0, "path is too long");
    return;
  }
  memcpy(path, payload + sizeof writing, writing.path_length);
  path[writing.path_length] = 0;
  payload += sizeof writing + writing.path_length;
  length -= sizeof writing + writing.path_length;
  if (writing.flags & FILE_PARENTS && !make_parents(path)) {
    answer_failure(request, path, errno);
    return;
  }
  int fd = open_with_mode(path, O_CREAT | O_WRONLY | O_NONBLOCK | O_NOCTTY, 0644, writing.flags);
  if (fd < 0) {
    answer_failure(request, path, errno);
    return;
  }
  bool plain = is_plain(fd, &status);
  bool good = plain && (!(writing.flags & FILE_TRUNCATE) || ftruncate(fd, 0) == 0) &&
              lseek(fd, (off_t)writing.offset, SEEK_SET) >= 0 && write_all(fd, payload, length) &&
              (writing.mode == UINT32_MAX || fchmod(fd, writing.mode & 07777) == 0);
  int error = errno;
  close(fd);
  if (!plain) reply_error(request, 0, "%.300s is not a regular file", path);
  else if (!good) reply_error(request, 0, "%.300s: %s", path, strerror(error));
  else reply(request, 0, NULL, 0);
}
