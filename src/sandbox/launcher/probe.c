/* What this machine allows, one primitive at a time: lines `name<TAB>0|1<TAB>detail`. For `ale doctor`. */
#include "launcher.h"

#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static void tell(const char *name, bool good, const char *detail) {
  printf("%s\t%d\t%s\n", name, good, detail);
  fflush(stdout);
}

/* Runs a check in a child, which exits with the error number of what failed. */
static bool attempt(int (*check)(void), char *detail, size_t capacity) {
  int status;
  pid_t child = fork();
  if (child == 0) _exit(check());
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) {
    format(detail, capacity, "the check was killed");
    return false;
  }
  format(detail, capacity, "%s", WEXITSTATUS(status) == 0 ? "works" : strerror(WEXITSTATUS(status)));
  return WEXITSTATUS(status) == 0;
}

static int become_root(int more) {
  char map[64];
  unsigned uid = geteuid(), gid = getegid();
  if (unshare(CLONE_NEWUSER | more) != 0) return errno;
  write_text_at(AT_FDCWD, "/proc/self/setgroups", "deny");
  format(map, sizeof map, "0 %u 1", uid);
  if (!write_text_at(AT_FDCWD, "/proc/self/uid_map", map)) return errno;
  format(map, sizeof map, "0 %u 1", gid);
  return write_text_at(AT_FDCWD, "/proc/self/gid_map", map) ? 0 : errno;
}

static int check_user_namespace(void) { return become_root(0); }

static int check_namespaces(void) {
  return become_root(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP);
}

/* An overlay with a tmpfs upper layer, in a user namespace; with `merged/sub` below. */
static int check_overlay(void) {
  int error = become_root(CLONE_NEWNS);
  if (error != 0) return error;
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return errno;
  if (mount("t", "/proc", "tmpfs", 0, NULL) != 0 || chdir("/proc") != 0) return errno; /* the one folder always there */
  mkdir("lower", 0755);
  mkdir("lower/sub", 0755);
  mkdir("upper", 0755);
  mkdir("work", 0755);
  mkdir("merged", 0755);
  if (mount("o", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work,userxattr") != 0) return errno;
  return mkdir("merged/more", 0755) == 0 && rmdir("merged/sub") == 0 ? 0 : errno;
}

/* Besides, a lower folder that was removed is made again, which takes an attribute user.* on tmpfs. */
static int check_replacing(void) {
  int error = check_overlay();
  return error != 0 ? error : mkdir("merged/sub", 0755) == 0 ? 0 : errno;
}

static int check_seccomp(void) {
  seccomp_prepare(true);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  return seccomp_install() ? 0 : errno;
}

static int check_idmap(void) {
  static const struct level level = {.mapped = true, .first_id = 100000, .id_count = 65536};
  return geteuid() != 0 ? EPERM : stage_probe_mapping(&level);
}

/* In a child, because it enters namespaces; it says what it found through a pipe. */
static bool attempt_subordinate(char *detail, size_t capacity) {
  int told[2], status = 1;
  format(detail, capacity, "the check was killed");
  if (geteuid() == 0) {
    format(detail, capacity, "not needed as root");
    return true;
  }
  if (pipe2(told, O_CLOEXEC) != 0) return false;
  pid_t child = fork();
  if (child == 0) {
    bool good = subordinate_probe(detail, capacity);
    write_all(told[1], detail, strlen(detail));
    _exit(good ? 0 : 1);
  }
  close(told[1]);
  ssize_t n = read(told[0], detail, capacity - 1);
  close(told[0]);
  if (n > 0) detail[n] = 0;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int probe_main(void) {
  static const struct {
    const char *name;
    int (*check)(void);
  } checks[] = {{"user namespaces", check_user_namespace}, {"all namespaces", check_namespaces},
                {"overlay on tmpfs", check_overlay},       {"overlay, replacing", check_replacing},
                {"system call filter", check_seccomp},     {"id-mapped mounts", check_idmap}};
  char detail[256];
  struct utsname system;
  if (uname(&system) == 0) tell("kernel", true, system.release);
  for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
    bool good = attempt(checks[i].check, detail, sizeof detail);
    tell(checks[i].name, good, detail);
  }
  bool subordinate = attempt_subordinate(detail, sizeof detail);
  tell("subordinate ids", subordinate, detail);
  int abi = landlock_abi();
  format(detail, sizeof detail, abi < 1 ? "not active" : "ABI %d", abi);
  tell("landlock", abi >= 1, detail);
  struct cgroups groups;
  char name[64], kind[16], text[PATH_SIZE + 128];
  format(name, sizeof name, "ale-probe-%d", getpid());
  cgroups_detect(&groups, name);
  cgroups_describe(&groups, kind, sizeof kind);
  format(text, sizeof text, "%s:%s%s%s%s", kind, groups.memory ? " memory" : "", groups.pids ? " pids" : "",
         groups.cpu ? " cpu" : "", groups.memory || groups.pids || groups.cpu ? "" : " none can be written");
  tell("control groups", groups.memory && groups.pids && groups.cpu, text);
  cgroups_close(&groups);
  return 0;
}
