/*
 * Control groups: v1, v2 or both, whichever the machine has and lets us write. The broker makes one group of its own per
 * hierarchy (`ale-<pid>-<start>`), and below it one per sandbox.
 *
 * A v1 sandbox joins by writing "0" to `tasks` itself: moving the writing thread takes no lock of the whole system, where
 * writing a pid to `cgroup.procs` waits for an RCU grace period (14 ms measured). A v2 sandbox is born in its group
 * (CLONE_INTO_CGROUP).
 */
#include "launcher.h"

#include <sys/resource.h>
#include <sys/wait.h>

/* Steps of niceness that all sandboxes together are below control, as engines are. */
enum { NICER = 5 };

static bool has_word(const char *list, const char *word, const char *separators) {
  char copy[1024];
  format(copy, sizeof copy, "%s", list);
  char *state = NULL;
  for (char *item = strtok_r(copy, separators, &state); item != NULL; item = strtok_r(NULL, separators, &state))
    if (strcmp(item, word) == 0) return true;
  return false;
}

/* Our own group in the hierarchy with `controller` (v1), or in the v2 hierarchy ("" as controller). */
static bool own_group(const char *controller, char *path, size_t capacity) {
  FILE *file = fopen("/proc/self/cgroup", "re");
  if (file == NULL) return false;
  char line[PATH_SIZE];
  bool found = false;
  while (!found && fgets(line, sizeof line, file) != NULL) {
    char *first = strchr(line, ':');
    char *second = first != NULL ? strchr(first + 1, ':') : NULL;
    if (second == NULL) continue;
    *second = 0;
    second[1 + strcspn(second + 1, "\n")] = 0;
    found = *controller == 0 ? first[1] == 0 : has_word(first + 1, controller, ",");
    if (found) format(path, capacity, "%s", second + 1);
  }
  fclose(file);
  return found && strncmp(path, "/..", 3) != 0;
}

/* Where the hierarchy is mounted, and which of its groups is the root of that mount. */
static bool find_mount(const char *controller, char *point, char *root) {
  FILE *file = fopen("/proc/self/mountinfo", "re");
  if (file == NULL) return false;
  char line[4096];
  bool found = false;
  while (!found && fgets(line, sizeof line, file) != NULL) {
    char *rest = strstr(line, " - ");
    char type[32], options[1024];
    if (rest == NULL || sscanf(rest, " - %31s %*s %1023s", type, options) != 2) continue;
    if (*controller == 0 ? strcmp(type, "cgroup2") != 0
                         : strcmp(type, "cgroup") != 0 || !has_word(options, controller, ","))
      continue;
    found = sscanf(line, "%*d %*d %*s %1023s %1023s", root, point) == 2;
  }
  fclose(file);
  return found;
}

/* The folder of our own group, as a path of this mount namespace, and the mount point it lies under. */
static bool own_folder(const char *controller, char *folder, char *point) {
  char group[PATH_SIZE], root[PATH_SIZE];
  if (!own_group(controller, group, sizeof group) || !find_mount(controller, point, root)) return false;
  const char *below = group;
  size_t root_length = strcmp(root, "/") == 0 ? 0 : strlen(root);
  if (strncmp(group, root, root_length) != 0) return false;
  below += root_length;
  if (snprintf(folder, PATH_SIZE, "%s%s", point, strcmp(below, "/") == 0 ? "" : below) >= PATH_SIZE) return false;
  return true;
}

static int find_tree(const struct cgroups *groups, const char *path) {
  for (int i = 0; i < groups->count; i++)
    if (strcmp(groups->trees[i].path, path) == 0) return i;
  return -1;
}

static void mark(struct cgroups *groups, struct cgroup_tree *tree, const char *controller) {
  if (strcmp(controller, "memory") == 0) tree->memory = groups->memory = true;
  if (strcmp(controller, "pids") == 0) tree->pids = groups->pids = true;
  if (strcmp(controller, "cpu") == 0) tree->cpu = groups->cpu = true;
}

static void detect_v1(struct cgroups *groups, const char *name, const char *controller) {
  char folder[PATH_SIZE], point[PATH_SIZE], path[PATH_SIZE + 64], own[PATH_SIZE];
  if (!own_folder(controller, folder, point) || groups->count == MAX_TREES) return;
  if (realpath(folder, own) == NULL) return;
  if (snprintf(path, sizeof path, "%s/%s", own, name) >= PATH_SIZE) return;
  int known = find_tree(groups, path); /* cpu and cpuacct share one hierarchy on many systems */
  if (known < 0) {
    if (mkdir(path, 0755) != 0 && errno != EEXIST) return;
    struct cgroup_tree *tree = &groups->trees[groups->count];
    format(tree->path, sizeof tree->path, "%s", path);
    tree->dir = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (tree->dir < 0) return;
    known = groups->count++;
  }
  bool limits = strcmp(controller, "cpu") != 0 || faccessat(groups->trees[known].dir, "cpu.cfs_quota_us", F_OK, 0) == 0;
  if (limits) mark(groups, &groups->trees[known], controller);
}

