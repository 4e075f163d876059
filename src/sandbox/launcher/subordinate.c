/*
 * Subordinate ids: the ranges that /etc/subuid and /etc/subgid give an ordinary user. newuidmap and newgidmap, which have the
 * right to, map them once per launcher, into a namespace that the factory enters. There it is the root of all of them, and
 * gives each sandbox a block of its own without asking anybody: so neither the user nor a neighbour is who the kernel counts
 * descriptors in flight, pipe pages and the like for.
 */
#include "launcher.h"

#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>

enum { MAX_RANGES = 8, TOOL_SECONDS = 5, MAX_IDS = 1 << 19, TOOL_OUTPUT = 1024 };

struct range {
  uint32_t first, count;
};
struct ranges {
  struct range all[MAX_RANGES];
  int count;
  uint32_t sum;
};
static struct ranges ranges[2]; /* of users, of groups */

/* What the ids of a block are inside: root and the system's own, services, the first users, nobody. */
static const struct range PARTS[] = {{0, 10}, {33, 10}, {100, 4}, {998, 7}, {65534, 1}};

static bool find_tool(const char *name, char *path, size_t capacity) {
  static const char *const folders[] = {"/usr/bin", "/run/wrappers/bin", "/bin", "/usr/local/bin"};
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
    format(path, capacity, "%s/%s", folders[i], name);
    if (access(path, X_OK) == 0) return true;
  }
  return false;
}

/* Runs a program, whose arguments begin with its name, and returns its exit code; what it says is in `output`. */
static int run_tool(char *const *arguments, char *output, size_t capacity) {
  char path[PATH_SIZE];
  int told[2], status;
  size_t used = 0;
  ssize_t n;
  *output = 0;
  if (!find_tool(arguments[0], path, sizeof path) || pipe2(told, O_CLOEXEC) != 0) return 127;
  pid_t child = fork();
  if (child == 0) {
    dup2(told[1], STDOUT_FILENO);
    dup2(told[1], STDERR_FILENO);
    alarm(TOOL_SECONDS);
    execv(path, arguments);
    _exit(127);
  }
  close(told[1]);
  while (used + 1 < capacity && (n = read(told[0], output + used, capacity - 1 - used)) > 0) used += (size_t)n;
  output[used] = 0;
  close(told[0]);
  if (child < 0 || waitpid(child, &status, 0) != child) return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The user's name, or the number where /etc/passwd has none. */
static void own_name(char *name, size_t capacity) {
  char line[1024];
  FILE *file = fopen("/etc/passwd", "re");
  format(name, capacity, "%u", getuid());
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    char *rest = line, *user = strsep(&rest, ":");
    strsep(&rest, ":");
    char *number = strsep(&rest, ":");
    if (number == NULL || strtoul(number, NULL, 10) != getuid()) continue;
    format(name, capacity, "%s", user);
    break;
  }
  if (file != NULL) fclose(file);
}

/* In whole blocks: a map may not lead across the end of a range. */
static void add_range(struct ranges *found, uint32_t first, uint32_t count) {
  count -= count % BLOCK_IDS;
  if (found->count == MAX_RANGES || count == 0 || found->sum >= MAX_IDS) return;
  if (count > MAX_IDS - found->sum) count = MAX_IDS - found->sum;
  found->all[found->count++] = (struct range){first, count};
  found->sum += count;
}

static void read_ranges(const char *path, const char *name, struct ranges *found) {
  char line[256], owner[128], number[16];
  unsigned first, count;
  FILE *file = fopen(path, "re");
  format(number, sizeof number, "%u", getuid());
  while (file != NULL && fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "%127[^:]:%u:%u", owner, &first, &count) == 3 && (strcmp(owner, name) == 0 || strcmp(owner, number) == 0))
      add_range(found, first, count);
  if (file != NULL) fclose(file);
}

/* Where the ranges are not in files but come from a directory service. */
static void ask_for_ranges(char *name, bool groups, struct ranges *found) {
  char output[TOOL_OUTPUT], *state = NULL;
  char *of_users[] = {"getsubids", name, NULL}, *of_groups[] = {"getsubids", "-g", name, NULL};
  unsigned first, count;
  if (run_tool(groups ? of_groups : of_users, output, sizeof output) != 0) return;
  for (char *line = strtok_r(output, "\n", &state); line != NULL; line = strtok_r(NULL, "\n", &state))
    if (sscanf(line, "%*u: %*s %u %u", &first, &count) == 2) add_range(found, first, count);
}

static void shorten(struct ranges *found, uint32_t sum) {
  while (found->sum > sum) {
    struct range *last = &found->all[found->count - 1];
    uint32_t over = found->sum - sum;
    if (over >= last->count) found->count--, found->sum -= last->count;
    else last->count -= over, found->sum = sum;
  }
}

