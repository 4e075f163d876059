/*
 * What the guards look at: the sandbox's processes, as its own /proc has them. Not its sockets: /proc/net/tcp walks the whole
 * host's table, for 15 ms, and whatever leaves the sandbox is on record with the proxy.
 *
 * Reply: strings, each ended by NUL. `PID START CPU_US SWITCHES WRITTEN` is followed by the process's arguments, joined by the
 * unit separator 0x1f; WRITTEN is −1 where it cannot be read.
 */
#include "init.h"

#include <dirent.h>

enum { MAX_PROCESSES = 1024, ARGUMENTS = 512, SEPARATOR = 0x1f };

static void append_text(struct buffer *out, const char *text) { buffer_append(out, text, strlen(text) + 1); }

/* The number behind `label` in a file of `label number` lines. */
static int64_t labelled(pid_t pid, const char *file, const char *label) {
  char path[64], text[4096];
  format(path, sizeof path, "/proc/%d/%s", pid, file);
  if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0) return -1;
  const char *at = strstr(text, label);
  return at == NULL ? -1 : strtoll(at + strlen(label), NULL, 10);
}

static void append_process(struct buffer *out, pid_t pid) {
  char path[64], text[1024], line[160], arguments[ARGUMENTS];
  unsigned long long user, system, start;
  format(path, sizeof path, "/proc/%d/stat", pid);
  if (read_text_at(AT_FDCWD, path, text, sizeof text) <= 0) return;
  const char *at = strrchr(text, ')');
  if (at == NULL || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %llu",
                           &user, &system, &start) != 3)
    return;
  unsigned long long us = (user + system) * (1000000ULL / (unsigned long long)sysconf(_SC_CLK_TCK));
  format(line, sizeof line, "%d %llu %llu %lld %lld", pid, start, us,
         (long long)labelled(pid, "status", "\nvoluntary_ctxt_switches:"), (long long)labelled(pid, "io", "wchar:"));
  format(path, sizeof path, "/proc/%d/cmdline", pid);
  ssize_t length = read_text_at(AT_FDCWD, path, arguments, sizeof arguments);
  if (length <= 0) return; /* a zombie, or one that just began */
  while (length > 0 && arguments[length - 1] == 0) length--;
  for (ssize_t i = 0; i < length; i++)
    if (arguments[i] == 0) arguments[i] = SEPARATOR;
  arguments[length] = 0;
  append_text(out, line);
  append_text(out, arguments);
}

void report_observation(uint32_t request) {
  struct buffer out = {0};
  DIR *directory = opendir("/proc");
  int count = 0;
  if (directory != NULL) {
    for (struct dirent *item; count < MAX_PROCESSES && (item = readdir(directory)) != NULL;) {
      pid_t pid = (pid_t)atoi(item->d_name);
      if (!is_of_sandbox(pid)) continue;
      append_process(&out, pid);
      count++;
    }
    closedir(directory);
  }
  reply(request, 0, out.data + out.start, buffer_length(&out));
  buffer_free(&out);
}
