/* Pid 1 of a sandbox and its parts. Everything here runs inside the sandbox, as its root, under its seccomp filter. */
#ifndef ALE_INIT_H
#define ALE_INIT_H

#include "launcher.h"

#include <poll.h>

enum status { STATUS_EXITED, STATUS_TIMEOUT, STATUS_OUTPUT_LIMIT, STATUS_SHELL_DIED };
enum { OUTPUT_FACTOR = 64, MAX_JOBS = 32, MAX_SHELLS = 16, MAX_TERMINALS = 16, ERROR_SIZE = 512 };

/* Output with both ends kept: the first half of the cap, and a ring of the last half. */
struct capture {
  uint8_t *head, *ring;
  size_t head_used, head_limit, head_capacity;
  size_t ring_limit, ring_capacity, ring_used, ring_at;
  uint64_t total;
  int log; /* file that gets all of it; −1: none */
  uint64_t log_left;
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
  uint64_t error_total;
  uint32_t output_length, reserved2; /* what follows in the payload: output, then errors where they are separate */
} __attribute__((packed));

/* init.c: replies. They block until the broker takes them. */
void reply(uint32_t request, uint8_t flags, const void *data, size_t length);
void reply_error(uint32_t request, uint8_t flags, const char *pattern, ...) __attribute__((format(printf, 3, 4)));
/* `errors` may be NULL: they are among the output. `note` follows the output. Frees both captures. */
void reply_results(uint32_t request, struct result *result, struct capture *capture, struct capture *errors,
                   const char *note);
int exit_code(int status);
/* Looks whether a limit is reached; at the end of each command, and every 100 ms while one runs. */
void watch_limits(void);
/* For children of init, between fork and exec: default signals, nothing blocked. */
void reset_signals(void);
extern char *const sandbox_environment[];
/* Only root exists: there are no ids for others. */
bool sandbox_has_one_user(void);

/* users.c */
enum { MAX_GROUPS = 32 };
struct user {
  uid_t uid;
  gid_t gid, groups[MAX_GROUPS];
  int group_count;
  char name[64], home[256];
};
/* By name or number; "" is root. False when there is none. */
bool user_find(const char *name, struct user *user);
bool group_find(const char *name, uint32_t *id);
bool user_become(const struct user *user);
/* Of the usual ones, those the sandbox was given (network.c), and `extra`; later ones win. */
char **environment_for(const struct user *user, char *const *extra, int extra_count);

/* network.c */
void network_socket(uint32_t request, bool datagrams);
void network_variables(uint32_t request, const uint8_t *payload, size_t length);
char *const *given_variables(void);

/* launch.c */
enum { MAX_STRINGS = 2048 };
enum launch_flags { LAUNCH_SEPARATE = 1, LAUNCH_INPUT = 2, LAUNCH_CONSOLE = 4 };
struct launch_head {
  uint32_t first, second; /* their meaning depends on the request */
  uint32_t flags, environment, input, reserved;
  uint64_t log_limit;
} __attribute__((packed));
struct launch {
  struct launch_head head;
  struct user user;
  char *folder, *log; /* all strings point into the request */
  char **environment, **arguments;
  int argument_count;
  const uint8_t *input;
  char *strings[MAX_STRINGS + 1];
};
/* False: the request is answered with the reason. */
bool launch_parse(uint32_t request, const uint8_t *payload, size_t length, struct launch *launch);
void launch_become(const struct launch *launch, int told) __attribute__((noreturn));
bool launch_started(uint32_t request, const struct launch *launch, pid_t pid, int told, int fork_error);

/* processes.c */
uint64_t clock_ticks(void);
/* Signals every process that started at or after `since`, except init and `spared`; of the session and the descendants
 * of `tree` only, when that is not 0. Returns how many. */
int kill_since(uint64_t since, int signal, pid_t spared, pid_t tree);
/* On a processor, or waiting for one. */
bool process_is_running(pid_t pid);
/* A child that will be a program, which the kernel ends sooner than init when memory is short. */
pid_t fork_program(void);
/* Ctrl-C: to the process group of `leader` at once, so that none is forked past it, and to what the job moved elsewhere. */
void interrupt_since(uint64_t since, pid_t leader, pid_t tree);
/* For a program that was being started at that moment, until `until`, and missed it. What handles SIGINT gets no second
 * one. True: there was one, or there may be one yet. `startled`: `leader` was signalled with it. */
bool interrupt_again(uint64_t since, uint64_t until, pid_t leader, pid_t tree, bool *startled);
/*
 * For what the shell had forked when it was interrupted itself, before it waited for it: it dropped the command, and its
 * child, still with the shell's handlers, dropped the signal. Whatever the shell forks next it takes for the same pipeline,
 * and would wait for both. Ends programs that SIGINT ends, and children of `leader` that have not become a program yet;
 * what runs in the background ignores it. Returns how many children of `leader` were left.
 */
int interrupt_left(uint64_t since, pid_t leader, pid_t tree);
/* Stops all processes but init, or lets them go on. */
/* Signals all but init; returns how many, or −1 where a whole namespace was signalled at once. */
int signal_all(int signal);
bool is_whole_namespace(void);
/* Whether a process is one of the sandbox, and not its init. */
bool is_of_sandbox(pid_t pid);
void stop_processes(void);
void continue_processes(void);
struct usage {
  uint64_t memory;
  uint32_t processes; /* init included */
  uint64_t largest;
  pid_t largest_pid; /* 0: nothing but init */
};
/* Resident memory of all, which counts shared pages in each process; or, at more cost, the sum of their shares. */
struct usage read_usage(bool shares);
/* Microseconds of processor time of all processes there are and were. */
uint64_t read_cpu_time(void);

