/*
 * The launcher's code for control groups on a tree of plain files: what the kernel does when a group is made, written to or removed is done
 * here instead, by functions that the linker puts in place of the launcher's and the C library's (--wrap). After
 * Documentation/admin-guide/cgroup-v2.rst.
 *
 * control-groups ROOT OPERATION…: ROOT holds proc/self/cgroup, proc/self/mountinfo and the tree. A group that may be changed has a file `owned`;
 * processes are in cgroup.procs, SELF being this one.
 */
#include "../../src/sandbox/launcher/launcher.h"

#include <dirent.h>

static const char *root;
static const char *const controllers[] = {"memory", "pids", "cpu"};
static const char *const interfaces[][5] = {
    {"memory.max=max", "memory.swap.max=max", "memory.current=4096", "memory.peak=8192", "memory.events=oom 0\noom_kill 0"},
    {"pids.max=max", "pids.current=0", "pids.events=max 0", NULL, NULL},
    {"cpu.max=max 100000", "cpu.weight.nice=0", NULL, NULL, NULL},
};
static const char *const base[] = {"cgroup.type=domain", "cgroup.subtree_control=", "cgroup.procs=", "cgroup.freeze=0",
                                   "cgroup.kill=", "cpu.stat=usage_usec 1500000"};

FILE *__real_fopen(const char *path, const char *mode);
ssize_t __real_read_text_at(int dir, const char *path, char *text, size_t capacity);
int __real_mkdirat(int dir, const char *path, mode_t mode);
int __real_unlinkat(int dir, const char *path, int flags);

static const char *at(const char *group, const char *name) {
  static char path[4][2 * PATH_SIZE];
  static int turn;
  turn = (turn + 1) % 4;
  format(path[turn], sizeof path[turn], "%s/%s", group, name);
  return path[turn];
}

static void get(const char *group, const char *name, char *text, size_t capacity) {
  text[0] = 0;
  __real_read_text_at(AT_FDCWD, at(group, name), text, capacity);
}

static void put(const char *group, const char *name, const char *text) {
  FILE *file = __real_fopen(at(group, name), "w");
  if (file == NULL) exit(99);
  fputs(text, file);
  fclose(file);
}

static bool has(const char *group, const char *name) { return access(at(group, name), F_OK) == 0; }
static bool is_v2(const char *group) { return has(group, "cgroup.subtree_control"); }

/* The words of a file but `word`, then `word` itself where it is to be in. */
static void set_word(const char *group, const char *name, const char *word, bool in) {
  char text[4096], result[4096] = "", *state = NULL;
  get(group, name, text, sizeof text);
  for (char *item = strtok_r(text, " \n", &state); item != NULL; item = strtok_r(NULL, " \n", &state))
    if (strcmp(item, word) != 0) format(result + strlen(result), sizeof result - strlen(result), "%s\n", item);
  if (in) format(result + strlen(result), sizeof result - strlen(result), "%s\n", word);
  put(group, name, result);
}

static bool has_word(const char *group, const char *name, const char *word) {
  char text[4096], *state = NULL;
  get(group, name, text, sizeof text);
  for (char *item = strtok_r(text, " \n", &state); item != NULL; item = strtok_r(NULL, " \n", &state))
    if (strcmp(item, word) == 0) return true;
  return false;
}

/* Calls `visit` with every group below. */
static void each_child(const char *group, void (*visit)(const char *child, const void *with), const void *with) {
  DIR *folder = opendir(group);
  for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
      char child[2 * PATH_SIZE];
      format(child, sizeof child, "%s/%s", group, entry->d_name);
      visit(child, with);
    }
  if (folder != NULL) closedir(folder);
}

/* The processes of a group that still run. */
static bool holds_processes(const char *group) {
  char text[4096], line[32], *state = NULL;
  get(group, "cgroup.procs", text, sizeof text);
  for (char *pid = strtok_r(text, "\n", &state); pid != NULL; pid = strtok_r(NULL, "\n", &state)) {
    format(line, sizeof line, "%s", pid);
    if (kill(atoi(pid), 0) != 0) set_word(group, "cgroup.procs", line, false);
  }
  get(group, "cgroup.procs", text, sizeof text);
  return text[0] != 0;
}

static void write_files(const char *group, const char *const *files, size_t count) {
  for (size_t i = 0; i < count && files[i] != NULL; i++) {
    char name[64];
    format(name, sizeof name, "%.*s", (int)strcspn(files[i], "="), files[i]);
    const char *without = getenv("WITHOUT"); /* a file that this kernel does not have */
    if (without == NULL || strcmp(name, without) != 0) put(group, name, strchr(files[i], '=') + 1);
  }
}

