/*
 * Which of some paths a sandbox has written to: those that its own upper layer has something at, a whiteout included. Only
 * looks things up, below the layer and through no link; what is there is not opened.
 */
#include "broker.h"

#include <linux/openat2.h>
#include <sched.h>
#include <sys/wait.h>

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

/* Appends those of the paths that were written to. */
static void look(int writable, const uint8_t *payload, size_t length, struct buffer *found) {
  const char *path;
  for (size_t cursor = 0; (path = setting_next(payload, length, "path", &cursor)) != NULL;) {
    bool is_usr = strncmp(path, "/usr/", 5) == 0;
    if (path[0] != '/' || strlen(path) >= PATH_SIZE) continue;
    if (has(writable, "root", path) || (is_usr && has(writable, "usr", path + 4)))
      buffer_append(found, path, strlen(path) + 1);
  }
}

/* Where the files have ids that are not ours, a child looks, which becomes the root of those ids. */
static bool look_as_root(int writable, const uint8_t *payload, size_t length, struct buffer *found) {
  char chunk[4096];
  int told[2], status = 1;
  ssize_t n;
  if (pipe2(told, O_CLOEXEC) != 0) return false;
  pid_t child = fork();
  if (child == 0) {
    if (setns(broker.ids, CLONE_NEWUSER) != 0) _exit(1);
    look(writable, payload, length, found);
    _exit(write_all(told[1], found->data + found->start, buffer_length(found)) ? 0 : 1);
  }
  close(told[1]);
  while ((n = read(told[0], chunk, sizeof chunk)) > 0) buffer_append(found, chunk, (size_t)n);
  close(told[0]);
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* Payload: settings `path`, absolute. Reply: those that were written to, each ended by NUL; MISSING: that cannot be told. */
void sandbox_written(const struct frame_header *header, const uint8_t *payload) {
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  struct buffer found = {0};
  bool told = true;
  if (sandbox == NULL || sandbox->state != SANDBOX_LIVE) {
    answer_error(header->request, header->sandbox, "the sandbox is gone");
    return;
  }
  if (sandbox->writable < 0) told = false;
  else if (broker.level.subordinate > 0) told = look_as_root(sandbox->writable, payload, header->length, &found);
  else look(sandbox->writable, payload, header->length, &found);
  answer(header->request, header->sandbox, told ? 0 : FLAG_MISSING, found.data + found.start, told ? buffer_length(&found) : 0);
  buffer_free(&found);
}