/* Finds the user's ranges; false with the reason where they cannot be used. */
static bool prepare(char *reason, size_t capacity) {
  char name[128], path[PATH_SIZE];
  struct utsname system;
  memset(ranges, 0, sizeof ranges);
  *reason = 0;
  own_name(name, sizeof name);
  for (int groups = 0; groups < 2; groups++) {
    read_ranges(groups ? "/etc/subgid" : "/etc/subuid", name, &ranges[groups]);
    if (ranges[groups].count == 0) ask_for_ranges(name, groups, &ranges[groups]);
  }
  uint32_t sum = ranges[0].sum < ranges[1].sum ? ranges[0].sum : ranges[1].sum;
  shorten(&ranges[0], sum);
  shorten(&ranges[1], sum);
  const char *tools = find_tool("newuidmap", path, sizeof path) && find_tool("newgidmap", path, sizeof path)
                          ? ""
                          : "newuidmap and newgidmap are not installed";
  const char *and = *tools != 0 && sum < 2 * BLOCK_IDS ? "; " : "";
  if (sum < 2 * BLOCK_IDS)
    format(reason, capacity, "%s%s%.64s has %u ids in /etc/subuid and /etc/subgid, of the %u that are needed", tools, and, name,
           sum, 2 * BLOCK_IDS);
  else
    format(reason, capacity, "%s", tools);
  if (*reason != 0) return false;
  if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1) {
    format(reason, capacity, "no_new_privs is set, under which newuidmap cannot work");
    return false;
  }
  if (!can_show_with_ids()) {
    format(reason, capacity, "Linux 6.3 or newer is needed, this is %.64s", uname(&system) == 0 ? system.release : "unknown");
    return false;
  }
  return true;
}

/* In the first namespace: 0 is the user, from 1 on the ranges follow one another. */
static bool map_by_tools(pid_t pid, char *reason, size_t capacity) {
  static char *const tools[] = {"newuidmap", "newgidmap"};
  char texts[2 + 3 * (1 + MAX_RANGES)][16], output[TOOL_OUTPUT], *arguments[3 + 3 * (1 + MAX_RANGES)];
  for (int groups = 1; groups >= 0; groups--) {
    int count = 0;
    uint32_t inside = 1;
    arguments[count++] = tools[groups];
    format(texts[count], sizeof texts[0], "%d", pid);
    count++;
    for (int i = -1; i < ranges[groups].count; i++) {
      struct range own = {groups ? getgid() : getuid(), 1}, *range = i < 0 ? &own : &ranges[groups].all[i];
      format(texts[count], sizeof texts[0], "%u", i < 0 ? 0 : inside);
      format(texts[count + 1], sizeof texts[0], "%u", range->first);
      format(texts[count + 2], sizeof texts[0], "%u", range->count);
      count += 3;
      if (i >= 0) inside += range->count;
    }
    for (int i = 1; i < count; i++) arguments[i] = texts[i];
    arguments[count] = NULL;
    int code = run_tool(arguments, output, sizeof output);
    output[strcspn(output, "\n")] = 0;
    if (code != 0) format(reason, capacity, "%s: %s", tools[groups], *output != 0 ? output : "failed");
    if (code != 0) return false;
  }
  return true;
}

static bool write_map(pid_t pid, bool groups, const char *map) {
  char path[64];
  format(path, sizeof path, "/proc/%d/%s", pid, groups ? "gid_map" : "uid_map");
  return write_text_at(AT_FDCWD, path, map);
}

static bool map_the_same(pid_t pid, char *reason, size_t capacity) {
  for (int groups = 0; groups < 2; groups++) {
    char map[64 * MAX_RANGES] = "0 0 1\n";
    uint32_t next = 1;
    for (int i = 0; i < ranges[groups].count; i++) {
      size_t used = strlen(map);
      format(map + used, sizeof map - used, "%u %u %u\n", next, next, ranges[groups].all[i].count);
      next += ranges[groups].all[i].count;
    }
    if (write_map(pid, groups, map)) continue;
    format(reason, capacity, "id maps of the inner namespace: %s", strerror(errno));
    return false;
  }
  return true;
}

/* Enters a new user namespace, whose ids a child that stays outside maps. False with the reason; it may be entered then, too. */
static bool enter(bool (*map)(pid_t, char *, size_t), bool *entered, char *reason, size_t capacity) {
  int pair[2], status = 1;
  char byte = 'g';
  pid_t self = getpid();
  format(reason, capacity, "the process that maps ids did not start");
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return false;
  pid_t child = fork();
  if (child == 0) {
    close(pair[0]);
    bool good = read(pair[1], &byte, 1) == 1 && map(self, reason, capacity);
    if (!good) send_packet(pair[1], reason, strlen(reason) + 1, NULL, 0);
    _exit(good ? 0 : 1);
  }
  close(pair[1]);
  *entered = child > 0 && unshare(CLONE_NEWUSER) == 0;
  if (child > 0 && !*entered) format(reason, capacity, "user namespace: %s", strerror(errno));
  if (*entered && write_all(pair[0], &byte, 1)) receive_packet(pair[0], reason, capacity, NULL, NULL, 0);
  close(pair[0]);
  if (child > 0 && waitpid(child, &status, 0) != child) status = 1;
  if (status == 0) *reason = 0;
  return status == 0;
}