static void add_controller(const char *child, const void *controller) {
  set_word(child, "cgroup.controllers", controller, true);
  for (int i = 0; i < 3; i++)
    if (strcmp(controllers[i], controller) == 0) write_files(child, interfaces[i], 5);
}
static void drop_controller(const char *child, const void *controller) {
  set_word(child, "cgroup.controllers", controller, false);
}
static void make_invalid(const char *child, const void *unused) {
  (void)unused;
  put(child, "cgroup.type", "domain invalid\n");
}
static void find_user(const char *child, const void *controller) {
  if (has_word(child, "cgroup.subtree_control", controller)) errno = EBUSY;
}

static int write_subtree_control(const char *group, const char *text) {
  const char *controller = text + 1;
  bool inner = has(group, "cgroup.type") && holds_processes(group);
  if (!has_word(group, "cgroup.controllers", controller)) return ENOENT;
  if (text[0] == '-') {
    errno = 0;
    each_child(group, find_user, controller);
    if (errno == EBUSY) return EBUSY;
    each_child(group, drop_controller, controller);
  } else if (!has_word(group, "cgroup.subtree_control", controller)) {
    if (inner && strcmp(controller, "memory") == 0) return EBUSY; /* no internal processes, but of threaded controllers */
    each_child(group, add_controller, controller);
    if (inner) each_child(group, make_invalid, NULL);
  }
  set_word(group, "cgroup.subtree_control", controller, text[0] == '+');
  return 0;
}

/* Where a process is; one that we started without moving it is where we are. */
static char place_of[2 * PATH_SIZE];
static void look_for(const char *group, const void *pid) {
  if (has_word(group, "cgroup.procs", pid)) format(place_of, sizeof place_of, "%s", group);
  each_child(group, look_for, pid);
}

static int write_procs(const char *group, const char *pid) {
  char type[32], self[32], common[2 * PATH_SIZE];
  format(self, sizeof self, "%d", getpid());
  format(place_of, sizeof place_of, "%s", "");
  look_for(root, pid);
  if (place_of[0] == 0) look_for(root, self);
  get(group, "cgroup.type", type, sizeof type);
  if (kill(atoi(pid), 0) != 0) return ESRCH;
  /* Who moves a process needs the group that both places have in common. */
  format(common, sizeof common, "%s", group);
  while (strncmp(place_of, common, strlen(common)) != 0) *strrchr(common, '/') = 0;
  if (!has(common, "owned")) return EACCES;
  if (strstr(type, "invalid") != NULL) return EOPNOTSUPP;
  if (type[0] != 0 && has_word(group, "cgroup.subtree_control", "memory")) return EBUSY;
  set_word(place_of, "cgroup.procs", pid, false);
  set_word(group, "cgroup.procs", pid, true);
  return 0;
}

static void folder_of(int dir, const char *path, char *group, char *name) {
  char whole[2 * PATH_SIZE], link[64];
  format(link, sizeof link, "/proc/self/fd/%d", dir);
  ssize_t length = dir == AT_FDCWD || path[0] == '/' ? 0 : readlink(link, whole, PATH_SIZE);
  format(whole + length, sizeof whole - (size_t)length, "%s%s", length > 0 ? "/" : "", path);
  char *slash = strrchr(whole, '/');
  format(name, PATH_SIZE, "%s", slash + 1);
  *slash = 0;
  format(group, PATH_SIZE, "%s", whole);
}

bool __wrap_write_text_at(int dir, const char *path, const char *text) {
  char group[PATH_SIZE], name[PATH_SIZE];
  folder_of(dir, path, group, name);
  if (!has(group, name)) errno = ENOENT;
  else if (!has(group, "owned")) errno = EACCES;
  else if (is_v2(group) && strcmp(name, "cgroup.subtree_control") == 0) errno = write_subtree_control(group, text);
  else if (is_v2(group) && strcmp(name, "cgroup.procs") == 0) errno = write_procs(group, text);
  else {
    put(group, name, text);
    return true;
  }
  return errno == 0;
}

/* Processes that ended are in no group. */
ssize_t __wrap_read_text_at(int dir, const char *path, char *text, size_t capacity) {
  char group[PATH_SIZE], name[PATH_SIZE];
  folder_of(dir, path, group, name);
  if (strcmp(name, "cgroup.procs") == 0) holds_processes(group);
  return __real_read_text_at(dir, path, text, capacity);
}

