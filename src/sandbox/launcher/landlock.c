/*
 * The level below user namespaces: no namespace, no root file system, no network namespace. A program of ours that is the
 * init of one sandbox, on the machine's own files, in a domain of Landlock (Documentation/userspace-api/landlock.rst) that
 * lets it read what it was told and write below one folder, under a filter of system calls that makes no sockets.
 *
 * What is started belongs to the sandbox because it descends from this process, which adopts orphans. Each program gets a
 * domain of its own within, from which it cannot trace this process, nor (ABI 6, Linux 6.12) signal it or any other outside.
 * Below ABI 6 it can signal whatever else runs as the same user.
 */
#include "launcher.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { INPUT = 3, OUTPUT = 4, CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446, PATH_BENEATH = 1, VERSION = 1 };

/* As in linux/landlock.h, which may be older than the kernel. */
struct ruleset {
  uint64_t files, network, scoped;
};
struct path_rule {
  uint64_t allowed;
  int32_t folder;
} __attribute__((packed));
enum {
  EXECUTE = 1 << 0,
  WRITE_FILE = 1 << 1,
  READ_FILE = 1 << 2,
  READ_DIR = 1 << 3,
  MAKE_CHAR = 1 << 6,
  MAKE_BLOCK = 1 << 11,
  ABI_1 = (1 << 13) - 1,
  REFER = 1 << 13,     /* ABI 2 */
  TRUNCATE = 1 << 14,  /* ABI 3 */
  IOCTL_DEV = 1 << 15, /* ABI 5 */
  OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV,
  NET_ALL = 3,         /* bind and connect of TCP; ABI 4 */
  SCOPE_ALL = 3,       /* abstract sockets and signals; ABI 6 */
};

static bool active;
static int program_domain = -1;

int landlock_abi(void) { return (int)syscall(CREATE_RULESET, NULL, 0, VERSION); }

static struct ruleset all_of(int abi) {
  struct ruleset set = {.files = ABI_1};
  if (abi >= 2) set.files |= REFER;
  if (abi >= 3) set.files |= TRUNCATE;
  if (abi >= 5) set.files |= IOCTL_DEV;
  if (abi >= 4) set.network = NET_ALL;
  if (abi >= 6) set.scoped = SCOPE_ALL;
  return set;
}

/* What is not there needs no rule. */
static void allow(int ruleset, const char *path, uint64_t access) {
  struct stat status;
  struct path_rule rule = {.folder = open(path, O_PATH | O_CLOEXEC)};
  if (rule.folder < 0 || fstat(rule.folder, &status) != 0) return;
  rule.allowed = S_ISDIR(status.st_mode) ? access : access & OF_FILES;
  if (syscall(ADD_RULE, ruleset, PATH_BENEATH, &rule, 0) != 0) setup_fail(path);
  close(rule.folder);
}

/* `read`: files and programs; `device`: read and written; `root`: all but device nodes. */
static void enter_domain(int abi, const uint8_t *settings, size_t length, const char *root) {
  struct ruleset set = all_of(abi);
  const char *path;
  int ruleset = (int)syscall(CREATE_RULESET, &set, sizeof set, 0);
  if (ruleset < 0) setup_fail("a Landlock domain");
  for (size_t cursor = 0; (path = setting_next(settings, length, "read", &cursor)) != NULL;)
    allow(ruleset, path, EXECUTE | READ_FILE | READ_DIR);
  for (size_t cursor = 0; (path = setting_next(settings, length, "device", &cursor)) != NULL;)
    allow(ruleset, path, READ_FILE | WRITE_FILE);
  allow(ruleset, root, set.files & ~(uint64_t)(MAKE_CHAR | MAKE_BLOCK));
  if (syscall(RESTRICT_SELF, ruleset, 0) != 0) setup_fail("entering the Landlock domain");
  close(ruleset);
  /* For each program; below ABI 4 there is nothing to put in, and this process cannot be traced for not being dumpable. */
  active = true;
  struct ruleset own = {.network = set.network, .scoped = set.scoped};
  if (abi < 4) return;
  program_domain = (int)syscall(CREATE_RULESET, &own, sizeof own, 0);
  if (program_domain < 0) setup_fail("the programs' Landlock domain");
}

/* In a child, before it is its program. */
void landlock_program(void) {
  if (active) prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (program_domain >= 0 && syscall(RESTRICT_SELF, program_domain, 0) != 0) _exit(126);
}

static void drop_all_capabilities(void) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct none[2] = {{0}};
  if (syscall(SYS_capset, &header, none) != 0) setup_fail("capabilities");
}

static void limit(int resource, uint64_t value) {
  struct rlimit current;
  if (getrlimit(resource, &current) != 0) setup_fail("reading a resource limit");
  if (current.rlim_max != RLIM_INFINITY && value > current.rlim_max) value = current.rlim_max;
  struct rlimit wanted = {value, value};
  if (setrlimit(resource, &wanted) != 0) setup_fail("setting a resource limit");
}

static void lock(const struct sandbox_spec *spec, const uint8_t *settings, size_t length, const char *root) {
  int abi = landlock_abi(), null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) setup_fail("/dev/null");
  for (int fd = 0; fd < 3; fd++) dup2(null, fd);
  close(null);
  setsid();
  /* Without a signal at the parent's death: the end of our input tells of it, and then there are others to end first. */
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) setup_fail("adopting orphans");
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_NOFILE, 4096);
  limit(RLIMIT_DATA, spec->memory);
  limit(RLIMIT_FSIZE, spec->disk);
  /* The kernel counts all that the user runs, here and elsewhere, so this only bounds how far a fork bomb comes until the
   * watcher ends it. */
  limit(RLIMIT_NPROC, count_tasks_of_user() + spec->pids + PROCESS_SLACK);
  drop_all_capabilities();
  if (prctl(PR_SET_DUMPABLE, 0) != 0) setup_fail("undumpable");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) setup_fail("no_new_privs");
  enter_domain(abi, settings, length, root);
  seccomp_prepare_without_sockets();
  if (!seccomp_install()) setup_fail("seccomp");
}

int landlock_main(void) {
  static struct sandbox_spec spec;
  static struct level level; /* one user, no control groups */
  static char root[PATH_SIZE];
  struct frame_header hello;
  char text[64];
  if (dup2(STDIN_FILENO, INPUT) < 0 || dup2(STDOUT_FILENO, OUTPUT) < 0) return 125;
  syscall(SYS_close_range, OUTPUT + 1, ~0U, 0);
  const uint8_t *settings = hello_read(INPUT, &hello, &spec);
  setup_tell(OUTPUT, hello.sandbox, hello.request);
  const char *folder = setting(settings, hello.length, "root");
  format(root, sizeof root, "%s", folder == NULL ? "" : folder);
  errno = EPERM; /* no limit on processes holds for root */
  if (geteuid() == 0 || getuid() == 0) setup_fail("this level needs an ordinary user");
  if (landlock_abi() < 1) setup_fail("Landlock (is it among the kernel's active security modules?)");
  umask(022);
  init_without_namespaces(root);
  if (!enter_folder(spec.workdir)) setup_fail(spec.workdir);
  lock(&spec, settings, hello.length, root);
  format(text, sizeof text, "isolation=landlock%d+seccomp+rlimits", landlock_abi());
  hello_answer(OUTPUT, &hello, text);
  init_elsewhere(OUTPUT, NULL, root, true);
  init_main(INPUT, hello.sandbox, &spec, &level);
}
