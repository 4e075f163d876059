/*
 * What to start: the common part of EXEC, SHELL_OPEN and TERMINAL_OPEN.
 *
 * Payload: struct launch_head; then strings, each ended by NUL: folder, user, log file, `environment` times KEY=VALUE, and
 * program and arguments; then `input` bytes.
 */
#include "init.h"

bool launch_parse(uint32_t request, const uint8_t *payload, size_t length, struct launch *launch) {
  memset(launch, 0, offsetof(struct launch, strings)); /* those are ended by NULL */
  if (length < sizeof launch->head) {
    reply_error(request, 0, "bad request");
    return false;
  }
  memcpy(&launch->head, payload, sizeof launch->head);
  const struct launch_head *head = &launch->head;
  if (head->input > length - sizeof *head || head->environment > MAX_STRINGS) {
    reply_error(request, 0, "bad request");
    return false;
  }
  size_t end = length - head->input, at = sizeof *head;
  int count = 0;
  for (; at < end && count < MAX_STRINGS; count++) {
    size_t part = strnlen((const char *)payload + at, end - at);
    if (at + part == end) break; /* the last string is not ended */
    launch->strings[count] = (char *)payload + at;
    at += part + 1;
  }
  launch->strings[count] = NULL;
  launch->argument_count = count - 3 - (int)head->environment;
  if (at != end || launch->argument_count < 0) {
    reply_error(request, 0, at == end ? "bad request" : "too many arguments and variables; at most %d", MAX_STRINGS);
    return false;
  }
  launch->folder = launch->strings[0];
  launch->log = launch->strings[2];
  launch->environment = launch->strings + 3;
  launch->arguments = launch->strings + 3 + head->environment;
  launch->input = payload + end;
  if (!user_find(launch->strings[1], &launch->user)) {
    reply_error(request, 0, "there is no user %.64s in the sandbox", launch->strings[1]);
    return false;
  }
  if (launch->user.uid != 0 && sandbox_has_one_user()) {
    reply_error(request, 0, "this isolation level has one user, root; %.64s cannot be had", launch->strings[1]);
    return false;
  }
  return true;
}

/* Where a child failed before it was the program; told together with the error number. */
enum { STAGE = 1 << 16, STAGE_USER = 1 * STAGE, STAGE_FOLDER = 2 * STAGE };

/* In the child, its descriptors 0, 1 and 2 in place. */
void launch_become(const struct launch *launch, int told) {
  int error = 0;
  if (!user_become(&launch->user)) error = STAGE_USER | errno;
  else if (!enter_folder(launch->folder)) error = STAGE_FOLDER | errno;
  if (error == 0) {
    reset_signals();
    environ = environment_for(&launch->user, launch->environment, (int)launch->head.environment);
    execvp(launch->arguments[0], launch->arguments);
    error = errno;
  }
  write_all(told, &error, sizeof error);
  _exit(127);
}

/* Waits until the child has become its program, or says why not. True when it has; otherwise the request is answered. */
bool launch_started(uint32_t request, const struct launch *launch, pid_t pid, int told, int fork_error) {
  int error = fork_error;
  if (pid > 0 && read(told, &error, sizeof error) != sizeof error) return true; /* closed by a successful exec */
  const char *why = strerror(error % STAGE);
  if (error / STAGE == 1) reply_error(request, 0, "becoming user %.64s: %s", launch->strings[1], why);
  else if (error / STAGE == 2) reply_error(request, 0, "entering %.300s: %s", launch->folder, why);
  else reply_error(request, error == ENOENT ? FLAG_MISSING : 0, "%.300s: %s", launch->arguments[0], why);
  return false;
}
