/* The sandbox's processes, read from its own /proc. */
#include "init.h"

#include <sys/prctl.h>

#include <dirent.h>

uint64_t clock_ticks(void) {
  struct timespec time;
  clock_gettime(CLOCK_BOOTTIME, &time);
  long hertz = sysconf(_SC_CLK_TCK);
  return (uint64_t)time.tv_sec * (uint64_t)hertz + (uint64_t)time.tv_nsec / (uint64_t)(1000000000L / hertz);
}

/* Fields of /proc/<pid>/stat by their numbers in proc(5), from 3 on; the name in field 2 may hold spaces and parentheses. */
enum { FIELD_STATE = 3, FIELD_PARENT = 4, FIELD_GROUP = 5, FIELD_SESSION = 6, FIELD_FLAGS = 9, FIELD_USER_TIME = 14, FIELD_START = 22, FIELDS = 23 };
enum { FORKED_NO_EXEC = 0x40 }; /* PF_FORKNOEXEC of linux/sched.h: still the program of its parent */
static bool read_stat(pid_t pid, uint64_t fields[FIELDS]) {
  char path[64], text[1024];
  format(path, sizeof path, "/proc/%d/stat", pid);
  if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0) return false;
  char *at = strrchr(text, ')');
  if (at == NULL || at[1] == 0 || at[2] == 0) return false;
  fields[FIELD_STATE] = (uint8_t)at[2];
  at += 3;
  for (int i = FIELD_PARENT; i < FIELDS; i++) fields[i] = strtoull(at, &at, 10);
  return true;
}

bool process_is_running(pid_t pid) {
  uint64_t fields[FIELDS];
  return read_stat(pid, fields) && fields[FIELD_STATE] == 'R';
}

static const char *root_of_paths = ""; /* not empty: there is no pid namespace */

void init_without_namespaces(const char *root) { root_of_paths = root; }

const char *private_root(void) { return root_of_paths; }

bool is_whole_namespace(void) { return *root_of_paths == 0; }

bool enter_folder(const char *path) {
  char inside[2 * PATH_SIZE];
  if (is_whole_namespace()) return chdir(path) == 0;
  format(inside, sizeof inside, "%s%s", root_of_paths, path);
  return chdir(inside) == 0;
}

/* Without a namespace of its own the sandbox is what descends from init, which adopts those whose parents end. */
bool is_of_sandbox(pid_t pid) {
  uint64_t fields[FIELDS];
  pid_t own = getpid();
  if (is_whole_namespace()) return pid > 1;
  while (pid > 1 && read_stat(pid, fields)) {
    if ((pid_t)fields[FIELD_PARENT] == own) return true;
    pid = (pid_t)fields[FIELD_PARENT];
  }
  return false;
}

/* Calls `each` for every process but init. */
static void each_process(void (*each)(pid_t pid, const uint64_t *fields, void *state), void *state) {
  uint64_t fields[FIELDS];
  DIR *directory = opendir("/proc");
  if (directory == NULL) return;
  for (struct dirent *item; (item = readdir(directory)) != NULL;) {
    pid_t pid = (pid_t)atoi(item->d_name);
    if (pid > 1 && read_stat(pid, fields) && is_of_sandbox(pid)) each(pid, fields, state);
  }
  closedir(directory);
}

/* Of the session of `tree`, or descended from it, as far as its ancestors live. */
static bool belongs(pid_t pid, const uint64_t *own, pid_t tree) {
  uint64_t fields[FIELDS];
  memcpy(fields, own, sizeof fields);
  for (int depth = 0; depth < 64; depth++) {
    if (pid == tree || (pid_t)fields[FIELD_SESSION] == tree) return true;
    pid = (pid_t)fields[FIELD_PARENT];
    if (pid <= 1 || !read_stat(pid, fields)) return false;
  }
  return false;
}

struct killing {
  uint64_t since, until; /* until: 0 for no limit */
  int signal, count;
  pid_t spared, tree, spared_group;
  bool unprepared; /* only those whom the signal ends */
  bool starting;   /* a child of `spared` is not a program of its own yet */
};

