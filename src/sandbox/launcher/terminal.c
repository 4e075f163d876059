/*
 * Pseudo-terminals: of programs that were started on one, and the consoles of shells. What a program writes waits here
 * until it is asked for; while much waits, no more is taken, and the program is held up as at a slow terminal.
 */
#include "init.h"

#include <sys/ioctl.h>
#include <termios.h>

enum { KEPT = 64 << 10, INPUT_LIMIT = 256 << 10 };

static struct terminal {
  bool used, ended, closed; /* the program ended; nobody holds the other side any more */
  int master, slave;        /* the slave is kept open for consoles only */
  pid_t pid;
  int code;
  struct buffer out, in;
  uint32_t reader;          /* request that waits for output; 0: none */
  int64_t read_deadline;
} terminals[MAX_SHELLS + MAX_TERMINALS];
static int terminals_used; /* those beyond were never opened */

static struct terminal *claim(uint32_t number) {
  if ((int)number >= terminals_used) terminals_used = (int)number + 1;
  struct terminal *terminal = &terminals[number];
  *terminal = (struct terminal){.used = true, .master = -1, .slave = -1};
  return terminal;
}

static void answer_reader(struct terminal *terminal) {
  struct {
    uint8_t ended, reserved[3];
    int32_t code;
  } head = {.ended = terminal->ended && terminal->closed, .code = terminal->code};
  struct buffer message = {0};
  uint32_t request = terminal->reader;
  terminal->reader = 0;
  buffer_append(&message, &head, sizeof head);
  buffer_append(&message, terminal->out.data + terminal->out.start, buffer_length(&terminal->out));
  buffer_free(&terminal->out);
  reply(request, 0, message.data, buffer_length(&message));
  buffer_free(&message);
}

static void release(struct terminal *terminal) {
  if (terminal->reader != 0) answer_reader(terminal);
  if (terminal->master >= 0) close(terminal->master);
  if (terminal->slave >= 0) close(terminal->slave);
  buffer_free(&terminal->out);
  buffer_free(&terminal->in);
  terminal->used = false;
}

/* No echo and no carriage returns: what programs write is what is read. */
int console_open(uint32_t shell) {
  struct terminal *terminal = &terminals[shell];
  struct termios modes;
  if (terminal->used) return terminal->slave;
  terminal = claim(shell);
  terminal->master = open_terminal(&terminal->slave);
  if (terminal->master < 0) {
    terminal->used = false;
    return -1;
  }
  if (tcgetattr(terminal->slave, &modes) == 0) {
    modes.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
    modes.c_oflag &= ~(tcflag_t)ONLCR;
    tcsetattr(terminal->slave, TCSANOW, &modes);
  }
  return terminal->slave;
}

void console_close(uint32_t shell) {
  if (terminals[shell].used) release(&terminals[shell]);
}

static void become_on_terminal(const struct launch *launch, int slave, int told) {
  setsid();
  if (ioctl(slave, TIOCSCTTY, 0) == 0 && fchown(slave, launch->user.uid, launch->user.gid) == 0 &&
      dup2(slave, 0) >= 0 && dup2(slave, 1) >= 0 && dup2(slave, 2) >= 0)
    launch_become(launch, told);
  int error = errno;
  write_all(told, &error, sizeof error);
  _exit(127);
}

/* `first` and `second` of the head: rows and columns. Reply: u32 terminal. */
void terminal_open(uint32_t request, const uint8_t *payload, size_t length) {
  static struct launch launch;
  int slave, told[2] = {-1, -1};
  uint32_t number = MAX_SHELLS;
  if (!launch_parse(request, payload, length, &launch)) return;
  while (number < MAX_SHELLS + MAX_TERMINALS && terminals[number].used) number++;
  if (number == MAX_SHELLS + MAX_TERMINALS || launch.argument_count < 1) {
    reply_error(request, 0, "%d terminals are open already", MAX_TERMINALS);
    return;
  }
  struct terminal *terminal = claim(number);
  terminal->master = open_terminal(&slave);
  if (terminal->master < 0 || pipe2(told, O_CLOEXEC) != 0) {
    reply_error(request, 0, "opening a terminal: %s", strerror(errno));
    if (slave >= 0) close(slave);
    release(terminal);
    return;
  }
  struct winsize size = {.ws_row = (unsigned short)launch.head.first, .ws_col = (unsigned short)launch.head.second};
  ioctl(terminal->master, TIOCSWINSZ, &size);
  terminal->pid = fork_program();
  int fork_error = errno;
  if (terminal->pid == 0) become_on_terminal(&launch, slave, told[1]);
  close(slave);
  close(told[1]);
  bool started = launch_started(request, &launch, terminal->pid, told[0], fork_error);
  close(told[0]);
  if (started) reply(request, 0, &number, sizeof number);
  else release(terminal);
}

/* All requests begin with u32 terminal. NULL: the request is answered. */
static struct terminal *find(uint32_t request, const uint8_t *payload, size_t length, size_t least) {
  uint32_t number;
  if (length >= least) {
    memcpy(&number, payload, sizeof number);
    if (number < MAX_SHELLS + MAX_TERMINALS && terminals[number].used) return &terminals[number];
  }
  reply_error(request, FLAG_MISSING, "there is no such terminal");
  return NULL;
}