/* A v1 group has the files of the one above. */
static void fill_v1(const char *parent, const char *group) {
  static const char *const files[] = {"tasks", "cgroup.procs", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                      "memory.max_usage_in_bytes", "memory.oom_control", "pids.max", "pids.events",
                                      "cpu.shares", "cpu.cfs_quota_us", "cpuacct.usage"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    if (has(parent, files[i]))
      put(group, files[i], strstr(files[i], "usage") != NULL ? "2000000000" : "oom_kill 0\nmax 0\n");
}

int __wrap_mkdirat(int dir, const char *path, mode_t mode) {
  char parent[PATH_SIZE], name[PATH_SIZE], group[2 * PATH_SIZE];
  folder_of(dir, path, parent, name);
  format(group, sizeof group, "%s/%s", parent, name);
  if (!has(parent, "owned") && access(group, F_OK) != 0) {
    errno = EACCES;
    return -1;
  }
  if (__real_mkdirat(AT_FDCWD, group, mode) != 0) return -1;
  put(group, "owned", "");
  if (!is_v2(parent)) fill_v1(parent, group);
  else write_files(group, base, sizeof base / sizeof *base);
  if (is_v2(parent)) put(group, "cgroup.controllers", "");
  for (int i = 0; i < 3 && is_v2(parent); i++)
    if (has_word(parent, "cgroup.subtree_control", controllers[i])) add_controller(group, controllers[i]);
  bool threaded = is_v2(parent) && has(parent, "cgroup.type") && holds_processes(parent);
  if (threaded && has(group, "pids.max")) make_invalid(group, NULL);
  return 0;
}
int __wrap_mkdir(const char *path, mode_t mode) { return __wrap_mkdirat(AT_FDCWD, path, mode); }

static void count_group(const char *child, const void *unused) {
  (void)child;
  (void)unused;
  errno = EBUSY;
}

int __wrap_unlinkat(int dir, const char *path, int flags) {
  char parent[PATH_SIZE], name[PATH_SIZE], group[2 * PATH_SIZE];
  folder_of(dir, path, parent, name);
  format(group, sizeof group, "%s/%s", parent, name);
  errno = 0;
  each_child(group, count_group, NULL);
  if (is_v2(group) && holds_processes(group)) errno = EBUSY;
  if (errno == EBUSY) return -1;
  DIR *folder = opendir(group);
  for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
    if (entry->d_type == DT_REG) __real_unlinkat(dirfd(folder), entry->d_name, 0);
  if (folder != NULL) closedir(folder);
  return __real_unlinkat(AT_FDCWD, group, flags);
}
int __wrap_rmdir(const char *path) { return __wrap_unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

FILE *__wrap_fopen(const char *path, const char *mode) {
  return __real_fopen(strncmp(path, "/proc/", 6) == 0 ? at(root, path + 1) : path, mode);
}

static void be_self(const char *group, const void *pid) {
  if (has_word(group, "cgroup.procs", "SELF")) {
    set_word(group, "cgroup.procs", "SELF", false);
    set_word(group, "cgroup.procs", pid, true);
  }
  each_child(group, be_self, pid);
}

static void run(struct cgroups *groups, const char *operation) {
  static const struct sandbox_spec spec = {.memory = 64 << 20, .disk = 16 << 20, .pids = 32, .cpu_milli = 500};
  struct statistics statistics;
  uint32_t memory, pids;
  int attach[MAX_TREES], attach_count, into;
  char text[1024] = "";
  if (strcmp(operation, "create") == 0)
    printf("%s\n", cgroups_create(groups, 1, &spec, attach, &attach_count, &into, text, sizeof text)
                       ? into >= 0 ? "into" : "attach" : text);
  if (strcmp(operation, "events") == 0) {
    cgroups_events(groups, 1, &memory, &pids);
    printf("memory %u pids %u\n", memory, pids);
  }
  if (strcmp(operation, "statistics") == 0) {
    cgroups_statistics(groups, 1, &statistics);
    printf("cpu %ld memory %ld peak %ld kills %ld\n", (long)statistics.cpu_us, (long)statistics.memory,
           (long)statistics.memory_peak, (long)statistics.memory_kills);
  }
  if (strcmp(operation, "freeze") == 0) printf("%d\n", cgroups_freeze(groups, 1, true));
  if (strcmp(operation, "remove") == 0) printf("%d\n", cgroups_remove(groups, 1));
  if (strcmp(operation, "close") == 0) cgroups_close(groups);
  if (strncmp(operation, "cat ", 4) == 0) {
    get(root, operation + 4, text, sizeof text);
    for (char *c = text; *c != 0; c++) *c = *c == '\n' ? ' ' : *c;
    printf("%s\n", text);
  }
  if (strncmp(operation, "put ", 4) == 0) {
    char path[256] = "", value[256] = "";
    sscanf(operation + 4, "%255s %255[^\n]", path, value);
    put(root, path, value);
  }
}

int main(int count, char **arguments) {
  static struct cgroups groups;
  char self[32], level[32];
  if (count < 2) return 2;
  root = arguments[1];
  format(self, sizeof self, "%d", getpid());
  be_self(root, self);
  cgroups_detect(&groups, "ale-test");
  cgroups_describe(&groups, level, sizeof level);
  printf("%s", level);
  for (int i = 0; i < groups.count; i++) printf(" %s", groups.trees[i].path + strlen(root));
  printf("%s%s\n", groups.aside[0] != 0 ? " aside " : "", groups.aside[0] != 0 ? groups.aside + strlen(root) : "");
  for (int i = 2; i < count; i++) run(&groups, arguments[i]);
  return 0;
}
