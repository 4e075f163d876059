/*
 * Pid 1 of a sandbox: reaps, runs commands, moves files, ends everything when told or when its socket closes. It is not
 * dumpable (no ptrace, no /proc/1/fd for the agent), its memory is the factory's, and it holds its socket and nothing of
 * the host's.
 */
#include "init.h"

#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/wait.h>

enum { TICK_US = 100000, SOCKET = 3 };
/* Where frames go; another descriptor than where they come from when an engine's pipes carry them. */
static int output = SOCKET;
/* The control groups that this process itself is in, where no broker tells what they know; else NULL. */
static const struct cgroups *own_groups;

char *const sandbox_environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                     "HOME=/root", "LANG=C.UTF-8", "LC_ALL=C", "TERM=dumb", NULL};

static uint32_t own_id;
static const struct level *own_level;
static uint64_t memory_limit;
static uint32_t pids_limit;
static uint32_t memory_events, pids_events, disk_events;
/* Rlimits level: nothing but init and shell was alive at the last look, so there is nothing to watch. */
static bool quiet;
static struct buffer inbox;
/* The kernel's limit on processes is loose, and is kept here. */
static bool enforce_processes;
/* On the file system whose size is the sandbox's limit. */
static const char *disk_place = "/";
static uint64_t memory_peak; /* rlimits level: the largest sum seen */
static int64_t paused_at;    /* 0: not paused */
static bool stopped;         /* paused by SIGSTOP, not by the control group */

/* Whoever we spoke with is gone. With process 1 of a namespace all others end by themselves. */
static void leave(void) __attribute__((noreturn));
static void leave(void) {
  for (int round = 0; round < 1000 && !is_whole_namespace() && signal_all(SIGKILL) > 0; round++) {
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    usleep(2000);
  }
  _exit(0);
}

static void send_frame(uint8_t op, uint8_t flags, uint32_t request, const void *data, size_t length) {
  struct frame_header header = {
      .length = (uint32_t)length, .op = op, .flags = flags, .request = request, .sandbox = own_id};
  if (!write_all(output, &header, sizeof header) || !write_all(output, data, length)) leave(); /* the broker is gone */
}

void reply(uint32_t request, uint8_t flags, const void *data, size_t length) {
  const uint8_t *bytes = data;
  while (length > CHUNK) {
    send_frame(OP_REPLY, flags | FLAG_MORE, request, bytes, CHUNK);
    bytes += CHUNK;
    length -= CHUNK;
  }
  send_frame(OP_REPLY, flags, request, bytes, length);
}

void reply_error(uint32_t request, uint8_t flags, const char *pattern, ...) {
  char text[ERROR_SIZE];
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  reply(request, flags | FLAG_ERROR, text, strlen(text));
}

/* Both ends of what was captured, and a note between them where something is missing. True when it is. */
static bool append_capture(struct buffer *message, const struct capture *capture) {
  char gap[64] = "";
  uint64_t kept = capture->head_used + capture->ring_used;
  if (kept < capture->total)
    format(gap, sizeof gap, "\n[... %llu bytes omitted ...]\n", (unsigned long long)(capture->total - kept));
  buffer_append(message, capture->head, capture->head_used);
  buffer_append(message, gap, strlen(gap));
  size_t first = capture->ring_used < capture->ring_limit ? 0 : capture->ring_at;
  buffer_append(message, capture->ring + first, capture->ring_used - first);
  buffer_append(message, capture->ring, first);
  return kept < capture->total;
}

void reply_results(uint32_t request, struct result *result, struct capture *capture, struct capture *errors,
                   const char *note) {
  struct buffer message = {0};
  buffer_append(&message, result, sizeof *result);
  result->total = capture->total;
  result->truncated = append_capture(&message, capture);
  buffer_append(&message, note, strlen(note));
  result->output_length = (uint32_t)(buffer_length(&message) - sizeof *result);
  if (errors != NULL) {
    result->error_total = errors->total;
    if (append_capture(&message, errors)) result->truncated = true;
    capture_free(errors);
  }
  memcpy(message.data + message.start, result, sizeof *result);
  reply(request, 0, message.data, buffer_length(&message));
  buffer_free(&message);
  capture_free(capture);
}