/* What a process does at a signal. False: it is gone. */
static bool read_handling(pid_t pid, int signal, bool *ignores, bool *catches) {
  char path[64], text[4096];
  format(path, sizeof path, "/proc/%d/status", pid);
  if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0) return false;
  const char *ignored = strstr(text, "\nSigIgn:\t"), *caught = strstr(text, "\nSigCgt:\t");
  if (ignored == NULL || caught == NULL) return false;
  *ignores = strtoull(ignored + 9, NULL, 16) >> (signal - 1) & 1;
  *catches = strtoull(caught + 9, NULL, 16) >> (signal - 1) & 1;
  return true;
}

/* Forked by `parent`, whose handlers it has until it becomes a program; or a part of a shell's script. */
static bool is_starting(const uint64_t *fields, pid_t parent) {
  return (pid_t)fields[FIELD_PARENT] == parent && (fields[FIELD_FLAGS] & FORKED_NO_EXEC) != 0;
}

/* Started in time, of the tree, alive, and not the one that is spared. */
static bool is_meant(pid_t pid, const uint64_t *fields, const struct killing *killing) {
  if (pid == killing->spared || fields[FIELD_STATE] == 'Z' || fields[FIELD_START] < killing->since) return false;
  if (killing->until != 0 && fields[FIELD_START] > killing->until) return false;
  return killing->tree == 0 || belongs(pid, fields, killing->tree);
}

static void kill_one(pid_t pid, const uint64_t *fields, void *state) {
  struct killing *killing = state;
  bool ignores, catches;
  if (!is_meant(pid, fields, killing)) return;
  if (killing->spared_group != 0 && (pid_t)fields[FIELD_GROUP] == killing->spared_group) return;
  if (killing->unprepared) {
    if (!read_handling(pid, SIGINT, &ignores, &catches) || ignores) return;
    if (catches && is_starting(fields, killing->spared)) killing->starting = true;
    if (catches) return;
  }
  if (kill(pid, killing->signal) == 0) killing->count++;
}

int kill_since(uint64_t since, int signal, pid_t spared, pid_t tree) {
  struct killing killing = {.since = since, .signal = signal, .spared = spared, .tree = tree};
  each_process(kill_one, &killing);
  return killing.count;
}

void interrupt_since(uint64_t since, pid_t leader, pid_t tree) {
  struct killing killing = {.since = since, .signal = SIGINT, .spared = leader, .tree = tree, .spared_group = leader};
  kill(-leader, SIGINT);
  each_process(kill_one, &killing);
}

bool interrupt_again(uint64_t since, uint64_t until, pid_t leader, pid_t tree, bool *startled) {
  struct killing killing = {.since = since, .until = until, .spared = leader, .tree = tree, .unprepared = true};
  each_process(kill_one, &killing);
  *startled = killing.count > 0;
  if (killing.count == 0) return killing.starting;
  kill(leader, SIGINT); /* before its child ends: only then does the shell end the command, too */
  killing.signal = SIGINT;
  each_process(kill_one, &killing);
  return true;
}

static void interrupt_one(pid_t pid, const uint64_t *fields, void *state) {
  struct killing *killing = state;
  bool ignores, catches;
  if (!is_meant(pid, fields, killing) || !read_handling(pid, SIGINT, &ignores, &catches) || ignores) return;
  if (catches && !is_starting(fields, killing->spared)) return;
  if (kill(pid, SIGINT) == 0 && (pid_t)fields[FIELD_PARENT] == killing->spared) killing->count++;
}

int interrupt_left(uint64_t since, pid_t leader, pid_t tree) {
  struct killing killing = {.since = since, .spared = leader, .tree = tree};
  each_process(interrupt_one, &killing);
  return killing.count;
}

/*
 * Whom the kernel ends for want of memory: a program, never the init, with which the sandbox would end. What a memfd holds is on
 * no process's account, so otherwise any of them may be the one. A child inherits the value that init has at the fork; the file
 * is opened while it is ours.
 */
enum { SOONER = 500, SOONEST = 1000 };
static int preference = -1;
static char of_init[16], of_programs[16];

