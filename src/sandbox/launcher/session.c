/*
 * The persistent shell. It is an interactive bash without a terminal: only an interactive shell survives SIGINT, failed
 * expansions and `exec` of what does not exist with its state intact, and its messages carry no line numbers.
 *
 * Per command two lines go to its stdin, the driver:
 *
 *     eval '<the command>' </dev/null >&OUT 2>&1 OUT>&- STATUS>&-
 *     command printf '<number> %d\n' "$?" >&STATUS; LINENO=0
 *
 * so commands see neither the driver nor the status pipe, whatever they leave running cannot read the next command, and
 * an unterminated quote ends with its command. The second line does not begin with a reserved word: after a syntax
 * error in `eval`, bash's parser does not recognise one there. The shell's own stderr is a pseudo-terminal that is read
 * and dropped: traces of the driver and notices go there, and bash complains into the output when it is no terminal.
 */
#include "init.h"

#include <stdlib.h>
#include <sys/wait.h>

enum state { DEAD, IDLE, RUNNING, INTERRUPTING };
enum { INTERRUPT_FIRST_US = 10000, INTERRUPT_FOR_US = 2000000, DRAIN_MAX = 1 << 20 };

static struct {
  enum state state;
  pid_t pid;
  int driver, output, status, terminal;
  struct buffer unsent;       /* driver lines the shell has not read yet */
  char status_text[256];
  size_t status_used;
  uint32_t number;            /* of the answer that is waited for */
  int last_code;              /* what $? shall be for the next command */
  uint32_t request;
  struct capture capture;
  int64_t started, deadline;  /* of the command */
  uint64_t started_ticks;
  enum status reason;         /* why it is being interrupted */
  bool lost;                  /* the shell ended between commands, and nobody was told yet */
  int64_t interrupt_until, interrupt_next;
  int interrupts;
} session = {.driver = -1, .output = -1, .status = -1, .terminal = -1};

static char directory[PATH_SIZE];

void session_init(const char *workdir) { format(directory, sizeof directory, "%s", workdir); }

bool session_busy(void) { return session.state == RUNNING || session.state == INTERRUPTING; }

/* bash, or what is there instead; plain shells only take one digit in redirections. */
static const char *shell_path(bool *is_bash) {
  static const char *const paths[] = {"/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh", "/usr/bin/sh"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    *is_bash = i < 3;
    if (access(paths[i], X_OK) == 0) return paths[i];
  }
  return NULL;
}

static int output_number, status_number;

static void close_pipes(void) {
  int *fds[] = {&session.driver, &session.output, &session.status, &session.terminal};
  for (int i = 0; i < 4; i++) {
    if (*fds[i] >= 0) close(*fds[i]);
    *fds[i] = -1;
  }
  buffer_free(&session.unsent);
  session.status_used = 0;
}

/* The shell's side: descriptors in place, then exec. */
static void become_shell(const char *path, bool is_bash, int driver, int output, int status, int terminal) {
  char *const bash[] = {"bash", "--norc", "--noprofile", "--noediting", "-i", NULL};
  char *const plain[] = {"sh", "-i", NULL};
  setsid();
  /* Out of the way first: a pipe may already have the number another is to get, or its own, where dup2 keeps close-on-exec. */
  output = fcntl(output, F_DUPFD_CLOEXEC, 16);
  status = fcntl(status, F_DUPFD_CLOEXEC, 16);
  if (dup2(driver, 0) < 0 || dup2(output, output_number) < 0 || dup2(status, status_number) < 0) _exit(126);
  if (terminal >= 0) dup2(terminal, 2);
  if (chdir(directory) != 0 && chdir("/") != 0) _exit(126);
  reset_signals();
  execve(path, is_bash ? bash : plain, sandbox_environment);
  _exit(127);
}

static int open_terminal(int *slave) {
  char name[64];
  *slave = -1;
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (master < 0) return -1;
  if (unlockpt(master) == 0 && ptsname_r(master, name, sizeof name) == 0)
    *slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (*slave >= 0) return master;
  close(master);
  return -1;
}

static void send_driver(const char *text, size_t length) {
  buffer_append(&session.unsent, text, length);
  ssize_t n = write(session.driver, session.unsent.data + session.unsent.start, buffer_length(&session.unsent));
  if (n > 0) buffer_consume(&session.unsent, (size_t)n);
}

static void ask_status(uint32_t number) {
  char line[128];
  format(line, sizeof line, "command printf '%u %%d\\n' \"$?\" >&%d; LINENO=0\n", number, status_number);
  send_driver(line, strlen(line));
}

static bool open_pipes(int driver[2], int output[2], int status[2]) {
  int *pipes[] = {driver, output, status};
  for (int i = 0; i < 3; i++) {
    if (pipe2(pipes[i], O_CLOEXEC) == 0) continue;
    int saved = errno;
    while (--i >= 0) {
      close(pipes[i][0]);
      close(pipes[i][1]);
    }
    errno = saved;
    return false;
  }
  return true;
}

