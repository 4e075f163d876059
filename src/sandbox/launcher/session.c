/*
 * The persistent shells. Each is an interactive bash without a terminal: only an interactive shell survives SIGINT, failed
 * expansions and `exec` of what does not exist with its state intact, and its messages carry no line numbers.
 *
 * Per command two lines go to its stdin, the driver:
 *
 *     \command eval '<the command>' </dev/null >&OUT 2>&1 OUT>&- STATUS>&-
 *     \command printf '<number> %d\n' "$?" >&STATUS; LINENO=0
 *
 * so commands see neither the driver nor the status pipe, whatever they leave running cannot read the next command, and
 * an unterminated quote ends with its command, and no alias or function of theirs comes between: one called `command` alone
 * stops everything, so that the next command runs into its limit and the shell is replaced. The second line does not begin with a reserved word: after a syntax
 * error in `eval`, bash's parser does not recognise one there. The shell's own stderr is a pseudo-terminal that is read
 * and dropped: traces of the driver and notices go there, and bash complains into the output when it is no terminal.
 * An interactive command gets the shell's console, another pseudo-terminal, instead of /dev/null and OUT.
 */
#include "session.h"

enum run_flags { RUN_CONSOLE = 1 };

/* Shell 0 is there without being opened. */
struct shell shells[MAX_SHELLS];
int shells_used = 1;
static struct launch first_launch;
static char first_folder[PATH_SIZE];

void session_init(const char *workdir) {
  format(first_folder, sizeof first_folder, "%s", workdir);
  user_find("", &first_launch.user);
  first_launch.folder = first_folder;
  shells[0].launch = &first_launch;
  shells[0].state = DEAD;
  shells[0].ends = NO_ENDS;
}

bool session_busy(void) {
  for (int i = 0; i < shells_used; i++)
    if (shell_busy(&shells[i])) return true;
  return false;
}

/* What `kill_since` goes by: where this shell is the only one who starts processes, whatever was started is its own. */
pid_t tree_of(const struct shell *shell) {
  bool alone = !jobs_busy() && !terminals_busy();
  for (int i = 0; i < shells_used; i++)
    if (&shells[i] != shell && shells[i].state > DEAD) alone = false;
  return alone ? 0 : shell->ends.pid;
}

void close_pipes(struct shell *shell) {
  shell_close_ends(&shell->ends);
  buffer_free(&shell->unsent);
  shell->status_used = 0;
}

void send_driver(struct shell *shell, const char *text, size_t length) {
  buffer_append(&shell->unsent, text, length);
  ssize_t n = write(shell->ends.driver, shell->unsent.data + shell->unsent.start, buffer_length(&shell->unsent));
  if (n <= 0) return;
  shell->sent += (size_t)n;
  buffer_consume(&shell->unsent, (size_t)n);
}

void ask_status(struct shell *shell) {
  char line[128];
  format(line, sizeof line, "\\command printf '%u %%d\\n' \"$?\" >&%d; LINENO=0\n", shell->number,
         shell->ends.status_number);
  send_driver(shell, line, strlen(line));
}

void start_shell(struct shell *shell) {
  int console = shell->console ? console_open((uint32_t)(shell - shells)) : -1;
  shell->state = DEAD;
  if (!shell_start(&shell->ends, shell->launch, console)) return;
  shell->state = IDLE;
  shell->last_code = 0;
  shell->sent = 0;
  shell->startled = false;
  const char *prepare = shell->ends.is_bash ? "set +o history +H; PS1= PS2=; LINENO=0\n" : "PS1= PS2=\n";
  send_driver(shell, prepare, strlen(prepare));
}

void session_start(void) { start_shell(&shells[0]); }

static void append_text(struct buffer *line, const char *text) { buffer_append(line, text, strlen(text)); }

