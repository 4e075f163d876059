/* Folders, without ever following a link: for archives and what is removed. */
#include "init.h"

#include <dirent.h>

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
  if (unlinkat(parent, name, AT_REMOVEDIR) == 0) return gone;
  return gone && depth == 0 && (errno == EBUSY || errno == EROFS); /* in a container: a mount, which stays, empty */
}

bool remove_tree(int parent, const char *name) { return remove_below(parent, name, 0); }