int exit_code(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

void reset_signals(void) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  landlock_program();
}

/* The disk is full when no block or no inode is left. */
static void check_disk(void) {
  struct statfs status;
  if (statfs(disk_place, &status) != 0) return;
  if (status.f_blocks > 0 && (status.f_bavail == 0 || (status.f_files > 0 && status.f_ffree == 0))) disk_events = 1;
}

/* What stands in for control groups: ends the largest process when the sum of memory passes the limit. */
void watch_limits(void) {
  check_disk();
  if (own_level->hard_limits) return;
  struct usage usage = read_usage(false);
  quiet = usage.processes <= 2;
  if (usage.memory > memory_peak) memory_peak = usage.memory;
  /* The kernel counts no refusals here. Full, but for the one that was refused and has ended, stands for them. */
  if (usage.processes >= pids_limit + 1) pids_events = 1;
  if (enforce_processes && usage.processes > pids_limit + EXTRA_PROCESSES) signal_all(SIGKILL);
  if (usage.memory <= memory_limit) return;
  usage = read_usage(true);
  if (usage.memory <= memory_limit) return;
  memory_events++;
  if (usage.largest_pid > 0) kill(usage.largest_pid, SIGKILL);
}

static void reap(void) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
    if (!session_reaped(pid, status) && !job_reaped(pid, status)) terminal_reaped(pid, status);
}

/*
 * Ends every process of the sandbox but this one, and says how many when it is true. A killed process needs a turn on a
 * processor to die, which takes seconds on a busy machine; hence the long limit, and pauses that grow.
 */
static void kill_all(uint32_t request) {
  uint32_t ended = read_usage(false).processes - 1;
  int64_t deadline = now_us() + 30000000;
  for (useconds_t pause = 200;; pause = pause < 5000 ? pause * 2 : pause) {
    int status;
    pid_t pid;
    signal_all(SIGKILL);
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) continue;
    if (pid < 0 && errno == ECHILD) break;
    if (now_us() > deadline) {
      reply_error(request, 0, "processes did not die within 30 s");
      return;
    }
    usleep(pause);
  }
  check_disk();
  session_killed();
  jobs_killed();
  terminals_killed();
  reply(request, 0, &ended, sizeof ended);
}

static void report_limits(uint32_t request, const uint8_t *payload, size_t length) {
  uint32_t counts[3] = {0};
  if (length >= 8) memcpy(counts, payload, 8); /* the broker's counts, from the control groups */
  if (own_groups != NULL) cgroups_events(own_groups, OWN_GROUP, &counts[0], &counts[1]);
  watch_limits();
  counts[0] += memory_events;
  counts[1] += pids_events;
  counts[2] = disk_events;
  reply(request, 0, counts, sizeof counts);
}

/* Adds what only init sees to the broker's numbers. */
static void report_statistics(uint32_t request, const uint8_t *payload, size_t length) {
  struct statistics found;
  struct statfs disk;
  if (length != sizeof found) {
    reply_error(request, 0, "bad request");
    return;
  }
  memcpy(&found, payload, sizeof found);
  if (own_groups != NULL) cgroups_statistics(own_groups, OWN_GROUP, &found);
  struct usage usage = read_usage(false);
  if (usage.memory > memory_peak) memory_peak = usage.memory;
  if (found.cpu_us == NOT_KNOWN) found.cpu_us = read_cpu_time();
  if (found.memory == NOT_KNOWN) found.memory = usage.memory;
  if (found.memory_peak == NOT_KNOWN) found.memory_peak = memory_peak;
  found.memory_kills = (found.memory_kills == NOT_KNOWN ? 0 : found.memory_kills) + memory_events;
  found.processes = usage.processes - 1;
  if (statfs(disk_place, &disk) == 0) {
    found.disk = (disk.f_blocks - disk.f_bfree) * (uint64_t)disk.f_bsize;
    found.disk_limit = disk.f_blocks * (uint64_t)disk.f_bsize;
    found.inodes = disk.f_files - disk.f_ffree;
    found.inode_limit = disk.f_files;
  }
  reply(request, 0, &found, sizeof found);
}