/* The command in single quotes; a quote inside becomes '\''. */
static void send_command(struct shell *shell, const char *command, size_t length, bool interactive) {
  struct buffer line = {0};
  char text[128] = "";
  int output = shell->ends.output_number, status = shell->ends.status_number;
  /* A shell that finds a signal and a line at once drops the first character with what it had read before. */
  if (shell->startled) append_text(&line, "\n");
  shell->startled = false;
  /* $? of the last command is what the next one shall see. */
  if (shell->last_code == 1) format(text, sizeof text, "! :;");
  else if (shell->last_code != 0) format(text, sizeof text, "(exit %d);", shell->last_code);
  append_text(&line, text);
  append_text(&line, "\\command eval '");
  for (size_t i = 0; i < length; i++) {
    if (command[i] == '\'') append_text(&line, "'\\''");
    else buffer_append(&line, command + i, 1);
  }
  if (interactive)
    format(text, sizeof text, "' <&%d >&%d 2>&%d %d>&- %d>&- %d>&-\n", CONSOLE_NUMBER, CONSOLE_NUMBER, CONSOLE_NUMBER,
           output, status, CONSOLE_NUMBER);
  else if (shell->console)
    format(text, sizeof text, "' </dev/null >&%d 2>&1 %d>&- %d>&- %d>&-\n", output, output, status, CONSOLE_NUMBER);
  else format(text, sizeof text, "' </dev/null >&%d 2>&1 %d>&- %d>&-\n", output, output, status);
  append_text(&line, text);
  send_driver(shell, (const char *)line.data, buffer_length(&line));
  buffer_free(&line);
}

/* The shell that a request names; NULL: the request is answered. */
static struct shell *find_shell(uint32_t request, uint32_t number) {
  if (number < MAX_SHELLS && shells[number].state != CLOSED) return &shells[number];
  reply_error(request, FLAG_MISSING, "shell %u is not open", number);
  return NULL;
}

static bool ready_to_run(struct shell *shell, uint32_t request, bool interactive) {
  bool is_bash = true;
  if (shell_busy(shell) || shell->state == CLOSING) {
    reply_error(request, 0, "the shell is still running a command");
    return false;
  }
  if (shell->state == DEAD) start_shell(shell);
  if (shell->state == DEAD) {
    if (shell_path(&is_bash) == NULL) reply_error(request, FLAG_MISSING, "there is no shell");
    else reply_error(request, 0, "the shell cannot start: %s", strerror(errno));
    return false;
  }
  if (interactive && !(shell->console && shell->ends.is_bash)) {
    reply_error(request, 0, "the shell has no terminal for interactive commands");
    return false;
  }
  return true;
}

/* Payload: u32 milliseconds, u32 bytes, u16 shell, u16 flags, the command. */
void session_run(uint32_t request, const uint8_t *payload, size_t length) {
  uint32_t limits[2];
  uint16_t which[2];
  if (length < sizeof limits + sizeof which) {
    reply_error(request, 0, "short request");
    return;
  }
  memcpy(limits, payload, sizeof limits);
  memcpy(which, payload + sizeof limits, sizeof which);
  struct shell *shell = find_shell(request, which[0]);
  bool interactive = which[1] & RUN_CONSOLE;
  if (shell == NULL || !ready_to_run(shell, request, interactive)) return;
  /* What the background wrote since the last command belongs to no command. */
  struct capture lost;
  capture_start(&lost, 2);
  capture_drain(&lost, shell->ends.output, DRAIN_MAX);
  capture_free(&lost);
  shell->state = RUNNING;
  shell->interrupt_next = 0;
  shell->interrupt_waits = shell->interrupted = shell->answered = false;
  shell->request = request;
  shell->started = now_us();
  shell->deadline = limits[0] == UINT32_MAX ? INT64_MAX : shell->started + (int64_t)limits[0] * 1000;
  shell->started_ticks = clock_ticks();
  shell->number++;
  capture_start(&shell->capture, limits[1]);
  size_t head = sizeof limits + sizeof which;
  send_command(shell, (const char *)payload + head, length - head, interactive);
  ask_status(shell);
}