/* Whether a process of ours may be moved into the group. */
static bool can_attach(int dir) {
  pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    pause();
    _exit(0);
  }
  char text[32];
  format(text, sizeof text, "%d", child);
  bool moved = write_text_at(dir, "cgroup.procs", text);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  return moved;
}

/* Tries to make our v2 group below `parent`. */
static bool try_v2(struct cgroups *groups, const char *parent, const char *name) {
  struct cgroup_tree tree = {.v2 = true, .dir = -1}, unused;
  char enabled[512] = "";
  if (snprintf(tree.path, sizeof tree.path, "%s/%s", parent, name) >= PATH_SIZE) return false;
  int parent_dir = open(parent, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  if (parent_dir < 0) return false;
  room_hand_down(parent_dir, &unused); /* usually done already; the result is read below */
  read_text_at(parent_dir, "cgroup.subtree_control", enabled, sizeof enabled);
  close(parent_dir);
  if (!has_word(enabled, "memory", " \n") && !has_word(enabled, "pids", " \n")) return false;
  if (mkdir(tree.path, 0755) != 0 && errno != EEXIST) return false;
  tree.dir = open(tree.path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  if (tree.dir >= 0 && can_attach(tree.dir)) {
    room_hand_down(tree.dir, &tree);
    tree.cpu = tree.cpu && faccessat(tree.dir, "cpu.max", F_OK, 0) == 0; /* CONFIG_CFS_BANDWIDTH */
    groups->memory = tree.memory;
    groups->pids = tree.pids;
    groups->cpu = tree.cpu;
    groups->trees[groups->count++] = tree;
    return true;
  }
  if (tree.dir >= 0) close(tree.dir);
  rmdir(tree.path);
  return false;
}

static void detect_v2(struct cgroups *groups, const char *name) {
  char folder[PATH_SIZE], point[PATH_SIZE], own[PATH_SIZE], parent[PATH_SIZE];
  if (!own_folder("", folder, point) || realpath(folder, own) == NULL) return;
  size_t floor = strlen(point);
  room_hand_down_above(own, floor);
  /* Our own group holds processes, so it may not have controllers for children (the "no internal processes" rule);
   * then an ancestor that we may write to will do, as systemd delegates them to users. */
  format(parent, sizeof parent, "%s", own);
  for (char *slash = parent + strlen(parent); slash != NULL && slash > parent; slash = strrchr(parent, '/')) {
    *slash = 0;
    if (strlen(parent) < floor) break;
    if (!try_v2(groups, parent, name)) continue;
    if (room_was_made(own, parent)) format(groups->aside, sizeof groups->aside, "%s", parent);
    return;
  }
  if (!room_step_aside(own)) return;
  if (try_v2(groups, own, name)) format(groups->aside, sizeof groups->aside, "%s", own);
  else room_step_back(own);
}

static bool write_number(int dir, const char *file, uint64_t value) {
  char text[32];
  format(text, sizeof text, "%llu", (unsigned long long)value);
  return write_text_at(dir, file, text);
}

/* All sandboxes together get the processor as one process would that is nicer than we are: control, which has our niceness,
 * answers at once however many they are. Without this a group counts as a process of niceness 0 whatever ours is. */
static void set_share(const struct cgroup_tree *tree) {
  int nice = getpriority(PRIO_PROCESS, 0) + NICER;
  if (nice > 19) nice = 19;
  uint64_t shares = 1024;
  for (int i = 0; i < nice; i++) shares = shares * 4 / 5; /* a step of niceness is a quarter, as for processes */
  for (int i = 0; i > nice; i--) shares = shares * 5 / 4;
  char text[32];
  format(text, sizeof text, "%d", nice);
  if (tree->v2) write_text_at(tree->dir, "cpu.weight.nice", text);
  else write_number(tree->dir, "cpu.shares", shares);
}

void cgroups_detect(struct cgroups *groups, const char *name) {
  memset(groups, 0, sizeof *groups);
  detect_v2(groups, name);
  if (!groups->memory) detect_v1(groups, name, "memory");
  if (!groups->pids) detect_v1(groups, name, "pids");
  if (!groups->cpu) detect_v1(groups, name, "cpu");
  for (int i = 0; i < groups->count; i++)
    if (groups->trees[i].cpu) set_share(&groups->trees[i]);
}

/* Files of the sandbox's tmpfs count as its memory, so the limit is the sum; the file system has its own size. */
static const char *set_limits(const struct cgroup_tree *tree, int dir, const struct sandbox_spec *spec) {
  uint64_t memory = spec->memory + spec->disk;
  char cpu[64];
  if (tree->memory && tree->v2) {
    if (!write_number(dir, "memory.max", memory)) return "memory.max";
    write_text_at(dir, "memory.swap.max", "0"); /* absent without swap */
  } else if (tree->memory) {
    if (!write_number(dir, "memory.limit_in_bytes", memory)) return "memory.limit_in_bytes";
    write_number(dir, "memory.memsw.limit_in_bytes", memory); /* absent without swap accounting */
  }
  if (tree->pids && !write_number(dir, "pids.max", spec->pids + EXTRA_PROCESSES)) return "pids.max";
  if (tree->cpu && tree->v2) {
    format(cpu, sizeof cpu, "%llu 100000", (unsigned long long)spec->cpu_milli * 100);
    if (!write_text_at(dir, "cpu.max", cpu)) return "cpu.max";
  } else if (tree->cpu && !write_number(dir, "cpu.cfs_quota_us", spec->cpu_milli * 100)) {
    return "cpu.cfs_quota_us";
  }
  return NULL;
}

bool cgroups_create(struct cgroups *groups, uint32_t sandbox, const struct sandbox_spec *spec, int *attach,
                    int *attach_count, int *into, char *error, size_t capacity) {
  char name[32];
  format(name, sizeof name, "s%u", sandbox);
  *attach_count = 0;
  *into = -1;
  for (int i = 0; i < groups->count; i++) {
    const struct cgroup_tree *tree = &groups->trees[i];
    const char *failed = "the folder";
    int dir = -1;
    if (mkdirat(tree->dir, name, 0755) == 0 && (dir = openat(tree->dir, name, O_DIRECTORY | O_RDONLY | O_CLOEXEC)) >= 0)
      failed = set_limits(tree, dir, spec);
    if (failed == NULL && !tree->v2) {
      int tasks = openat(dir, "tasks", O_WRONLY | O_CLOEXEC);
      if (tasks < 0) failed = "tasks";
      else attach[(*attach_count)++] = tasks;
    }
    if (failed == NULL && tree->v2) *into = dir;
    else if (dir >= 0) close(dir);
    if (failed != NULL) {
      format(error, capacity, "control group %s/%s: %s: %s", tree->path, name, failed, strerror(errno));
      for (int k = 0; k < *attach_count; k++) close(attach[k]);
      if (*into >= 0) close(*into);
      cgroups_remove(groups, sandbox);
      return false;
    }
  }
  return true;
}

/* The number after `key` in a file of `key value` lines. */
static uint32_t counter(int dir, const char *file, const char *key) {
  char text[1024], *state = NULL;
  if (read_text_at(dir, file, text, sizeof text) < 0) return 0;
  for (char *line = strtok_r(text, "\n", &state); line != NULL; line = strtok_r(NULL, "\n", &state)) {
    char name[64];
    unsigned value;
    if (sscanf(line, "%63s %u", name, &value) == 2 && strcmp(name, key) == 0) return value;
  }
  return 0;
}

/* A sandbox's group within a tree. */
static void group_name(char *name, size_t capacity, uint32_t sandbox) {
  if (sandbox == OWN_GROUP) format(name, capacity, ".");
  else format(name, capacity, "s%u", sandbox);
}

void cgroups_events(const struct cgroups *groups, uint32_t sandbox, uint32_t *memory, uint32_t *pids) {
  char name[32], file[64];
  *memory = *pids = 0;
  group_name(name, sizeof name, sandbox);
  for (int i = 0; i < groups->count; i++) {
    const struct cgroup_tree *tree = &groups->trees[i];
    format(file, sizeof file, "%s/%s", name, tree->v2 ? "memory.events" : "memory.oom_control");
    if (tree->memory) *memory = counter(tree->dir, file, "oom_kill");
    format(file, sizeof file, "%s/pids.events", name);
    if (tree->pids) *pids = counter(tree->dir, file, "max");
  }
}

/* The number a file holds, or NOT_KNOWN. */
static uint64_t number_in(int dir, const char *file) {
  char text[64];
  return read_text_at(dir, file, text, sizeof text) <= 0 ? NOT_KNOWN : strtoull(text, NULL, 10);
}

static uint64_t cpu_time(const struct cgroup_tree *tree, const char *name) {
  char file[64], text[1024];
  format(file, sizeof file, "%s/%s", name, tree->v2 ? "cpu.stat" : "cpuacct.usage");
  if (!tree->v2) {
    uint64_t ns = number_in(tree->dir, file); /* where cpu and cpuacct are mounted together */
    return ns == NOT_KNOWN ? NOT_KNOWN : ns / 1000;
  }
  const char *line = read_text_at(tree->dir, file, text, sizeof text) <= 0 ? NULL : strstr(text, "usage_usec ");
  return line == NULL ? NOT_KNOWN : strtoull(line + 11, NULL, 10);
}

void cgroups_statistics(const struct cgroups *groups, uint32_t sandbox, struct statistics *statistics) {
  char name[32], file[64];
  memset(statistics, 0xff, sizeof *statistics);
  group_name(name, sizeof name, sandbox);
  for (int i = 0; i < groups->count; i++) {
    const struct cgroup_tree *tree = &groups->trees[i];
    if (tree->cpu) statistics->cpu_us = cpu_time(tree, name);
    if (!tree->memory) continue;
    format(file, sizeof file, "%s/%s", name, tree->v2 ? "memory.current" : "memory.usage_in_bytes");
    statistics->memory = number_in(tree->dir, file);
    format(file, sizeof file, "%s/%s", name, tree->v2 ? "memory.peak" : "memory.max_usage_in_bytes");
    statistics->memory_peak = number_in(tree->dir, file);
    format(file, sizeof file, "%s/%s", name, tree->v2 ? "memory.events" : "memory.oom_control");
    statistics->memory_kills = counter(tree->dir, file, "oom_kill");
  }
}

/* Adds one tree of a container's own groups, as far as its limits are in force: a number is a limit, "max" none. */
static void open_own_tree(struct cgroups *groups, const char *path, bool v2, const struct sandbox_spec *spec) {
  struct cgroup_tree *tree = &groups->trees[groups->count];
  *tree = (struct cgroup_tree){.v2 = v2, .dir = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC)};
  if (tree->dir < 0) return;
  uint64_t pids = number_in(tree->dir, "pids.max");
  tree->memory = number_in(tree->dir, v2 ? "memory.max" : "memory.limit_in_bytes") - 1 < spec->memory + spec->disk;
  tree->pids = pids - 1 < spec->pids + EXTRA_PROCESSES;
  /* Where no limit is ours the group may be the whole machine's. */
  bool ours = tree->memory || tree->pids || groups->memory || groups->pids;
  tree->cpu = ours && (v2 || number_in(tree->dir, "cpuacct.usage") != NOT_KNOWN);
  if (!tree->memory && !tree->pids && !tree->cpu) {
    close(tree->dir);
    return;
  }
  groups->memory = groups->memory || tree->memory;
  groups->pids = groups->pids || tree->pids;
  groups->cpu = groups->cpu || tree->cpu;
  groups->count++;
}

void cgroups_open_own(struct cgroups *groups, const struct sandbox_spec *spec) {
  static const char *const v1[] = {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpuacct"};
  memset(groups, 0, sizeof *groups);
  bool v2 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
  if (v2) open_own_tree(groups, "/sys/fs/cgroup", true, spec);
  for (size_t i = 0; !v2 && i < sizeof v1 / sizeof *v1; i++) open_own_tree(groups, v1[i], false, spec);
}

/* Version 1's freezer is not used: what it holds cannot be killed, so it would outlive a launcher that was. */
static const struct cgroup_tree *freezing_tree(const struct cgroups *groups) {
  for (int i = 0; i < groups->count; i++)
    if (groups->trees[i].v2) return &groups->trees[i];
  return NULL;
}

bool cgroups_can_freeze(const struct cgroups *groups) { return freezing_tree(groups) != NULL; }

bool cgroups_freeze(const struct cgroups *groups, uint32_t sandbox, bool frozen) {
  char file[64];
  const struct cgroup_tree *tree = freezing_tree(groups);
  format(file, sizeof file, "s%u/cgroup.freeze", sandbox);
  return tree != NULL && write_text_at(tree->dir, file, frozen ? "1" : "0");
}

bool cgroups_remove(const struct cgroups *groups, uint32_t sandbox) {
  char name[32];
  bool gone = true;
  format(name, sizeof name, "s%u", sandbox);
  for (int i = 0; i < groups->count; i++)
    if (unlinkat(groups->trees[i].dir, name, AT_REMOVEDIR) != 0 && errno != ENOENT) gone = false;
  return gone;
}

void cgroups_close(struct cgroups *groups) {
  for (int i = 0; i < groups->count; i++) {
    close(groups->trees[i].dir);
    rmdir(groups->trees[i].path);
  }
  if (groups->aside[0] != 0) room_step_back(groups->aside);
}

void cgroups_describe(const struct cgroups *groups, char *text, size_t capacity) {
  bool v1 = false, v2 = false;
  for (int i = 0; i < groups->count; i++) *(groups->trees[i].v2 ? &v2 : &v1) = true;
  if (!groups->memory || !groups->pids) format(text, capacity, "rlimits");
  else format(text, capacity, "%s%s", v1 && v2 ? "cgroup1+2" : v2 ? "cgroup2" : "cgroup1", groups->cpu ? "" : "-nocpu");
}