/* Payload: u8, 1: stop the processes here; 0: the control group will. */
static void pause_sandbox(uint32_t request, const uint8_t *payload, size_t length) {
  if (paused_at == 0) {
    paused_at = now_us();
    stopped = length > 0 && payload[0] != 0;
    if (stopped) stop_processes();
  }
  reply(request, 0, NULL, 0);
}

/* Time limits go on where they were. */
static void resume_sandbox(uint32_t request) {
  if (paused_at != 0) {
    int64_t pause = now_us() - paused_at;
    paused_at = 0;
    session_shift(pause);
    jobs_shift(pause);
    if (stopped) continue_processes();
  }
  reply(request, 0, NULL, 0);
}

/* What needs processes that run. */
static bool refuse_while_paused(const struct frame_header *header) {
  if (paused_at == 0) return false;
  switch (header->op) {
    case OP_RUN:
    case OP_EXEC:
    case OP_SHELL_OPEN:
    case OP_TERMINAL_OPEN: reply_error(header->request, 0, "the sandbox is paused"); return true;
    default: return false;
  }
}

static void serve(const struct frame_header *header, const uint8_t *payload) {
  uint32_t request = header->request;
  size_t length = header->length;
  quiet = false;
  if (refuse_while_paused(header)) return;
  switch (header->op) {
    case OP_RUN: session_run(request, payload, length); return;
    case OP_EXEC: job_start(request, payload, length); return;
    case OP_CANCEL:
      if (!session_cancel(request)) job_cancel(request);
      return;
    case OP_READ: file_read(request, payload, length); return;
    case OP_KILL_ALL: kill_all(request); return;
    case OP_EXPORT: folder_export(request, payload, length); return;
    case OP_IMPORT: folder_import(request, payload, header->length, header->flags & FLAG_MORE); return;
    case OP_LIMITS: report_limits(request, payload, length); return;
    case OP_SHELL_OPEN: session_open(request, payload, length); return;
    case OP_SHELL_CLOSE: session_close(request, payload, length); return;
    case OP_INTERRUPT: session_interrupt(request, payload, length); return;
    case OP_TERMINAL_OPEN: terminal_open(request, payload, length); return;
    case OP_TERMINAL_READ: terminal_read(request, payload, length); return;
    case OP_TERMINAL_WRITE: terminal_write(request, payload, length); return;
    case OP_TERMINAL_RESIZE: terminal_resize(request, payload, length); return;
    case OP_TERMINAL_CLOSE: terminal_close(request, payload, length); return;
    case OP_PAUSE: pause_sandbox(request, payload, length); return;
    case OP_RESUME: resume_sandbox(request); return;
    case OP_STATS: report_statistics(request, payload, length); return;
    case OP_OBSERVE: report_observation(request); return;
    case OP_WRITE: file_write(request, payload, length); return;
    case OP_STAT: file_stat(request, payload, length); return;
    case OP_CHANGE: file_change(request, payload, length); return;
    case OP_COPY: layer_copy(request, payload, length); return;
    case OP_PACK: folder_pack(request, payload, length); return;
    case OP_SOCKET: network_socket(request, header->flags & FLAG_DATAGRAMS); return;
    case OP_VARIABLES: network_variables(request, payload, length); return;
    default: reply_error(request, 0, "operation %d is not known", header->op);
  }
}

/* Requests with payloads that span frames are put together here, but for IMPORT, which takes them one by one. */
static struct buffer partial;
static uint32_t partial_request;

static void dispatch(const struct frame_header *header, const uint8_t *payload) {
  if (header->op == OP_IMPORT || ((header->flags & FLAG_MORE) == 0 && buffer_length(&partial) == 0)) {
    serve(header, payload);
    return;
  }
  if (buffer_length(&partial) > 0 && partial_request != header->request) buffer_consume(&partial, SIZE_MAX / 2);
  partial_request = header->request;
  buffer_append(&partial, payload, header->length);
  if (header->flags & FLAG_MORE) return;
  struct frame_header whole = *header;
  whole.length = (uint32_t)buffer_length(&partial);
  serve(&whole, partial.data + partial.start);
  buffer_free(&partial);
}