void session_start(void) {
  int driver[2], output[2], status[2], slave;
  bool is_bash;
  const char *path = shell_path(&is_bash);
  session.state = DEAD;
  if (path == NULL || !open_pipes(driver, output, status)) return;
  output_number = is_bash ? 201 : 8;
  status_number = is_bash ? 202 : 9;
  session.terminal = open_terminal(&slave);
  session.pid = fork();
  if (session.pid == 0) become_shell(path, is_bash, driver[0], output[1], status[1], slave);
  close(driver[0]);
  close(output[1]);
  close(status[1]);
  if (slave >= 0) close(slave);
  session.driver = driver[1];
  session.output = output[0];
  session.status = status[0];
  if (session.pid < 0) {
    close_pipes();
    return;
  }
  fcntl(session.driver, F_SETFL, O_NONBLOCK);
  fcntl(session.output, F_SETFL, O_NONBLOCK);
  fcntl(session.status, F_SETFL, O_NONBLOCK);
  session.state = IDLE;
  session.last_code = 0;
  const char *prepare = is_bash ? "set +o history +H; PS1= PS2=; LINENO=0\n" : "PS1= PS2=\n";
  send_driver(prepare, strlen(prepare));
}

/* The command in single quotes; a quote inside becomes '\''. */
static void send_command(const char *command, size_t length) {
  struct buffer line = {0};
  char text[128] = "";
  /* $? of the last command is what the next one shall see. */
  if (session.last_code == 1) format(text, sizeof text, "! :;");
  else if (session.last_code != 0) format(text, sizeof text, "(exit %d);", session.last_code);
  buffer_append(&line, text, strlen(text));
  buffer_append(&line, "eval '", 6);
  for (size_t i = 0; i < length; i++) {
    if (command[i] == '\'') buffer_append(&line, "'\\''", 4);
    else buffer_append(&line, command + i, 1);
  }
  format(text, sizeof text, "' </dev/null >&%d 2>&1 %d>&- %d>&-\n", output_number, output_number, status_number);
  buffer_append(&line, text, strlen(text));
  send_driver((const char *)line.data, buffer_length(&line));
  buffer_free(&line);
}

void session_run(uint32_t request, const uint8_t *payload, size_t length) {
  uint32_t limits[2]; /* milliseconds, bytes */
  if (length < sizeof limits || session_busy()) {
    reply_error(request, 0, session_busy() ? "the shell is still running a command" : "short request");
    return;
  }
  memcpy(limits, payload, sizeof limits);
  if (session.state == DEAD) session_start();
  if (session.state == DEAD) {
    bool is_bash;
    if (shell_path(&is_bash) == NULL) reply_error(request, FLAG_MISSING, "there is no shell");
    else reply_error(request, 0, "the shell cannot start: %s", strerror(errno));
    return;
  }
  /* What the background wrote since the last command belongs to no command. */
  struct capture lost;
  capture_start(&lost, 2);
  capture_drain(&lost, session.output, DRAIN_MAX);
  capture_free(&lost);
  session.state = RUNNING;
  session.request = request;
  session.started = now_us();
  session.deadline = session.started + (int64_t)limits[0] * 1000;
  session.started_ticks = clock_ticks();
  session.number++;
  capture_start(&session.capture, limits[1]);
  send_command((const char *)payload + sizeof limits, length - sizeof limits);
  ask_status(session.number);
}

static void finish(enum status status, int code, bool restarted) {
  watch_limits();
  struct result result = {.status = status,
                          .code = code,
                          .restarted = restarted || session.lost,
                          .us = (uint64_t)(now_us() - session.started)};
  const char *note = restarted ? "\n[the shell did not stop and was restarted: directory and variables are reset]\n"
                     : session.lost ? "\n[the shell had ended and was restarted: directory and variables are reset]\n"
                                    : "";
  session.lost = false;
  uint32_t request = session.request;
  session.request = 0;
  if (session.state != DEAD) session.state = IDLE;
  reply_result(request, &result, &session.capture, note);
}

static void interrupt(enum status reason, int64_t now) {
  session.state = INTERRUPTING;
  session.reason = reason;
  session.interrupt_until = now + INTERRUPT_FOR_US;
  session.interrupt_next = now;
  session.interrupts = 0;
  session.number++;
}

bool session_cancel(uint32_t request) {
  if (session.state != RUNNING || session.request != request) return false;
  interrupt(STATUS_TIMEOUT, now_us());
  return true;
}

static void drain_output(void) {
  if (session.output >= 0) capture_drain(&session.capture, session.output, DRAIN_MAX);
}

