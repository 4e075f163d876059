/* The sandbox's processes, read from its own /proc. */
#include "init.h"

#include <dirent.h>

uint64_t clock_ticks(void) {
  struct timespec time;
  clock_gettime(CLOCK_BOOTTIME, &time);
  long hertz = sysconf(_SC_CLK_TCK);
  return (uint64_t)time.tv_sec * (uint64_t)hertz + (uint64_t)time.tv_nsec / (uint64_t)(1000000000L / hertz);
}

/* Field 22 of /proc/<pid>/stat; the name in field 2 may hold spaces and parentheses. */
static bool start_ticks(pid_t pid, uint64_t *ticks) {
  char path[64], text[1024];
  format(path, sizeof path, "/proc/%d/stat", pid);
  if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0) return false;
  char *field = strrchr(text, ')');
  for (int i = 0; field != NULL && i < 20; i++) field = strchr(field + 1, ' ');
  if (field == NULL) return false;
  *ticks = strtoull(field + 1, NULL, 10);
  return true;
}

int kill_since(uint64_t since, int signal, pid_t spared) {
  int count = 0;
  DIR *directory = opendir("/proc");
  if (directory == NULL) return 0;
  for (struct dirent *item; (item = readdir(directory)) != NULL;) {
    pid_t pid = (pid_t)atoi(item->d_name);
    uint64_t ticks;
    if (pid <= 1 || pid == spared || !start_ticks(pid, &ticks) || ticks < since) continue;
    if (kill(pid, signal) == 0) count++;
  }
  closedir(directory);
  return count;
}

struct usage read_usage(void) {
  struct usage usage = {0};
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  DIR *directory = opendir("/proc");
  if (directory == NULL) return usage;
  for (struct dirent *item; (item = readdir(directory)) != NULL;) {
    char path[64], text[128];
    unsigned long resident;
    if (item->d_name[0] < '0' || item->d_name[0] > '9') continue;
    format(path, sizeof path, "/proc/%.20s/statm", item->d_name);
    if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0 || sscanf(text, "%*u %lu", &resident) != 1) continue;
    usage.resident += resident * page;
    usage.processes++;
    pid_t pid = (pid_t)atoi(item->d_name);
    if (pid > 1 && resident * page > usage.largest) {
      usage.largest = resident * page;
      usage.largest_pid = pid;
    }
  }
  closedir(directory);
  return usage;
}