static void receive(void) {
  static uint8_t chunk[CHUNK];
  ssize_t n = read(SOCKET, chunk, sizeof chunk); /* which poll(2) has said is there; it may be a pipe */
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) leave();
  if (n < 0) return;
  buffer_append(&inbox, chunk, (size_t)n);
  struct frame_header header;
  const uint8_t *payload;
  while (buffer_frame(&inbox, &header, &payload)) {
    dispatch(&header, payload);
    buffer_consume(&inbox, sizeof header + header.length);
  }
}

/* Milliseconds until something must be looked at; -1 when nothing is due. */
static int wait_time(int64_t now) {
  int64_t due = terminals_deadline();
  if (paused_at == 0) {
    int64_t session = session_deadline(), job = jobs_deadline();
    if (session < due) due = session;
    if (job < due) due = job;
  }
  if (session_busy() || jobs_busy() || terminals_busy()) {
    if (now + TICK_US < due) due = now + TICK_US;
  } else if (!own_level->hard_limits && !quiet && now + TICK_US < due) {
    due = now + TICK_US; /* what the last command left in the background */
  }
  if (due == INT64_MAX) return -1;
  return due <= now ? 0 : (int)((due - now + 999) / 1000);
}

static void loop(int signals) {
  static struct pollfd entries[2 + 4 * MAX_SHELLS + 3 * MAX_JOBS + MAX_SHELLS + MAX_TERMINALS];
  int64_t last_tick = 0;
  for (;;) {
    entries[0] = (struct pollfd){.fd = SOCKET, .events = POLLIN};
    entries[1] = (struct pollfd){.fd = signals, .events = POLLIN};
    struct pollfd *of_sessions = entries + 2;
    int session_count = session_poll(of_sessions);
    struct pollfd *of_jobs = of_sessions + session_count;
    int job_count = jobs_poll(of_jobs);
    struct pollfd *of_terminals = of_jobs + job_count;
    int terminal_count = terminals_poll(of_terminals);
    nfds_t count = (nfds_t)(2 + session_count + job_count + terminal_count);
    if (poll(entries, count, wait_time(now_us())) < 0 && errno != EINTR) _exit(1);
    session_events(of_sessions, session_count);
    jobs_events(of_jobs, job_count);
    terminals_events(of_terminals, terminal_count);
    if (entries[1].revents != 0) {
      struct signalfd_siginfo ignored[8];
      while (read(signals, ignored, sizeof ignored) > 0) continue;
      reap();
    }
    int64_t now = now_us();
    if (now - last_tick >= TICK_US) {
      last_tick = now;
      watch_limits();
    }
    if (paused_at == 0) {
      session_tick(now);
      jobs_tick(now);
    }
    terminals_tick(now);
    if (entries[0].revents != 0) receive();
  }
}

void init_elsewhere(int descriptor, const struct cgroups *groups, const char *place, bool enforce) {
  output = descriptor;
  own_groups = groups;
  disk_place = place;
  enforce_processes = enforce;
}

bool sandbox_has_one_user(void) { return !own_level->mapped; }

void init_main(int socket, uint32_t sandbox, const struct sandbox_spec *spec, const struct level *level) {
  sigset_t child;
  if (socket != SOCKET) _exit(125);
  own_id = sandbox;
  own_level = level;
  memory_limit = spec->memory;
  pids_limit = (uint32_t)spec->pids;
  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, NULL);
  int signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
  if (signals < 0) setup_fail("signalfd");
  fcntl(SOCKET, F_SETFD, FD_CLOEXEC);
  fcntl(output, F_SETFD, FD_CLOEXEC);
  session_init(spec->workdir);
  reply(0, 0, NULL, 0); /* ready */
  if (spec->session) session_start();
  loop(signals);
  _exit(0);
}
