/*
 * Who a program runs as, and what environment that gives it. Names are looked up in the sandbox's own /etc: whatever an
 * agent writes there, the result is an id of the sandbox's user namespace.
 */
#include "init.h"

#include <grp.h>

enum { MAX_DATABASE = 256 << 10, MAX_FIELDS = 8 };

/* /etc/passwd or /etc/group, or NULL; freed by the caller. */
static char *read_database(const char *path) {
  struct stat status;
  int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  char *text = NULL;
  if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (text = malloc(MAX_DATABASE)) != NULL) {
    size_t used = 0;
    ssize_t n;
    while (used + 1 < MAX_DATABASE && (n = read(fd, text + used, MAX_DATABASE - 1 - used)) > 0) used += (size_t)n;
    text[used] = 0;
  }
  if (fd >= 0) close(fd);
  return text;
}

/* Cuts a line at its colons. Returns how many fields there are. */
static int split(char *line, char **fields) {
  int count = 0;
  for (char *rest = line; rest != NULL && count < MAX_FIELDS;) fields[count++] = strsep(&rest, ":");
  return count;
}

/* The line of `path` whose field `key` is `value`; its fields point into `*text`. */
static int find_line(const char *path, int key, const char *value, char **text, char **fields) {
  char *state = NULL;
  *text = read_database(path);
  for (char *line = *text == NULL ? NULL : strtok_r(*text, "\n", &state); line != NULL;
       line = strtok_r(NULL, "\n", &state)) {
    int count = split(line, fields);
    if (count > key && strcmp(fields[key], value) == 0) return count;
  }
  return 0;
}

static bool parse_id(const char *text, uint32_t *id) {
  char *end;
  if (*text < '0' || *text > '9') return false;
  unsigned long value = strtoul(text, &end, 10);
  *id = (uint32_t)value;
  return *end == 0 && value < UINT32_MAX;
}

static void add_groups(struct user *user) {
  char *fields[MAX_FIELDS], *state = NULL, *text = read_database("/etc/group");
  for (char *line = text == NULL ? NULL : strtok_r(text, "\n", &state); line != NULL;
       line = strtok_r(NULL, "\n", &state)) {
    uint32_t id;
    char *member_state = NULL;
    if (split(line, fields) < 4 || !parse_id(fields[2], &id)) continue;
    for (char *name = strtok_r(fields[3], ",", &member_state); name != NULL; name = strtok_r(NULL, ",", &member_state))
      if (strcmp(name, user->name) == 0 && user->group_count < MAX_GROUPS) user->groups[user->group_count++] = id;
  }
  free(text);
}

bool group_find(const char *name, uint32_t *id) {
  char *text = NULL, *fields[MAX_FIELDS];
  bool found = parse_id(name, id) || (find_line("/etc/group", 0, name, &text, fields) >= 3 && parse_id(fields[2], id));
  free(text);
  return found;
}

bool user_find(const char *name, struct user *user) {
  char *text = NULL, *fields[MAX_FIELDS];
  uint32_t id;
  memset(user, 0, sizeof *user);
  format(user->home, sizeof user->home, "/root");
  if (*name == 0 || strcmp(name, "root") == 0) return true;
  bool number = parse_id(name, &id);
  int count = find_line("/etc/passwd", number ? 2 : 0, name, &text, fields);
  bool found = count >= 6 && parse_id(fields[2], &user->uid) && parse_id(fields[3], &user->gid);
  format(user->name, sizeof user->name, "%s", found ? fields[0] : name);
  format(user->home, sizeof user->home, "%s", found ? fields[5] : "/");
  free(text);
  if (!found && number) user->uid = user->gid = id;
  if (found) add_groups(user);
  return found || number;
}

bool user_become(const struct user *user) {
  if (user->uid == 0 && user->gid == 0) return true;
  return setgroups((size_t)user->group_count, user->groups) == 0 &&
         setresgid(user->gid, user->gid, user->gid) == 0 && setresuid(user->uid, user->uid, user->uid) == 0;
}

static bool same_key(const char *a, const char *b) {
  size_t length = strcspn(a, "=");
  return strncmp(a, b, length) == 0 && b[length] == '=';
}

/* In a child, which ends without giving its memory back. */
char **environment_for(const struct user *user, char *const *extra, int extra_count) {
  int count = 0, given_count = 0;
  char *const *given = given_variables();
  while (given[given_count] != NULL) given_count++;
  if (user->uid == 0 && extra_count + given_count == 0) return (char **)sandbox_environment;
  char **all = calloc(16 + (size_t)extra_count + (size_t)given_count, sizeof *all), *own = malloc(3 * PATH_SIZE);
  if (all == NULL || own == NULL) _exit(126);
  for (char *const *item = sandbox_environment; *item != NULL; item++) all[count++] = *item;
  if (user->uid != 0) {
    static const char *const patterns[] = {"HOME=%s", "USER=%s", "LOGNAME=%s"};
    for (int i = 0; i < 3; i++) {
      format(own + i * PATH_SIZE, PATH_SIZE, patterns[i], i == 0 ? user->home : user->name);
      all[i == 0 ? 1 : count++] = own + i * PATH_SIZE; /* HOME is the second of the usual ones */
    }
  }
  for (int i = 0; i < given_count + extra_count; i++) {
    char *item = i < given_count ? given[i] : extra[i - given_count];
    int at = 0;
    while (at < count && !same_key(item, all[at])) at++;
    all[at] = item;
    if (at == count) count++;
  }
  all[count] = NULL;
  return all;
}
