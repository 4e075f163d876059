/*
 * Files for the control process. All paths are resolved here, inside the sandbox, and no link is followed in any part of
 * them: what an agent planted can neither lead out nor elsewhere.
 */
#include "init.h"

#include <dirent.h>
#include <linux/openat2.h>

static int open_beneath(int from, const char *path, uint64_t flags) {
  struct open_how how = {.flags = flags | O_CLOEXEC,
                         .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
  return (int)syscall(SYS_openat2, from, path, &how, sizeof how);
}

static int open_root(void) { return open("/", O_DIRECTORY | O_PATH | O_CLOEXEC); }

int open_folder(int from, const char *path, bool create) {
  char copy[PATH_SIZE], *state = NULL;
  int folder = from >= 0 ? dup(from) : open_root();
  if (strlen(path) >= sizeof copy) {
    errno = ENAMETOOLONG;
    return -1;
  }
  format(copy, sizeof copy, "%s", path);
  for (char *part = strtok_r(copy, "/", &state); part != NULL && folder >= 0; part = strtok_r(NULL, "/", &state)) {
    if (strcmp(part, ".") == 0) continue;
    int next = -1;
    if (strcmp(part, "..") == 0) errno = EINVAL;
    else if (!create || mkdirat(folder, part, 0755) == 0 || errno == EEXIST)
      next = openat(folder, part, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int saved = errno;
    close(folder);
    folder = next;
    errno = saved;
  }
  return folder;
}

/* Reads a regular file whole, or answers why not. */
static void send_file(uint32_t request, int fd, uint64_t at_most, const char *path) {
  struct stat status;
  struct buffer content = {0};
  static uint8_t chunk[CHUNK];
  ssize_t n = 0;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    reply_error(request, 0, "%s is not a regular file", path);
    return;
  }
  while (buffer_length(&content) <= at_most && (n = read(fd, chunk, sizeof chunk)) > 0)
    buffer_append(&content, chunk, (size_t)n);
  if (n < 0) reply_error(request, 0, "%s: %s", path, strerror(errno));
  else if (buffer_length(&content) > at_most)
    reply_error(request, 0, "%s is larger than %llu bytes", path, (unsigned long long)at_most);
  else reply(request, 0, content.data + content.start, buffer_length(&content));
  buffer_free(&content);
}

void file_read(uint32_t request, const uint8_t *payload, size_t length) {
  char path[PATH_SIZE];
  uint64_t at_most;
  if (length < sizeof at_most || length - sizeof at_most >= sizeof path) {
    reply_error(request, 0, "path is too long");
    return;
  }
  memcpy(&at_most, payload, sizeof at_most);
  memcpy(path, payload + sizeof at_most, length - sizeof at_most);
  path[length - sizeof at_most] = 0;
  const char *relative = path + strspn(path, "/");
  int root = open_root();
  /* O_NONBLOCK: a fifo must not make us wait for its other end. */
  int fd = root < 0 ? -1 : open_beneath(root, relative, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  int error = errno;
  if (root >= 0) close(root);
  if (fd >= 0) {
    send_file(request, fd, at_most, path);
    close(fd);
  } else if (error == ENOENT || error == ENOTDIR) {
    reply_error(request, FLAG_MISSING, "%s does not exist", path);
  } else if (error == ELOOP) {
    reply_error(request, 0, "%s is or passes through a symbolic link", path);
  } else if (error == ENXIO) {
    reply_error(request, 0, "%s is not a regular file", path);
  } else {
    reply_error(request, 0, "%s: %s", path, strerror(error));
  }
}

static bool remove_below(int parent, const char *name, int depth) {
  if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return true;
  if (depth > MAX_DEPTH * 8) return false;
  int folder = openat(parent, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
  DIR *directory = folder >= 0 ? fdopendir(folder) : NULL;
  if (directory == NULL) return false;
  bool gone = true;
  for (struct dirent *item; (item = readdir(directory)) != NULL;)
    if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
      gone = remove_below(dirfd(directory), item->d_name, depth + 1) && gone;
  closedir(directory);
  return unlinkat(parent, name, AT_REMOVEDIR) == 0 && gone;
}

bool remove_tree(int parent, const char *name) { return remove_below(parent, name, 0); }
