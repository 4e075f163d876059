/* What is taken away before anything of the agent's runs: limits, capabilities, privileges, system calls. */
#include "launcher.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* Capabilities over the sandbox's own user namespace that stay: what package managers and `su` need, and no more. */
static const int KEPT[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER,  CAP_FSETID,           CAP_KILL,      CAP_SETGID,
                           CAP_SETUID, CAP_SETPCAP,      CAP_SETFCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT};

/* Never above the inherited hard limit: raising it needs a privilege that even root may lack in a container. */
static void limit(int resource, uint64_t value) {
  struct rlimit current;
  if (getrlimit(resource, &current) != 0) setup_fail("reading a resource limit");
  if (current.rlim_max != RLIM_INFINITY && value > current.rlim_max) value = current.rlim_max;
  struct rlimit wanted = {value, value};
  if (setrlimit(resource, &wanted) != 0) setup_fail("setting a resource limit");
}

/*
 * What all sandboxes of an ordinary user take is counted together, as what that user made. None takes more than a share. Where
 * they are that user, too, none has so many descriptors in flight, of which each may have as many as it may open, that programs
 * with the usual limit of 1024 could pass no more.
 */
static void share_quotas(bool are_the_user) {
  struct rlimit current;
  if (getrlimit(RLIMIT_SIGPENDING, &current) == 0) limit(RLIMIT_SIGPENDING, current.rlim_cur / 16);
  if (getrlimit(RLIMIT_MSGQUEUE, &current) == 0) limit(RLIMIT_MSGQUEUE, current.rlim_cur / 4);
  if (are_the_user) limit(RLIMIT_NOFILE, 768);
}

static void drop_capabilities(void) {
  uint64_t kept = 0;
  for (size_t i = 0; i < sizeof KEPT / sizeof *KEPT; i++) kept |= 1ULL << KEPT[i];
  for (int capability = 0; capability < 64; capability++) {
    if (kept >> capability & 1) continue;
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      if (errno == EINVAL) break; /* beyond the last one this kernel knows */
      setup_fail("capability bounding set");
    }
  }
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) != 0) setup_fail("capabilities");
  for (int i = 0; i < 2; i++) { /* what a container's engine took away already stays away */
    data[i].permitted &= (uint32_t)(kept >> 32 * i);
    data[i].effective = data[i].permitted;
    data[i].inheritable = 0;
  }
  if (syscall(SYS_capset, &header, data) != 0) setup_fail("capabilities");
}

static void silence_standard_descriptors(void) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) setup_fail("/dev/null");
  for (int fd = 0; fd < 3; fd++)
    if (dup2(null, fd) < 0) setup_fail("standard descriptors");
  close(null);
}

static void limit_all(const struct sandbox_spec *spec, const struct level *level) {
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_NOFILE, 4096);
  if (!level->hard_limits) limit(RLIMIT_DATA, spec->memory);
}

/* The last steps: from here on nothing can be won back. */
static void give_up_rights(void) {
  prctl(PR_SET_NAME, "init");
  drop_capabilities();
  prefer_programs();
  if (prctl(PR_SET_DUMPABLE, 0) != 0) setup_fail("undumpable");
}

static void lock(void) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) setup_fail("no_new_privs");
  if (!seccomp_install()) setup_fail("seccomp");
}

uint64_t process_limit(const struct sandbox_spec *spec, const struct level *level) {
  return level->hard_limits ? spec->pids * 2 + 64 : spec->pids + EXTRA_PROCESSES;
}

void confine(const struct sandbox_spec *spec, const struct level *level) {
  silence_standard_descriptors();
  if (sethostname("sandbox", 7) != 0) setup_fail("host name");
  if (!raise_loopback()) setup_fail("loopback device");
  limit_all(spec, level);
  if (!level->mapped || level->subordinate > 0) share_quotas(spec->ids == 0 || spec->users_root);
  /* Counted per user namespace, and each sandbox has its own; init and the shell come on top. Where a control group
   * limits processes it shall be the one that does, because it counts refusals. */
  limit(RLIMIT_NPROC, process_limit(spec, level));
  give_up_rights();
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) setup_fail("parent death signal");
  lock();
}

void confine_in_container(const struct sandbox_spec *spec, const struct level *level) {
  silence_standard_descriptors();
  limit_all(spec, level);
  /* Only where nothing else limits processes. Where there is one user only, other containers run as that, and count. */
  if (!level->hard_limits) limit(RLIMIT_NPROC, spec->pids + (level->mapped ? EXTRA_PROCESSES : PROCESS_SLACK));
  give_up_rights();
  lock();
}