/* One line of the status pipe: the number of the question and the exit code. */
static void handle_status(const char *line) {
  unsigned number;
  int code;
  if (sscanf(line, "%u %d", &number, &code) != 2 || number != session.number || !session_busy()) return;
  bool interrupted = session.state == INTERRUPTING;
  session.last_code = code & 255;
  drain_output();
  if (interrupted) {
    /* What ran in the background does not heed SIGINT. */
    kill_since(session.started_ticks, SIGKILL, session.pid);
    finish(session.reason, code, false);
    return;
  }
  finish(STATUS_EXITED, code, false);
}

static void read_status(void) {
  for (;;) {
    ssize_t n = read(session.status, session.status_text + session.status_used,
                     sizeof session.status_text - 1 - session.status_used);
    if (n <= 0) return;
    session.status_used += (size_t)n;
    session.status_text[session.status_used] = 0;
    char *line = session.status_text, *end;
    while ((end = strchr(line, '\n')) != NULL) {
      *end = 0;
      handle_status(line);
      if (session.status < 0) return;
      line = end + 1;
    }
    session.status_used = strlen(line);
    memmove(session.status_text, line, session.status_used + 1);
    if (session.status_used > sizeof session.status_text / 2) session.status_used = 0; /* not ours */
  }
}

int session_poll(struct pollfd *entries) {
  if (session.state == DEAD) return 0;
  entries[0] = (struct pollfd){.fd = session.status, .events = POLLIN};
  entries[1] = (struct pollfd){.fd = session_busy() ? session.output : -1, .events = POLLIN};
  entries[2] = (struct pollfd){.fd = session.terminal, .events = POLLIN};
  entries[3] = (struct pollfd){.fd = buffer_length(&session.unsent) > 0 ? session.driver : -1, .events = POLLOUT};
  return 4;
}

void session_events(const struct pollfd *entries, int count) {
  if (count == 0) return;
  if (entries[2].revents != 0) {
    char dropped[512];
    if (read(session.terminal, dropped, sizeof dropped) <= 0 && errno != EAGAIN) {
      close(session.terminal); /* the shell is ending */
      session.terminal = -1;
    }
  }
  if (entries[3].revents != 0) send_driver("", 0);
  if (entries[1].revents != 0) {
    drain_output();
    if (session.state == RUNNING && capture_flooded(&session.capture)) interrupt(STATUS_OUTPUT_LIMIT, now_us());
  }
  if (entries[0].revents != 0 && session.status >= 0) read_status();
}

/* Ends the shell and everything the command started; a fresh shell takes its place. */
static void give_up(void) {
  kill(session.pid, SIGKILL);
  kill(-1, SIGKILL);
  drain_output();
  session.state = DEAD;
  session.pid = 0; /* reaped as a stranger */
  close_pipes();
  enum status reason = session.reason;
  session_start();
  finish(reason, 0, true);
}

void session_tick(int64_t now) {
  if (session.state == RUNNING && now >= session.deadline) interrupt(STATUS_TIMEOUT, now);
  if (session.state != INTERRUPTING || now < session.interrupt_next) return;
  if (now >= session.interrupt_until) {
    give_up();
    return;
  }
  /* Signals and questions in turn, ever further apart: a signal that arrives while the shell reads a line discards it.
   * The shell comes first: it drops the rest of the command only when it had SIGINT itself before its child died of it.
   * Every other time with SIGKILL, for children that do not care. */
  if (session.interrupts % 2 == 0) {
    kill(session.pid, SIGINT);
    kill_since(session.started_ticks, session.interrupts % 4 == 0 ? SIGINT : SIGKILL, session.pid);
  } else {
    send_driver("\n", 1);
    ask_status(session.number);
  }
  session.interrupt_next = now + ((int64_t)INTERRUPT_FIRST_US << (session.interrupts < 10 ? session.interrupts / 2 : 5));
  session.interrupts++;
}

int64_t session_deadline(void) {
  if (session.state == RUNNING) return session.deadline;
  if (session.state == INTERRUPTING) return session.interrupt_next;
  return INT64_MAX;
}

bool session_reaped(pid_t pid, int status) {
  if (session.state == DEAD || pid != session.pid) return false;
  bool busy = session_busy();
  if (busy) read_status(); /* it may have answered before it ended */
  bool answered = busy && !session_busy();
  if (busy && !answered) drain_output();
  if (!busy || answered) session.lost = true;
  session.state = DEAD;
  session.pid = 0;
  close_pipes();
  if (busy && !answered) finish(STATUS_SHELL_DIED, exit_code(status), false);
  return true;
}

void session_killed(void) {
  if (session.state == DEAD) return;
  bool busy = session_busy();
  if (busy) drain_output();
  session.state = DEAD;
  session.pid = 0;
  close_pipes();
  if (busy) finish(STATUS_SHELL_DIED, 128 + SIGKILL, false);
}
