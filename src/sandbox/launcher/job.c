/* One-shot programs, outside the shells. */
#include "init.h"

#include <sys/wait.h>

enum { DRAIN_MAX = 1 << 20 };

static struct job {
  bool active, killed;
  bool closed, errors_closed; /* everyone closed the stream; the exit code comes with SIGCHLD */
  uint32_t request;
  pid_t pid;
  int input, output, errors, code; /* descriptors: −1 where there is none */
  enum status reason;
  struct buffer unsent;
  struct capture capture, error_capture;
  int64_t started, deadline;
} jobs[MAX_JOBS];

bool jobs_busy(void) {
  for (int i = 0; i < MAX_JOBS; i++)
    if (jobs[i].active) return true;
  return false;
}

/* Pipes of a job: [0] standard input, [1] output, [2] errors, [3] the word whether it started. */
struct pipes {
  int ends[4][2];
};

static void close_end(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static bool open_job_pipes(struct pipes *pipes, bool input, bool errors) {
  bool wanted[4] = {input, true, errors, true}, good = true;
  for (int i = 0; i < 4; i++) {
    pipes->ends[i][0] = pipes->ends[i][1] = -1;
    if (good && wanted[i]) good = pipe2(pipes->ends[i], O_CLOEXEC) == 0;
  }
  int saved = errno;
  for (int i = 0; i < 4 && !good; i++) {
    close_end(&pipes->ends[i][0]);
    close_end(&pipes->ends[i][1]);
  }
  errno = saved;
  return good;
}

static void become_job(const struct launch *launch, const struct pipes *pipes) {
  setsid();
  int errors = pipes->ends[2][1] >= 0 ? pipes->ends[2][1] : pipes->ends[1][1];
  if ((pipes->ends[0][0] < 0 || dup2(pipes->ends[0][0], 0) >= 0) && dup2(pipes->ends[1][1], 1) >= 0 &&
      dup2(errors, 2) >= 0)
    launch_become(launch, pipes->ends[3][1]);
  _exit(127);
}

/* Where the whole output goes, besides what is kept of it. Links are not followed. */
static int open_log(const char *path) {
  struct stat status;
  int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
  if (fd < 0 || (fstat(fd, &status) == 0 && S_ISREG(status.st_mode))) return fd;
  close(fd);
  errno = EINVAL;
  return -1;
}

static void send_input(struct job *job) {
  while (job->input >= 0 && buffer_length(&job->unsent) > 0) {
    ssize_t n = write(job->input, job->unsent.data + job->unsent.start, buffer_length(&job->unsent));
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) break; /* nobody reads any more */
    buffer_consume(&job->unsent, (size_t)n);
  }
  close_end(&job->input);
  buffer_free(&job->unsent);
}

static void adopt(struct job *job, const struct launch *launch, const struct pipes *pipes) {
  job->input = pipes->ends[0][1];
  job->output = pipes->ends[1][0];
  job->errors = pipes->ends[2][0];
  int *fds[] = {&job->input, &job->output, &job->errors};
  for (int i = 0; i < 3; i++)
    if (*fds[i] >= 0) fcntl(*fds[i], F_SETFL, O_NONBLOCK);
  job->deadline = launch->head.first == UINT32_MAX ? INT64_MAX : job->started + (int64_t)launch->head.first * 1000;
  capture_start(&job->capture, launch->head.second);
  if (job->errors >= 0) capture_start(&job->error_capture, launch->head.second);
  if (job->input < 0) return;
  buffer_append(&job->unsent, launch->input, launch->head.input);
  send_input(job);
}