/* observe.c */
void report_observation(uint32_t request);

/* session.c: the persistent shells. Shell 0 exists without being opened; the others have names outside. */
void session_init(const char *workdir);
void session_start(void);
bool session_busy(void);
void session_run(uint32_t request, const uint8_t *payload, size_t length);
void session_open(uint32_t request, const uint8_t *payload, size_t length);
void session_close(uint32_t request, const uint8_t *payload, size_t length);
/* Ctrl-C: SIGINT to what the shell is running. */
void session_interrupt(uint32_t request, const uint8_t *payload, size_t length);
bool session_cancel(uint32_t request);
int session_poll(struct pollfd *entries);
void session_events(const struct pollfd *entries, int count);
/* True when `pid` was a shell. */
bool session_reaped(pid_t pid, int status);
void session_tick(int64_t now);
int64_t session_deadline(void);
void session_shift(int64_t us);
void session_killed(void);

/* shell.c: the process of a shell, and what connects it to init. */
struct shell_ends {
  pid_t pid; /* ≤ 0: it could not be started; see errno */
  int driver, output, status, terminal;
  int output_number, status_number;
  bool is_bash;
};
enum { CONSOLE_NUMBER = 203 };
/* Path of the shell there is, or NULL. */
const char *shell_path(bool *is_bash);
/* `launch` says user, folder and environment; `console` is the terminal its interactive programs get, or −1. */
bool shell_start(struct shell_ends *ends, const struct launch *launch, int console);
void shell_close_ends(struct shell_ends *ends);
/* Opens a pseudo-terminal; −1 where there is none. */
int open_terminal(int *slave);

/* terminal.c: programs on terminals of their own (numbers from MAX_SHELLS), and the consoles of the shells (below). */
void terminal_open(uint32_t request, const uint8_t *payload, size_t length);
void terminal_read(uint32_t request, const uint8_t *payload, size_t length);
void terminal_write(uint32_t request, const uint8_t *payload, size_t length);
void terminal_resize(uint32_t request, const uint8_t *payload, size_t length);
void terminal_close(uint32_t request, const uint8_t *payload, size_t length);
/* The descriptor that a shell's interactive programs get; −1 where there is none. */
int console_open(uint32_t shell);
void console_close(uint32_t shell);
bool terminals_busy(void);
int terminals_poll(struct pollfd *entries);
void terminals_events(const struct pollfd *entries, int count);
bool terminal_reaped(pid_t pid, int status);
void terminals_tick(int64_t now);
int64_t terminals_deadline(void);
void terminals_killed(void);

/* job.c: one-shot programs. */
void job_start(uint32_t request, const uint8_t *payload, size_t length);
bool job_cancel(uint32_t request);
bool jobs_busy(void);
int jobs_poll(struct pollfd *entries);
void jobs_events(const struct pollfd *entries, int count);
bool job_reaped(pid_t pid, int status);
void jobs_tick(int64_t now);
int64_t jobs_deadline(void);
void jobs_shift(int64_t us);
void jobs_killed(void);

/* files.c: what files hold */
enum file_flags { FILE_FOLLOW = 1, FILE_PARTIAL = 2, FILE_LINES = 4, FILE_PARENTS = 8, FILE_TRUNCATE = 16 };
void file_read(uint32_t request, const uint8_t *payload, size_t length);
void file_write(uint32_t request, const uint8_t *payload, size_t length);
int open_root(void);
/* Where the sandbox's paths begin; empty: at the root of the file system. */
const char *private_root(void);
/* Opens a path of the sandbox: with FILE_FOLLOW through links, which lead nowhere outside; otherwise only without any. */
int open_path(const char *path, uint64_t flags, uint32_t file_flags);

/* attributes.c: what is known about files */
/* Of what archives and layers hold. */
void set_owner(int parent, const char *name, uid_t uid, gid_t gid);
void file_stat(uint32_t request, const uint8_t *payload, size_t length);
void file_change(uint32_t request, const uint8_t *payload, size_t length);

/* folders.c */
/* Opens a folder without following links; makes it and its parents when `create`. -1 and errno on failure. */
int open_folder(int from, const char *path, bool create);
bool remove_tree(int parent, const char *name);

/* archive.c */
struct entry {
  uint8_t type, sparse, reserved[2]; /* sparse: zeros become holes */
  uint32_t mode, uid, gid;
  int64_t mtime_ns; /* negative: now */
  uint32_t path_length, reserved2;
  uint64_t size; /* at the end: entries that were skipped */
} __attribute__((packed));
enum entry_type {
  ENTRY_END,
  ENTRY_FILE,
  ENTRY_FOLDER,
  ENTRY_LINK,
  ENTRY_HARD_LINK, /* content: the other name, from the same folder on */
  ENTRY_PART,      /* more of the file that came before under this name */
  ENTRY_WHITEOUT,  /* for an overlay: hides what lower layers have there */
  ENTRY_OPAQUE,    /* for an overlay: a folder that hides what is in those of lower layers */
};
enum { MAX_ENTRIES = 100000, MAX_PACKED = 4000000, MAX_DEPTH = 128 };

#define OPAQUE_ATTRIBUTE "user.overlay.opaque"

void folder_export(uint32_t request, const uint8_t *payload, size_t length);
void folder_pack(uint32_t request, const uint8_t *payload, size_t length);
/* copy.c */
void layer_copy(uint32_t request, const uint8_t *payload, size_t length);
/* links.c: the first name that each file with several had. Returns it, or NULL when this is the first. */
const char *link_find(const struct stat *status, const char *path);
void links_forget(void);
/* One frame of an import; `more` while others follow. */
void folder_import(uint32_t request, const uint8_t *payload, size_t length, bool more);

#endif
