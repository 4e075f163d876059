/*
 * Room for control groups in a hierarchy of version 2. Controllers are handed down from the top, one group after the other, and a group
 * that hands memory to its children may have no processes itself (the "no internal processes" rule). So where none of the groups above ours
 * can be had, as in a unit with Delegate=yes or in a container, the processes of our own group move down into a child of it.
 */
#include "launcher.h"

static const char *const controllers[] = {"memory", "pids", "cpu"};
static const char aside[] = "ale-own";

/* Whether the group has processes of its own, and is not the machine's root, which may. */
static bool holds_processes(int dir) {
  char text[16];
  return read_text_at(dir, "cgroup.type", text, sizeof text) > 0 && read_text_at(dir, "cgroup.procs", text, sizeof text) != 0;
}

void room_hand_down(int dir, struct cgroup_tree *tree) {
  char text[32];
  bool handed[3] = {false, false, false};
  /* The kernel would hand down pids and cpu from a group with processes, too, and then its children take threads only. */
  bool may = !holds_processes(dir);
  for (int i = 0; may && i < 3; i++) { /* one by one: a line with one that is not to be had does nothing */
    format(text, sizeof text, "+%s", controllers[i]);
    handed[i] = write_text_at(dir, "cgroup.subtree_control", text);
  }
  tree->memory = handed[0];
  tree->pids = handed[1];
  tree->cpu = handed[2];
}

void room_hand_down_above(const char *own, size_t top) {
  char path[PATH_SIZE];
  struct cgroup_tree unused;
  format(path, sizeof path, "%s", own);
  for (size_t length = top; length < strlen(own); length += 1 + strcspn(own + length + 1, "/")) {
    path[length] = 0;
    int dir = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (dir >= 0) room_hand_down(dir, &unused);
    if (dir >= 0) close(dir);
    path[length] = '/';
  }
}

/* Moves all processes of one group into another. A process may start others meanwhile. */
static bool move_all(int from, int to) {
  for (int round = 0; round < 20; round++) {
    char text[16384], *state = NULL;
    ssize_t length = read_text_at(from, "cgroup.procs", text, sizeof text);
    if (length <= 0) return length == 0;
    if ((size_t)length + 1 == sizeof text) *strrchr(text, '\n') = 0; /* the last line may be cut off */
    for (char *line = strtok_r(text, "\n", &state); line != NULL; line = strtok_r(NULL, "\n", &state)) {
      if (strcmp(line, "0") == 0) return false; /* of another pid namespace: it cannot be named here */
      if (!write_text_at(to, "cgroup.procs", line) && errno != ESRCH) return false;
    }
  }
  return false;
}

bool room_step_aside(const char *own) {
  char text[64];
  int dir = open(own, O_DIRECTORY | O_RDONLY | O_CLOEXEC), child = -1;
  if (dir < 0) return false;
  bool made = read_text_at(dir, "cgroup.controllers", text, sizeof text) > 0 && strstr(text, "memory") != NULL &&
              mkdirat(dir, aside, 0755) == 0;
  if (made || errno == EEXIST) child = openat(dir, aside, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  bool moved = child >= 0 && move_all(dir, child);
  if (!moved && made) {
    if (child >= 0) move_all(child, dir);
    unlinkat(dir, aside, AT_REMOVEDIR);
  }
  if (child >= 0) close(child);
  close(dir);
  return moved;
}

bool room_was_made(const char *own, const char *parent) {
  size_t length = strlen(parent);
  return strncmp(own, parent, length) == 0 && own[length] == '/' && strcmp(own + length + 1, aside) == 0;
}

void room_step_back(const char *own) {
  char text[32];
  int dir = open(own, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  int child = dir < 0 ? -1 : openat(dir, aside, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  bool free_again = child >= 0;
  for (int i = 0; free_again && i < 3; i++) {
    format(text, sizeof text, "-%s", controllers[i]);
    free_again = write_text_at(dir, "cgroup.subtree_control", text) || errno == ENOENT; /* EBUSY: another launcher's groups */
  }
  if (free_again && move_all(child, dir)) unlinkat(dir, aside, AT_REMOVEDIR);
  if (child >= 0) close(child);
  if (dir >= 0) close(dir);
}