/*
 * Two namespaces, one in the other: what all sandboxes together take of the user's (inotify instances, queues, signals) is
 * counted where the limits of the first hold, half of the user's, whatever each takes in the second.
 */
static uint32_t subordinate_enter(bool *entered, char *reason, size_t capacity) {
  *entered = false;
  return prepare(reason, capacity) && enter(map_by_tools, entered, reason, capacity) ? ranges[0].sum : 0;
}

static bool subordinate_nest(char *reason, size_t capacity) {
  if (setgroups(0, NULL) != 0) { /* the user's further groups are none of the sandboxes' */
    format(reason, capacity, "supplementary groups: %s", strerror(errno));
    return false;
  }
  bool entered;
  return enter(map_the_same, &entered, reason, capacity);
}

static bool fail(char *error, size_t capacity, const char *what) {
  format(error, capacity, "%s: %s", what, strerror(errno));
  return false;
}

/* Half of what the kernel grants our user stays with the user's own programs, whatever all sandboxes do. */
static void halve_quotas(void) {
  static const int kinds[] = {RLIMIT_MSGQUEUE, RLIMIT_SIGPENDING};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    struct rlimit limit;
    if (getrlimit(kinds[i], &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) continue;
    limit.rlim_cur = limit.rlim_max = limit.rlim_cur / 2;
    setrlimit(kinds[i], &limit);
  }
}

/* Half of the number in `from` becomes the limit of our user namespace in `to`. */
static void halve_number(const char *from, const char *to) {
  char text[32];
  if (read_text_at(AT_FDCWD, from, text, sizeof text) <= 0) return;
  format(text, sizeof text, "%lu", strtoul(text, NULL, 10) / 2);
  write_text_at(AT_FDCWD, to, text);
}

/* As an ordinary user: become root of a user namespace that holds only ourselves, and our subordinate ids where there are any. */
bool enter_own_namespace(struct level *level, char *error, size_t capacity) {
  char map[64];
  unsigned uid = geteuid(), gid = getegid();
  bool entered = false;
  halve_quotas();
  if (level->want_subordinate) level->subordinate = subordinate_enter(&entered, error, capacity);
  error[0] = 0; /* without them then */
  if (!entered && unshare(CLONE_NEWUSER) != 0) return fail(error, capacity, "user namespace");
  if (level->subordinate == 0) {
    write_text_at(AT_FDCWD, "/proc/self/setgroups", "deny");
    format(map, sizeof map, "0 %u 1", uid);
    if (!write_text_at(AT_FDCWD, "/proc/self/uid_map", map)) return fail(error, capacity, "uid_map");
    format(map, sizeof map, "0 %u 1", gid);
    /* newgidmap may have written it before newuidmap failed. */
    if (!write_text_at(AT_FDCWD, "/proc/self/gid_map", map) && !entered) return fail(error, capacity, "gid_map");
  }
  halve_number("/proc/sys/fs/inotify/max_user_instances", "/proc/sys/user/max_inotify_instances");
  halve_number("/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches");
  return level->subordinate == 0 || subordinate_nest(error, capacity);
}

bool subordinate_probe(char *detail, size_t capacity) {
  bool entered;
  uint32_t count = subordinate_enter(&entered, detail, capacity);
  if (count == 0 || !subordinate_nest(detail, capacity)) return false;
  format(detail, capacity, "%u ids, %u for each of %u sandboxes", count, BLOCK_IDS, count / BLOCK_IDS - 1);
  return true;
}

bool subordinate_write_maps(pid_t pid, const struct sandbox_spec *spec) {
  char map[512] = "";
  uint32_t next = spec->ids;
  for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) {
    size_t used = strlen(map);
    if (i == 0 && spec->users_root)
      format(map, sizeof map, "0 0 1\n1 %u %u\n", next + 1, PARTS[0].count - 1);
    else
      format(map + used, sizeof map - used, "%u %u %u\n", PARTS[i].first, next, PARTS[i].count);
    next += PARTS[i].count;
  }
  return write_map(pid, false, map) && write_map(pid, true, map);
}

/*
 * A process may be any of a sandbox's ids, and the kernel limits the processes of each; of all together it does by what whoever
 * makes their namespace may have, which is set for that moment.
 */
void subordinate_limit_processes(uint64_t count) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NPROC, &limit) != 0) return;
  limit.rlim_cur = count < limit.rlim_max ? count : limit.rlim_max;
  setrlimit(RLIMIT_NPROC, &limit);
}