/* u32 terminal, u32 milliseconds to wait for output. Reply: u8 ended, i32 exit code at 4, output from 8. */
void terminal_read(uint32_t request, const uint8_t *payload, size_t length) {
  uint32_t wait;
  struct terminal *terminal = find(request, payload, length, 8);
  if (terminal == NULL) return;
  memcpy(&wait, payload + 4, sizeof wait);
  if (terminal->reader != 0) answer_reader(terminal); /* who asked before is not interested any more */
  terminal->reader = request;
  terminal->read_deadline = now_us() + (int64_t)wait * 1000;
  if (buffer_length(&terminal->out) > 0 || (terminal->ended && terminal->closed) || wait == 0) answer_reader(terminal);
}

static void send_input(struct terminal *terminal) {
  while (buffer_length(&terminal->in) > 0) {
    ssize_t n = write(terminal->master, terminal->in.data + terminal->in.start, buffer_length(&terminal->in));
    if (n <= 0) return;
    buffer_consume(&terminal->in, (size_t)n);
  }
}

void terminal_write(uint32_t request, const uint8_t *payload, size_t length) {
  struct terminal *terminal = find(request, payload, length, 4);
  if (terminal == NULL) return;
  if (buffer_length(&terminal->in) + length - 4 > INPUT_LIMIT) {
    reply_error(request, 0, "the program does not read its input");
    return;
  }
  buffer_append(&terminal->in, payload + 4, length - 4);
  send_input(terminal);
  reply(request, 0, NULL, 0);
}

/* u32 terminal, u16 rows, u16 columns. */
void terminal_resize(uint32_t request, const uint8_t *payload, size_t length) {
  struct winsize size = {0};
  struct terminal *terminal = find(request, payload, length, 8);
  if (terminal == NULL) return;
  memcpy(&size.ws_row, payload + 4, 2);
  memcpy(&size.ws_col, payload + 6, 2);
  ioctl(terminal->master, TIOCSWINSZ, &size);
  reply(request, 0, NULL, 0);
}

/* Hangs up, and ends what belongs to the terminal. */
void terminal_close(uint32_t request, const uint8_t *payload, size_t length) {
  struct terminal *terminal = find(request, payload, length, 4);
  if (terminal == NULL) return;
  pid_t pid = terminal->ended ? 0 : terminal->pid;
  release(terminal);
  if (pid > 0) {
    kill_since(0, SIGKILL, 0, pid);
    kill(pid, SIGKILL);
  }
  reply(request, 0, NULL, 0);
}

bool terminals_busy(void) {
  for (int i = MAX_SHELLS; i < terminals_used; i++)
    if (terminals[i].used && !terminals[i].ended) return true;
  return false;
}

int terminals_poll(struct pollfd *entries) {
  int count = 0;
  for (int i = 0; i < terminals_used; i++) {
    struct terminal *terminal = &terminals[i];
    if (!terminal->used || terminal->closed) continue;
    short events = buffer_length(&terminal->out) < KEPT ? POLLIN : 0;
    if (buffer_length(&terminal->in) > 0) events |= POLLOUT;
    if (events != 0) entries[count++] = (struct pollfd){.fd = terminal->master, .events = events};
  }
  return count;
}

static void take_output(struct terminal *terminal) {
  static uint8_t chunk[KEPT];
  ssize_t n = read(terminal->master, chunk, sizeof chunk);
  if (n > 0) buffer_append(&terminal->out, chunk, (size_t)n);
  else if (n == 0 || (errno != EAGAIN && errno != EINTR)) terminal->closed = true;
  if (terminal->reader != 0 && (n > 0 || (terminal->closed && terminal->ended))) answer_reader(terminal);
}

void terminals_events(const struct pollfd *entries, int count) {
  for (int k = 0; k < count; k++)
    for (int i = 0; i < terminals_used && entries[k].revents != 0; i++) {
      struct terminal *terminal = &terminals[i];
      if (!terminal->used || terminal->master != entries[k].fd) continue;
      if (entries[k].revents & POLLOUT) send_input(terminal);
      if (entries[k].revents & (POLLIN | POLLHUP | POLLERR)) take_output(terminal);
      break;
    }
}

bool terminal_reaped(pid_t pid, int status) {
  for (int i = MAX_SHELLS; i < terminals_used; i++) {
    struct terminal *terminal = &terminals[i];
    if (!terminal->used || terminal->ended || terminal->pid != pid) continue;
    terminal->ended = true;
    terminal->code = exit_code(status);
    /* What it left in the background may hold the terminal for ever; what was written is taken now. */
    while (!terminal->closed && buffer_length(&terminal->out) < 2 * KEPT) {
      size_t before = buffer_length(&terminal->out);
      take_output(terminal);
      if (buffer_length(&terminal->out) <= before) break;
    }
    terminal->closed = true;
    if (terminal->reader != 0) answer_reader(terminal);
    return true;
  }
  return false;
}

void terminals_tick(int64_t now) {
  for (int i = 0; i < terminals_used; i++)
    if (terminals[i].used && terminals[i].reader != 0 && now >= terminals[i].read_deadline)
      answer_reader(&terminals[i]);
}

int64_t terminals_deadline(void) {
  int64_t first = INT64_MAX;
  for (int i = 0; i < terminals_used; i++)
    if (terminals[i].used && terminals[i].reader != 0 && terminals[i].read_deadline < first)
      first = terminals[i].read_deadline;
  return first;
}

void terminals_killed(void) {
  for (int i = MAX_SHELLS; i < terminals_used; i++) {
    struct terminal *terminal = &terminals[i];
    if (!terminal->used || terminal->ended) continue;
    terminal->ended = terminal->closed = true;
    terminal->code = 128 + SIGKILL;
    if (terminal->reader != 0) answer_reader(terminal);
  }
}