/* `first` of the head: the shell's number. The request is copied: a shell that dies is started again like this. */
void session_open(uint32_t request, const uint8_t *payload, size_t length) {
  struct launch *launch = malloc(sizeof *launch + length);
  if (launch == NULL) abort();
  uint8_t *copy = (uint8_t *)(launch + 1);
  memcpy(copy, payload, length);
  if (!launch_parse(request, copy, length, launch)) {
    free(launch);
    return;
  }
  uint32_t number = launch->head.first;
  if (number == 0 || number >= MAX_SHELLS || shells[number].state != CLOSED) {
    reply_error(request, 0, "shell %u cannot be opened", number);
    free(launch);
    return;
  }
  struct shell *shell = &shells[number];
  while (shells_used <= (int)number) shells[shells_used++].ends = NO_ENDS;
  shell->launch = launch;
  shell->console = launch->head.flags & LAUNCH_CONSOLE;
  shell->lost = false;
  start_shell(shell);
  if (shell->state == IDLE) {
    reply(request, 0, NULL, 0);
    return;
  }
  reply_error(request, 0, "the shell cannot start: %s", strerror(errno));
  console_close(number);
  shell->state = CLOSED;
  free(launch);
  shell->launch = NULL;
}

void forget_shell(struct shell *shell) {
  if (shell->state == CLOSING) reply(shell->request, 0, NULL, 0);
  close_pipes(shell);
  console_close((uint32_t)(shell - shells));
  free(shell->launch);
  shell->launch = NULL;
  shell->state = CLOSED;
}

void finish_command(struct shell *shell, enum status status, int code, bool restarted) {
  watch_limits();
  struct result result = {.status = status,
                          .code = code,
                          .restarted = restarted || shell->lost,
                          .us = (uint64_t)(now_us() - shell->started)};
  const char *note = restarted ? "\n[the shell did not stop and was restarted: directory and variables are reset]\n"
                     : shell->lost ? "\n[the shell had ended and was restarted: directory and variables are reset]\n"
                                   : "";
  shell->lost = false;
  uint32_t request = shell->request;
  shell->request = 0;
  if (shell_busy(shell)) shell->state = IDLE;
  reply_results(request, &result, &shell->capture, NULL, note);
}

void drain_output(struct shell *shell) {
  if (shell->ends.output >= 0) capture_drain(&shell->capture, shell->ends.output, DRAIN_MAX);
}

/* Payload of this and the next: u32 shell. A hang-up, as when a terminal is closed; half a second later, the end. */
void session_close(uint32_t request, const uint8_t *payload, size_t length) {
  uint32_t number = 0;
  if (length >= sizeof number) memcpy(&number, payload, sizeof number);
  struct shell *shell = find_shell(request, number);
  if (shell == NULL) return;
  if (number == 0) {
    reply_error(request, 0, "shell 0 is always open");
    return;
  }
  if (shell_busy(shell)) {
    kill_since(shell->started_ticks, SIGHUP, shell->ends.pid, shell->ends.pid);
    drain_output(shell);
    finish_command(shell, STATUS_SHELL_DIED, 128 + SIGHUP, false);
  }
  if (shell->state == CLOSING) {
    reply_error(request, 0, "shell %u is being closed", number);
    return;
  }
  bool lives = shell->state == IDLE;
  shell->state = CLOSING;
  shell->request = request;
  shell->deadline = now_us() + CLOSE_FOR_US;
  if (lives) kill(shell->ends.pid, SIGHUP); /* answered when it has ended */
  else forget_shell(shell);
}

void session_interrupt(uint32_t request, const uint8_t *payload, size_t length) {
  uint32_t number = 0;
  if (length >= sizeof number) memcpy(&number, payload, sizeof number);
  struct shell *shell = find_shell(request, number);
  if (shell == NULL) return;
  uint8_t was_running = shell->state == RUNNING;
  if (was_running) begin_interrupt(shell, now_us());
  reply(request, 0, &was_running, 1);
}

void interrupt_command(struct shell *shell, enum status reason, int64_t now) {
  shell->state = INTERRUPTING;
  shell->answered = false;
  shell->reason = reason;
  shell->interrupt_until = now + INTERRUPT_FOR_US;
  shell->interrupt_next = now;
  shell->interrupts = 0;
  shell->number++;
}

bool session_cancel(uint32_t request) {
  for (int i = 0; i < shells_used; i++) {
    if (shells[i].state != RUNNING || shells[i].request != request) continue;
    interrupt_command(&shells[i], STATUS_TIMEOUT, now_us());
    return true;
  }
  return false;
}
