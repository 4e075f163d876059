/* Pid 1 of a sandbox and its parts. Everything here runs inside the sandbox, as its root, under its seccomp filter. */
#ifndef ALE_INIT_H
#define ALE_INIT_H

#include "launcher.h"

#include <poll.h>

enum status { STATUS_EXITED, STATUS_TIMEOUT, STATUS_OUTPUT_LIMIT, STATUS_SHELL_DIED };
enum { OUTPUT_FACTOR = 64, MAX_JOBS = 32, ERROR_SIZE = 512 };

/* Output with both ends kept: the first half of the cap, and a ring of the last half. */
struct capture {
  uint8_t *head, *ring;
  size_t head_used, head_limit, head_capacity;
  size_t ring_limit, ring_capacity, ring_used, ring_at;
  uint64_t total;
};
void capture_start(struct capture *capture, size_t cap);
void capture_add(struct capture *capture, const uint8_t *data, size_t length);
void capture_free(struct capture *capture);
/* Reads what is there without waiting. Returns false at the end of the pipe. */
bool capture_drain(struct capture *capture, int fd, size_t at_most);
bool capture_flooded(const struct capture *capture);

/* How a command ended; heads the payload of its reply. */
struct result {
  uint8_t status, truncated, restarted, reserved;
  int32_t code; /* meaningful for exited and shell_died */
  uint64_t total;
  uint64_t us;
} __attribute__((packed));

/* init.c: replies. They block until the broker takes them. */
void reply(uint32_t request, uint8_t flags, const void *data, size_t length);
void reply_error(uint32_t request, uint8_t flags, const char *pattern, ...) __attribute__((format(printf, 3, 4)));
void reply_result(uint32_t request, struct result *result, struct capture *capture, const char *note);
int exit_code(int status);
/* Looks whether a limit is reached; at the end of each command, and every 100 ms while one runs. */
void watch_limits(void);
/* For children of init, between fork and exec: default signals, nothing blocked. */
void reset_signals(void);
extern char *const sandbox_environment[];

/* processes.c */
uint64_t clock_ticks(void);
/* Signals every process that started at or after `since`, except init and `spared`. Returns how many. */
int kill_since(uint64_t since, int signal, pid_t spared);
struct usage {
  uint64_t memory;
  uint32_t processes; /* init included */
  uint64_t largest;
  pid_t largest_pid; /* 0: nothing but init */
};
/* Resident memory of all, which counts shared pages in each process; or, at more cost, the sum of their shares. */
struct usage read_usage(bool shares);

/* session.c: the persistent shell. */
void session_init(const char *workdir);
void session_start(void);
bool session_busy(void);
void session_run(uint32_t request, const uint8_t *payload, size_t length);
bool session_cancel(uint32_t request);
int session_poll(struct pollfd *entries);
void session_events(const struct pollfd *entries, int count);
/* True when `pid` was the shell. */
bool session_reaped(pid_t pid, int status);
void session_tick(int64_t now);
int64_t session_deadline(void);
void session_killed(void);

/* job.c: one-shot programs. */
void job_start(uint32_t request, const uint8_t *payload, size_t length);
bool job_cancel(uint32_t request);
bool jobs_busy(void);
int jobs_poll(struct pollfd *entries);
void jobs_events(const struct pollfd *entries, int count);
bool job_reaped(pid_t pid, int status);
void jobs_tick(int64_t now);
int64_t jobs_deadline(void);
void jobs_killed(void);

/* files.c */
void file_read(uint32_t request, const uint8_t *payload, size_t length);
/* Opens a folder without following links; makes it and its parents when `create`. -1 and errno on failure. */
int open_folder(int from, const char *path, bool create);
bool remove_tree(int parent, const char *name);

/* archive.c */
struct entry {
  uint8_t type, reserved[3];
  uint32_t mode, uid, gid;
  int64_t mtime_ns; /* negative: now */
  uint32_t path_length, reserved2;
  uint64_t size; /* at the end: entries that were skipped */
} __attribute__((packed));
enum entry_type { ENTRY_END, ENTRY_FILE, ENTRY_FOLDER, ENTRY_LINK };
enum { MAX_ENTRIES = 100000, MAX_DEPTH = 128 };

void folder_export(uint32_t request, const uint8_t *payload, size_t length);
/* One frame of an import; `more` while others follow. */
void folder_import(uint32_t request, const uint8_t *payload, size_t length, bool more);

#endif
