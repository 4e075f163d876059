/* One-shot programs, outside the shell. */
#include "init.h"

#include <sys/wait.h>

enum { MAX_ARGUMENTS = 1024, DRAIN_MAX = 1 << 20 };

static struct job {
  bool active, killed;
  bool closed; /* everyone closed the output; the exit code comes with SIGCHLD */
  uint32_t request;
  pid_t pid;
  int output, code;
  enum status reason;
  struct capture capture;
  int64_t started, deadline;
  uint64_t started_ticks;
} jobs[MAX_JOBS];

bool jobs_busy(void) {
  for (int i = 0; i < MAX_JOBS; i++)
    if (jobs[i].active) return true;
  return false;
}

/* Payload: u32 milliseconds, u32 bytes, then NUL-ended strings: folder, program, arguments. */
static int parse_arguments(const uint8_t *payload, size_t length, char **arguments) {
  int count = 0;
  for (size_t at = 8; at < length && count < MAX_ARGUMENTS; count++) {
    size_t part = strnlen((const char *)payload + at, length - at);
    if (at + part == length) return -1; /* the last string is not ended */
    arguments[count] = (char *)payload + at;
    at += part + 1;
  }
  arguments[count] = NULL;
  return count;
}

static void become_program(char *const *arguments, int output, int told) {
  setsid();
  if (dup2(output, 1) >= 0 && dup2(output, 2) >= 0 && chdir(arguments[0]) == 0) {
    reset_signals();
    environ = (char **)sandbox_environment;
    execvp(arguments[1], arguments + 1);
  }
  int error = errno;
  write_all(told, &error, sizeof error);
  _exit(127);
}

void job_start(uint32_t request, const uint8_t *payload, size_t length) {
  char *arguments[MAX_ARGUMENTS + 1];
  uint32_t limits[2];
  int output[2], told[2], error = 0, slot = 0;
  while (slot < MAX_JOBS && jobs[slot].active) slot++;
  if (slot == MAX_JOBS || length < 8 || parse_arguments(payload, length, arguments) < 2) {
    reply_error(request, 0, slot == MAX_JOBS ? "%d programs run already" : "bad request", MAX_JOBS);
    return;
  }
  memcpy(limits, payload, sizeof limits);
  if (pipe2(output, O_CLOEXEC) != 0 || pipe2(told, O_CLOEXEC) != 0) {
    reply_error(request, 0, "pipe: %s", strerror(errno));
    return;
  }
  uint64_t ticks = clock_ticks();
  pid_t pid = fork();
  if (pid == 0) become_program(arguments, output[1], told[1]);
  if (pid < 0) error = errno;
  close(output[1]);
  close(told[1]);
  if (pid > 0 && read(told[0], &error, sizeof error) != sizeof error) error = 0; /* closed by a successful exec */
  close(told[0]);
  if (error != 0) {
    close(output[0]);
    reply_error(request, error == ENOENT ? FLAG_MISSING : 0, "%s: %s", arguments[1], strerror(error));
    return;
  }
  fcntl(output[0], F_SETFL, O_NONBLOCK);
  struct job *job = &jobs[slot];
  *job = (struct job){.active = true, .request = request, .pid = pid, .output = output[0], .started = now_us(),
                      .started_ticks = ticks};
  job->deadline = job->started + (int64_t)limits[0] * 1000;
  capture_start(&job->capture, limits[1]);
}

static void finish(struct job *job) {
  watch_limits();
  struct result result = {.status = job->killed ? job->reason : STATUS_EXITED,
                          .code = job->code,
                          .us = (uint64_t)(now_us() - job->started)};
  capture_drain(&job->capture, job->output, DRAIN_MAX);
  close(job->output);
  job->active = false;
  reply_result(job->request, &result, &job->capture, "");
}

static void end(struct job *job, enum status reason) {
  if (job->killed) return;
  job->killed = true;
  job->reason = reason;
  kill(-job->pid, SIGKILL);
  kill(job->pid, SIGKILL);
}

bool job_cancel(uint32_t request) {
  for (int i = 0; i < MAX_JOBS; i++)
    if (jobs[i].active && jobs[i].request == request) {
      end(&jobs[i], STATUS_TIMEOUT);
      return true;
    }
  return false;
}

int jobs_poll(struct pollfd *entries) {
  int count = 0;
  for (int i = 0; i < MAX_JOBS; i++)
    if (jobs[i].active && !jobs[i].closed) entries[count++] = (struct pollfd){.fd = jobs[i].output, .events = POLLIN};
  return count;
}

void jobs_events(const struct pollfd *entries, int count) {
  for (int k = 0; k < count; k++) {
    if (entries[k].revents == 0) continue;
    for (int i = 0; i < MAX_JOBS; i++) {
      struct job *job = &jobs[i];
      if (!job->active || job->output != entries[k].fd) continue;
      if (!capture_drain(&job->capture, job->output, DRAIN_MAX)) job->closed = true;
      if (capture_flooded(&job->capture)) end(job, STATUS_OUTPUT_LIMIT);
    }
  }
}

bool job_reaped(pid_t pid, int status) {
  for (int i = 0; i < MAX_JOBS; i++) {
    struct job *job = &jobs[i];
    if (!job->active || job->pid != pid) continue;
    job->code = exit_code(status);
    finish(job);
    return true;
  }
  return false;
}

void jobs_tick(int64_t now) {
  for (int i = 0; i < MAX_JOBS; i++)
    if (jobs[i].active && now >= jobs[i].deadline) end(&jobs[i], STATUS_TIMEOUT);
}

int64_t jobs_deadline(void) {
  int64_t first = INT64_MAX;
  for (int i = 0; i < MAX_JOBS; i++)
    if (jobs[i].active && !jobs[i].killed && jobs[i].deadline < first) first = jobs[i].deadline;
  return first;
}

void jobs_killed(void) {
  for (int i = 0; i < MAX_JOBS; i++) {
    if (!jobs[i].active) continue;
    jobs[i].code = 128 + SIGKILL;
    finish(&jobs[i]);
  }
}
