/*
 * Which of some paths a sandbox has written to: those that its own upper layer has something at, a whiteout included. Only
 * looks things up, below the layer and through no link; what is there is not opened.
 */
#include "broker.h"

#include <linux/openat2.h>

/* `name`.up holds what was written below `path`, the rest of which is left. */
static bool has(int writable, const char *name, const char *rest) {
  char path[PATH_SIZE + 16];
  struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
  format(path, sizeof path, "%s.up%s", name, rest);
  int fd = (int)syscall(SYS_openat2, writable, path, &how, sizeof how);
  if (fd >= 0) close(fd);
  /* A link, a file or a closed folder on the way there is not how it was made. */
  return fd >= 0 || errno == ELOOP || errno == ENOTDIR || errno == EACCES;
}

/* Payload: settings `path`, absolute. Reply: those that were written to, each ended by NUL; MISSING: that cannot be told. */
void sandbox_written(const struct frame_header *header, const uint8_t *payload) {
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  struct buffer found = {0};
  const char *path;
  if (sandbox == NULL || sandbox->state != SANDBOX_LIVE) {
    answer_error(header->request, header->sandbox, "the sandbox is gone");
    return;
  }
  if (sandbox->writable < 0) {
    answer(header->request, header->sandbox, FLAG_MISSING, NULL, 0);
    return;
  }
  for (size_t cursor = 0; (path = setting_next(payload, header->length, "path", &cursor)) != NULL;) {
    bool is_usr = strncmp(path, "/usr/", 5) == 0;
    if (path[0] != '/' || strlen(path) >= PATH_SIZE) continue;
    if (has(sandbox->writable, "root", path) || (is_usr && has(sandbox->writable, "usr", path + 4)))
      buffer_append(&found, path, strlen(path) + 1);
  }
  answer(header->request, header->sandbox, 0, found.data + found.start, buffer_length(&found));
  buffer_free(&found);
}
