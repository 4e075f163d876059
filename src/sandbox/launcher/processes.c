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
    if (pid < 1 || ((!shares || !read_share(pid, &bytes)) && !read_resident(pid, &bytes))) continue;
    usage.memory += bytes;
    usage.processes++;
    if (pid == 1 || bytes <= usage.largest) continue;
    usage.largest = bytes;
    usage.largest_pid = pid;
  }
  closedir(directory);
  return usage;
}
