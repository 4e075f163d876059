/* The persistent shells as time passes: answers, output, limits, interrupts, death. */
#include "session.h"

#include <sys/ioctl.h>
#include <sys/wait.h>

/* The shell is back from an interrupted command, which is over when what it had in front has ended, too. */
static void settle(struct shell *shell, int64_t now) {
  if (interrupt_left(shell->started_ticks, shell->ends.pid, tree_of(shell)) == 0) {
    drain_output(shell);
    finish_command(shell, STATUS_EXITED, shell->last_code, false);
    return;
  }
  int64_t wait = (int64_t)SETTLE_US << (shell->interrupts < 5 ? shell->interrupts : 5);
  shell->interrupts++;
  shell->interrupt_next = now + wait;
}

/* One line of the status pipe: the number of the question and the exit code. */
static void handle_status(struct shell *shell, const char *line) {
  unsigned number;
  int code;
  if (sscanf(line, "%u %d", &number, &code) != 2 || number != shell->number || !shell_busy(shell)) return;
  bool interrupted = shell->state == INTERRUPTING;
  if (shell->answered) return; /* it was asked more than once */
  shell->last_code = code & 255;
  shell->interrupt_next = 0;
  drain_output(shell);
  if (interrupted) {
    /* What ran in the background does not heed SIGINT. */
    kill_since(shell->started_ticks, SIGKILL, shell->ends.pid, tree_of(shell));
    finish_command(shell, shell->reason, code, false);
    return;
  }
  if (shell->interrupted) {
    shell->answered = true;
    shell->interrupts = 0;
    settle(shell, now_us());
    return;
  }
  finish_command(shell, STATUS_EXITED, code, false);
}

static void read_status(struct shell *shell) {
  for (;;) {
    ssize_t n = read(shell->ends.status, shell->status_text + shell->status_used,
                     sizeof shell->status_text - 1 - shell->status_used);
    if (n <= 0) return;
    shell->status_used += (size_t)n;
    shell->status_text[shell->status_used] = 0;
    char *line = shell->status_text, *end;
    while ((end = strchr(line, '\n')) != NULL) {
      *end = 0;
      handle_status(shell, line);
      if (shell->ends.status < 0) return;
      line = end + 1;
    }
    shell->status_used = strlen(line);
    memmove(shell->status_text, line, shell->status_used + 1);
    if (shell->status_used > sizeof shell->status_text / 2) shell->status_used = 0; /* not ours */
  }
}

/* Four entries for each shell. */
int session_poll(struct pollfd *entries) {
  int count = 0;
  for (int i = 0; i < shells_used; i++) {
    const struct shell *shell = &shells[i];
    const struct shell_ends *ends = &shell->ends;
    entries[count++] = (struct pollfd){.fd = ends->status, .events = POLLIN};
    entries[count++] = (struct pollfd){.fd = shell_busy(shell) ? ends->output : -1, .events = POLLIN};
    entries[count++] = (struct pollfd){.fd = ends->terminal, .events = POLLIN};
    entries[count++] =
        (struct pollfd){.fd = buffer_length(&shell->unsent) > 0 ? ends->driver : -1, .events = POLLOUT};
  }
  return count;
}

static void shell_events(struct shell *shell, const struct pollfd *entries) {
  if (entries[2].revents != 0 && shell->ends.terminal >= 0) {
    char dropped[512];
    if (read(shell->ends.terminal, dropped, sizeof dropped) <= 0 && errno != EAGAIN) {
      close(shell->ends.terminal); /* the shell is ending */
      shell->ends.terminal = -1;
    }
  }
  if (entries[3].revents != 0 && shell->ends.driver >= 0) send_driver(shell, "", 0);
  if (entries[1].revents != 0) {
    drain_output(shell);
    if (shell->state == RUNNING && capture_flooded(&shell->capture)) interrupt_command(shell, STATUS_OUTPUT_LIMIT, now_us());
  }
  if (entries[0].revents != 0 && shell->ends.status >= 0) read_status(shell);
}

void session_events(const struct pollfd *entries, int count) {
  for (int i = 0; i * 4 < count; i++) shell_events(&shells[i], entries + i * 4);
}

/* Ends the shell and everything the command started; a fresh shell takes its place. */
static void give_up(struct shell *shell) {
  pid_t tree = tree_of(shell);
  if (tree == 0) {
    kill(shell->ends.pid, SIGKILL);
    signal_all(SIGKILL);
  } else {
    kill_since(0, SIGKILL, shell->ends.pid, tree);
    kill(shell->ends.pid, SIGKILL);
  }
  drain_output(shell);
  shell->state = DEAD;
  shell->ends.pid = 0; /* reaped as a stranger */
  close_pipes(shell);
  enum status reason = shell->reason;
  start_shell(shell);
  finish_command(shell, reason, 0, true);
}

/* Before that a shell is still starting, and ends at SIGINT. */
static bool has_read(const struct shell *shell) {
  int waiting = 0;
  return ioctl(shell->ends.driver, FIONREAD, &waiting) != 0 || (size_t)waiting < shell->sent;
}

/*
 * At once, but to a shell that works on a new command only when it waits, for a program or for input: of a line that it is
 * reading, SIGINT discards what it has read, and the rest, with its quotes, is taken for a command.
 */