void prefer_programs(void) {
  if (prctl(PR_SET_DUMPABLE, 1) != 0) return; /* nobody else is here yet */
  if (read_text_at(AT_FDCWD, "/proc/self/oom_score_adj", of_init, sizeof of_init) <= 0) return;
  int own = atoi(of_init);
  format(of_programs, sizeof of_programs, "%d", own + SOONER < SOONEST ? own + SOONER : SOONEST);
  preference = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
}

static void prefer(const char *value) {
  if (preference >= 0 && pwrite(preference, value, strlen(value), 0) < 0) preference = -1;
}

pid_t fork_program(void) {
  prefer(of_programs);
  pid_t child = fork();
  int error = errno;
  if (child != 0) prefer(of_init);
  errno = error;
  return child;
}

/* From init, all processes of the namespace at once; a process that is being forked is caught with its parent. */
int signal_all(int signal) {
  if (!is_whole_namespace()) return kill_since(0, signal, 0, 0);
  kill(-1, signal);
  return -1;
}

/* Without a namespace, until all are: who is being forked meanwhile is found the next time. */
void stop_processes(void) {
  signal_all(SIGSTOP);
  if (!is_whole_namespace()) signal_all(SIGSTOP);
}
void continue_processes(void) { signal_all(SIGCONT); }

/* Threads of all processes of our user. */
uint64_t count_tasks_of_user(void) {
  uint64_t count = 0;
  DIR *directory = opendir("/proc");
  if (directory == NULL) return 0;
  for (struct dirent *item; (item = readdir(directory)) != NULL;) {
    char path[64], text[4096];
    struct stat status;
    unsigned long threads;
    pid_t pid = (pid_t)atoi(item->d_name);
    format(path, sizeof path, "/proc/%d/status", pid);
    if (pid < 1 || stat(path, &status) != 0 || read_text_at(AT_FDCWD, path, text, sizeof text) <= 0) continue;
    const char *user = strstr(text, "\nUid:\t"), *tasks = strstr(text, "\nThreads:\t");
    if (user == NULL || tasks == NULL || (uid_t)strtoul(user + 6, NULL, 10) != getuid()) continue;
    threads = strtoul(tasks + 10, NULL, 10);
    count += threads;
  }
  closedir(directory);
  return count;
}

static void add_time(pid_t pid, const uint64_t *fields, void *state) {
  (void)pid;
  for (int i = 0; i < 4; i++) *(uint64_t *)state += fields[FIELD_USER_TIME + i]; /* own, and of children that were reaped */
}

uint64_t read_cpu_time(void) {
  uint64_t ticks = 0, fields[FIELDS];
  if (read_stat(getpid(), fields)) add_time(1, fields, &ticks);
  each_process(add_time, &ticks);
  return ticks * (1000000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* The process's share of the memory it uses with others; false where that cannot be read. */
static bool read_share(pid_t pid, uint64_t *bytes) {
  char path[64], text[2048];
  unsigned long kilobytes;
  format(path, sizeof path, "/proc/%d/smaps_rollup", pid);
  if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0) return false;
  const char *line = strstr(text, "\nPss:");
  if (line == NULL || sscanf(line, "\nPss: %lu", &kilobytes) != 1) return false;
  *bytes = (uint64_t)kilobytes * 1024;
  return true;
}

static bool read_resident(pid_t pid, uint64_t *bytes) {
  char path[64], text[128];
  unsigned long pages;
  format(path, sizeof path, "/proc/%d/statm", pid);
  if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0 || sscanf(text, "%*u %lu", &pages) != 1) return false;
  *bytes = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
  return true;
}

struct usage read_usage(bool shares) {
  struct usage usage = {0};
  DIR *directory = opendir("/proc");
  if (directory == NULL) return usage;
  for (struct dirent *item; (item = readdir(directory)) != NULL;) {
    pid_t pid = (pid_t)atoi(item->d_name);
    uint64_t bytes;
    if (pid < 1 || (pid != getpid() && !is_of_sandbox(pid)) || ((!shares || !read_share(pid, &bytes)) && !read_resident(pid, &bytes))) continue;
    usage.memory += bytes;
    usage.processes++;
    if (pid == getpid() || bytes <= usage.largest) continue;
    usage.largest = bytes;
    usage.largest_pid = pid;
  }
  closedir(directory);
  return usage;
}