/* `first` of the head: milliseconds, or UINT32_MAX for no limit; `second`: bytes of output to keep. */
void job_start(uint32_t request, const uint8_t *payload, size_t length) {
  static struct launch launch;
  struct pipes pipes;
  int slot = 0, log = -1;
  while (slot < MAX_JOBS && jobs[slot].active) slot++;
  if (slot == MAX_JOBS) {
    reply_error(request, 0, "%d programs run already", MAX_JOBS);
    return;
  }
  if (!launch_parse(request, payload, length, &launch)) return;
  if (launch.argument_count < 1) {
    reply_error(request, 0, "bad request");
    return;
  }
  if (*launch.log != 0 && (log = open_log(launch.log)) < 0) {
    reply_error(request, 0, "%s: %s", launch.log, strerror(errno));
    return;
  }
  if (!open_job_pipes(&pipes, launch.head.flags & LAUNCH_INPUT, launch.head.flags & LAUNCH_SEPARATE)) {
    reply_error(request, 0, "pipe: %s", strerror(errno));
    if (log >= 0) close(log);
    return;
  }
  struct job *job = &jobs[slot];
  *job = (struct job){.request = request, .started = now_us()};
  job->pid = fork_program();
  if (job->pid == 0) become_job(&launch, &pipes);
  int fork_error = errno;
  for (int i = 0; i < 4; i++) close_end(&pipes.ends[i][i == 0 ? 0 : 1]);
  bool started = launch_started(request, &launch, job->pid, pipes.ends[3][0], fork_error);
  close_end(&pipes.ends[3][0]);
  if (!started) {
    for (int i = 0; i < 3; i++) close_end(&pipes.ends[i][i == 0 ? 1 : 0]);
    if (log >= 0) close(log);
    return;
  }
  job->active = true;
  adopt(job, &launch, &pipes);
  job->capture.log = log;
  job->capture.log_left = log < 0 ? 0 : launch.head.log_limit;
}

static void finish(struct job *job) {
  watch_limits();
  struct result result = {.status = job->killed ? job->reason : STATUS_EXITED,
                          .code = job->code,
                          .us = (uint64_t)(now_us() - job->started)};
  capture_drain(&job->capture, job->output, DRAIN_MAX);
  if (job->errors >= 0) capture_drain(&job->error_capture, job->errors, DRAIN_MAX);
  close_end(&job->input);
  close_end(&job->output);
  bool separate = job->errors >= 0;
  close_end(&job->errors);
  buffer_free(&job->unsent);
  job->active = false;
  reply_results(job->request, &result, &job->capture, separate ? &job->error_capture : NULL, "");
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
  for (int i = 0; i < MAX_JOBS; i++) {
    struct job *job = &jobs[i];
    if (!job->active) continue;
    if (!job->closed) entries[count++] = (struct pollfd){.fd = job->output, .events = POLLIN};
    if (job->errors >= 0 && !job->errors_closed) entries[count++] = (struct pollfd){.fd = job->errors, .events = POLLIN};
    if (job->input >= 0) entries[count++] = (struct pollfd){.fd = job->input, .events = POLLOUT};
  }
  return count;
}

static void job_event(struct job *job, int fd) {
  if (fd == job->input) send_input(job);
  else if (fd == job->output) job->closed = !capture_drain(&job->capture, fd, DRAIN_MAX);
  else if (fd == job->errors) job->errors_closed = !capture_drain(&job->error_capture, fd, DRAIN_MAX);
  if (job->capture.log < 0 && (capture_flooded(&job->capture) || capture_flooded(&job->error_capture)))
    end(job, STATUS_OUTPUT_LIMIT);
}

void jobs_events(const struct pollfd *entries, int count) {
  for (int k = 0; k < count; k++) {
    if (entries[k].revents == 0) continue;
    for (int i = 0; i < MAX_JOBS; i++) {
      struct job *job = &jobs[i];
      int fd = entries[k].fd;
      if (job->active && (fd == job->input || fd == job->output || fd == job->errors)) {
        job_event(job, fd);
        break;
      }
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

void jobs_shift(int64_t us) {
  for (int i = 0; i < MAX_JOBS; i++)
    if (jobs[i].active && jobs[i].deadline != INT64_MAX) jobs[i].deadline += us;
}

void jobs_killed(void) {
  for (int i = 0; i < MAX_JOBS; i++) {
    if (!jobs[i].active) continue;
    jobs[i].code = 128 + SIGKILL;
    finish(&jobs[i]);
  }
}