void begin_interrupt(struct shell *shell, int64_t now) {
  shell->interrupt_waits = !has_read(shell) || (now < shell->started + YOUNG_US && process_is_running(shell->ends.pid));
  shell->interrupt_next = now + (shell->interrupt_waits ? SETTLE_US : INTERRUPT_AGAIN_US);
  if (shell->interrupt_waits) return;
  interrupt_since(shell->started_ticks, shell->ends.pid, tree_of(shell));
  shell->interrupted_ticks = clock_ticks();
  shell->interrupted = shell->startled = true;
  shell->interrupts = 0;
}

/* What missed an interrupt, or the shell, which discards a line that it was reading and is asked again. */
static void repeat_interrupt(struct shell *shell, int64_t now) {
  bool startled;
  uint64_t until = shell->interrupted_ticks + (uint64_t)INTERRUPT_REACH_US * (uint64_t)sysconf(_SC_CLK_TCK) / 1000000;
  bool missed = interrupt_again(shell->started_ticks, until, shell->ends.pid, tree_of(shell), &startled);
  if (startled) shell->startled = true;
  if (startled || shell->interrupts < INTERRUPT_TRIES) {
    send_driver(shell, "\n", 1);
    ask_status(shell);
  }
  shell->interrupts++;
  shell->interrupt_next = missed || shell->interrupts < INTERRUPT_TRIES ? now + INTERRUPT_AGAIN_US : 0;
}

static void shell_tick(struct shell *shell, int64_t now) {
  if (shell->state == CLOSING && now >= shell->deadline) {
    kill(shell->ends.pid, SIGKILL);
    shell->deadline = INT64_MAX;
  }
  if (shell->state == RUNNING && now >= shell->deadline) interrupt_command(shell, STATUS_TIMEOUT, now);
  if (shell->state == RUNNING && shell->interrupt_next != 0 && now >= shell->interrupt_next) {
    if (shell->interrupt_waits) begin_interrupt(shell, now);
    else if (shell->answered) settle(shell, now);
    else repeat_interrupt(shell, now);
  }
  if (shell->state != INTERRUPTING || now < shell->interrupt_next) return;
  if (now >= shell->interrupt_until) {
    give_up(shell);
    return;
  }
  if (!has_read(shell)) {
    shell->interrupt_next = now + SETTLE_US;
    return;
  }
  /* Signals and questions in turn, ever further apart: a signal that arrives while the shell reads a line discards it.
   * The shell comes first: it drops the rest of the command only when it had SIGINT itself before its child died of it.
   * Every other time with SIGKILL, for children that do not care. */
  if (shell->interrupts % 2 == 0) {
    kill(shell->ends.pid, SIGINT);
    shell->startled = true;
    kill_since(shell->started_ticks, shell->interrupts % 4 == 0 ? SIGINT : SIGKILL, shell->ends.pid, tree_of(shell));
  } else {
    send_driver(shell, "\n", 1);
    ask_status(shell);
  }
  int64_t wait = (int64_t)INTERRUPT_FIRST_US << (shell->interrupts < 10 ? shell->interrupts / 2 : 5);
  shell->interrupt_next = now + wait;
  shell->interrupts++;
}

void session_tick(int64_t now) {
  for (int i = 0; i < shells_used; i++) shell_tick(&shells[i], now);
}

static int64_t shell_deadline(const struct shell *shell) {
  if (shell->state == INTERRUPTING) return shell->interrupt_next;
  if (shell->state == CLOSING) return shell->deadline;
  if (shell->state != RUNNING) return INT64_MAX;
  bool asks = shell->interrupt_next != 0 && shell->interrupt_next < shell->deadline;
  return asks ? shell->interrupt_next : shell->deadline;
}

int64_t session_deadline(void) {
  int64_t first = INT64_MAX;
  for (int i = 0; i < shells_used; i++) {
    int64_t due = shell_deadline(&shells[i]);
    if (due < first) first = due;
  }
  return first;
}

void session_shift(int64_t us) {
  for (int i = 0; i < shells_used; i++) {
    if (shell_busy(&shells[i]) && shells[i].deadline != INT64_MAX) shells[i].deadline += us;
    if (shells[i].state == INTERRUPTING) shells[i].interrupt_until += us;
  }
}

static void shell_ended(struct shell *shell, int status) {
  bool was_busy = shell_busy(shell);
  if (was_busy) read_status(shell); /* it may have answered before it ended */
  bool answered = was_busy && !shell_busy(shell);
  if (was_busy && !answered) drain_output(shell);
  if (shell->state == CLOSING) {
    forget_shell(shell);
    return;
  }
  if (!was_busy || answered) shell->lost = true;
  shell->state = DEAD;
  shell->ends.pid = 0;
  close_pipes(shell);
  if (was_busy && !answered) finish_command(shell, STATUS_SHELL_DIED, exit_code(status), false);
}

bool session_reaped(pid_t pid, int status) {
  for (int i = 0; i < shells_used; i++) {
    if (shells[i].state <= DEAD || shells[i].ends.pid != pid) continue;
    shell_ended(&shells[i], status);
    return true;
  }
  return false;
}

void session_killed(void) {
  for (int i = 0; i < shells_used; i++) {
    struct shell *shell = &shells[i];
    if (shell->state <= DEAD) continue;
    bool was_busy = shell_busy(shell), closing = shell->state == CLOSING;
    if (was_busy) drain_output(shell);
    if (closing) {
      forget_shell(shell);
      continue;
    }
    shell->state = DEAD;
    shell->ends.pid = 0;
    close_pipes(shell);
    if (was_busy) finish_command(shell, STATUS_SHELL_DIED, 128 + SIGKILL, false);
  }
}
