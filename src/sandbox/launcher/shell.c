/* The process of a persistent shell, and the pipes and terminals between it and init (see session.c). */
#include "init.h"

/* bash, or what is there instead; plain shells only take one digit in redirections. */
const char *shell_path(bool *is_bash) {
  static const char *const paths[] = {"/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh", "/usr/bin/sh"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    *is_bash = i < 3;
    if (access(paths[i], X_OK) == 0) return paths[i];
  }
  return NULL;
}

void shell_close_ends(struct shell_ends *ends) {
  int *fds[] = {&ends->driver, &ends->output, &ends->status, &ends->terminal};
  for (int i = 0; i < 4; i++) {
    if (*fds[i] >= 0) close(*fds[i]);
    *fds[i] = -1;
  }
}

int open_terminal(int *slave) {
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

/* The shell's own ends. */
struct shell_side {
  int driver, output, status, terminal, console;
};

/* The shell's side: descriptors in place, then exec. */
static void become_shell(const char *path, const struct shell_ends *ends, struct shell_side side,
                         const struct launch *launch) {
  char *const bash[] = {"bash", "--norc", "--noprofile", "--noediting", "-i", NULL};
  char *const plain[] = {"sh", "-i", NULL};
  setsid();
  /* Out of the way first: a pipe may already have the number another is to get, or its own, where dup2 keeps close-on-exec. */
  side.output = fcntl(side.output, F_DUPFD_CLOEXEC, 16);
  side.status = fcntl(side.status, F_DUPFD_CLOEXEC, 16);
  if (dup2(side.driver, 0) < 0 || dup2(side.output, ends->output_number) < 0 ||
      dup2(side.status, ends->status_number) < 0)
    _exit(126);
  if (side.terminal >= 0) dup2(side.terminal, 2);
  if (side.console >= 0 && dup2(side.console, CONSOLE_NUMBER) < 0) _exit(126);
  if (!user_become(&launch->user) || (!enter_folder(launch->folder) && !enter_folder("/"))) _exit(126);
  reset_signals();
  char **environment = environment_for(&launch->user, launch->environment, (int)launch->head.environment);
  execve(path, ends->is_bash ? bash : plain, environment);
  _exit(127);
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

bool shell_start(struct shell_ends *ends, const struct launch *launch, int console) {
  int driver[2], output[2], status[2], slave;
  const char *path = shell_path(&ends->is_bash);
  if (path == NULL || !open_pipes(driver, output, status)) return false;
  ends->output_number = ends->is_bash ? 201 : 8;
  ends->status_number = ends->is_bash ? 202 : 9;
  ends->terminal = open_terminal(&slave);
  ends->pid = fork_program();
  struct shell_side side = {driver[0], output[1], status[1], slave, ends->is_bash ? console : -1};
  if (ends->pid == 0) become_shell(path, ends, side, launch);
  close(driver[0]);
  close(output[1]);
  close(status[1]);
  if (slave >= 0) close(slave);
  ends->driver = driver[1];
  ends->output = output[0];
  ends->status = status[0];
  if (ends->pid < 0) {
    shell_close_ends(ends);
    return false;
  }
  fcntl(ends->driver, F_SETFL, O_NONBLOCK);
  fcntl(ends->output, F_SETFL, O_NONBLOCK);
  fcntl(ends->status, F_SETFL, O_NONBLOCK);
  return true;
}
