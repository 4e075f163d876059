/*
 * Attacks on what makes a sandbox: the launcher's executable, the shell's channels, the overlay's own attributes. Each prints
 * `name result` lines, as probe.c does.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static void tell(const char *name, long result) {
  printf("%s %s\n", name, result >= 0 ? "works" : strerrorname_np(errno));
}

/*
 * For some seconds, tries to get hold of the executable, memory and descriptors of every process there is, in the hope of one
 * that was just cloned from init and is not its own program yet (CVE-2019-5736 and its kin).
 */
static void executable(int seconds) {
  int looks = 0, foreign = 0, opened = 0, memory = 0, descriptors = 0;
  for (time_t end = time(NULL) + seconds; time(NULL) < end;) {
    DIR *proc = opendir("/proc");
    for (struct dirent *item; (item = readdir(proc)) != NULL;) {
      int pid = atoi(item->d_name), fd;
      char path[64], target[512];
      if (pid < 1 || pid == getpid()) continue;
      looks++;
      snprintf(path, sizeof path, "/proc/%d/exe", pid);
      ssize_t length = readlink(path, target, sizeof target - 1);
      if (length < 0) continue;
      target[length] = 0;
      if (strncmp(target, "/usr/", 5) == 0 || strncmp(target, "/probe/", 7) == 0) continue;
      foreign++;
      if ((fd = open(path, O_RDONLY)) >= 0 || (fd = open(path, O_WRONLY)) >= 0) opened++, close(fd);
      snprintf(path, sizeof path, "/proc/%d/mem", pid);
      if ((fd = open(path, O_RDWR)) >= 0) memory++, close(fd);
      snprintf(path, sizeof path, "/proc/%d/fd/3", pid);
      if ((fd = open(path, O_RDWR)) >= 0) descriptors++, close(fd);
    }
    closedir(proc);
  }
  printf("looks %d\nforeign %d\nopened %d\nmemory %d\ndescriptors %d\n", looks > 100, foreign, opened, memory, descriptors);
  tell("init-exe", open("/proc/1/exe", O_RDONLY));
  tell("init-exe-write", open("/proc/1/exe", O_WRONLY));
  tell("init-map-files", open("/proc/1/map_files", O_RDONLY | O_DIRECTORY));
  int copy = memfd_create("own", MFD_CLOEXEC); /* one's own is one's own affair */
  if (copy >= 0) close(copy);
}

/* What the overlay keeps in extended attributes, set by hand on a file and a folder. */
static void attributes(const char *folder) {
  static const char *const names[] = {"redirect", "opaque", "metacopy", "origin", "impure", "nlink", "whiteout", "upper", "protattr", "xwhiteouts"};
  char name[64], inner[512];
  for (int trusted = 0; trusted < 2; trusted++)
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
      const char *value = strcmp(names[i], "redirect") == 0 ? "/etc" : "y";
      snprintf(name, sizeof name, "%s.overlay.%s", trusted ? "trusted" : "user", names[i]);
      int result = setxattr(folder, name, value, strlen(value), 0);
      if (trusted) tell(name, result);
      snprintf(inner, sizeof inner, "%s/file", folder);
      setxattr(inner, name, value, strlen(value), 0);
    }
  tell("security.capability", setxattr(folder, "security.capability", "x", 1, 0));
  snprintf(inner, sizeof inner, "%s/whiteout", folder);
  mknod(inner, S_IFCHR | 0600, makedev(0, 0));
}

/* Writes `text` into every pipe of the shell's that it can open. */
static void forge(const char *pid, const char *text) {
  char path[300];
  int written = 0;
  snprintf(path, sizeof path, "/proc/%s/fd", pid);
  DIR *folder = opendir(path);
  if (folder == NULL) {
    printf("forged none\n");
    return;
  }
  for (struct dirent *item; (item = readdir(folder)) != NULL;) {
    char target[300];
    snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, item->d_name);
    ssize_t length = readlink(path, target, sizeof target);
    if (length < 5 || strncmp(target, "pipe:", 5) != 0) continue;
    int fd = open(path, O_WRONLY | O_NONBLOCK);
    if (fd >= 0 && write(fd, text, strlen(text)) > 0) written++;
    if (fd >= 0) close(fd);
  }
  closedir(folder);
  printf("forged %s\n", written > 0 ? "some" : "none");
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (count > 2 && strcmp(arguments[1], "executable") == 0) executable(atoi(arguments[2]));
  if (count > 2 && strcmp(arguments[1], "attributes") == 0) attributes(arguments[2]);
  if (count > 3 && strcmp(arguments[1], "forge") == 0) forge(arguments[2], arguments[3]);
  return 0;
}
