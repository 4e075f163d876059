/*
 * System-call filter: what is not listed is denied. The list follows Docker's default profile, less what reaches beyond
 * the sandbox (keyrings, mounts, namespaces, kernel modules, clocks, file handles, tracing of the kernel, io_uring).
 *
 * Denied calls give EPERM; calls this list does not know, and those whose callers have a fallback, give ENOSYS. The
 * program is a binary search tree: the kernel walks it for every call number at load time, which a linear list would
 * make the most expensive step of a sandbox's start.
 */
#include "launcher.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

enum { LAST_CALL = 470, MAX_PROGRAM = 2048 };
enum verdict { UNKNOWN, ALLOW, DENY, PRETEND, FAMILY, NO_FAMILY, ONLY_UNIX, CLONE, IOCTL, PERSONALITY };

/* Ranges of x86-64 call numbers (include/uapi/asm-generic/unistd.h and arch/x86/entry/syscalls/syscall_64.tbl). */
static const struct {
  short first, last;
} ALLOWED[] = {
    {0, 133},   /* read … mknod; special cases below */
    {137, 138}, /* statfs, fstatfs */
    {140, 152}, /* getpriority … munlockall */
    {157, 158}, /* prctl, arch_prctl */
    {160, 162}, /* setrlimit, chroot, sync */
    {186, 204}, /* gettid, readahead, extended attributes, tkill, time, futex, scheduler affinity */
    {206, 211}, /* asynchronous I/O, get_thread_area */
    {213, 235}, /* epoll, remap_file_pages, getdents64, timers, clock_gettime, exit_group, tgkill, utimes */
    {240, 245}, /* POSIX message queues */
    {247, 247}, /* waitid */
    {251, 255}, /* ioprio, inotify */
    {257, 271}, /* openat … ppoll */
    {273, 278}, /* robust futex lists, splice, tee, sync_file_range, vmsplice */
    {280, 297}, /* utimensat, epoll_pwait, signalfd, timerfd, eventfd, fallocate, accept4, pipe2, preadv, … */
    {299, 299}, /* recvmmsg */
    {302, 302}, /* prlimit64 */
    {306, 307}, /* syncfs, sendmmsg */
    {309, 311}, /* getcpu, process_vm_readv, process_vm_writev */
    {314, 319}, /* sched_setattr, sched_getattr, renameat2, seccomp, getrandom, memfd_create */
    {322, 322}, /* execveat */
    {324, 334}, /* membarrier, mlock2, copy_file_range, preadv2, pwritev2, pkeys, statx, io_pgetevents, rseq */
    {424, 424}, /* pidfd_send_signal */
    {434, 434}, /* pidfd_open */
    {436, 437}, /* close_range, openat2 */
    {439, 441}, /* faccessat2, process_madvise, epoll_pwait2 */
    {444, 446}, /* landlock */
    {448, 449}, /* process_mrelease, futex_waitv */
    {451, 456}, /* cachestat, fchmodat2, map_shadow_stack, futex_wake, futex_wait, futex_requeue */
    {462, 462}, /* mseal */
};

/* EPERM; all the rest that is not allowed gives ENOSYS. */
static const short DENIED[] = {
    103, /* syslog */
    134, 136, 139, /* uselib, ustat, sysfs */
    153, 154, 155, 156, 159, /* vhangup, modify_ldt, pivot_root, _sysctl, adjtimex */
    163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, /* acct, settimeofday, mount … ioperm */
    174, 175, 176, 177, 178, 179, 180, /* kernel modules, quotactl, nfsservctl */
    212, 227, /* lookup_dcookie, clock_settime */
    237, 238, 239, 246, 248, 249, 250, 256, /* NUMA policy, kexec_load, keyrings, migrate_pages */
    272, 279, 298, 300, 301, 303, 304, 305, 308, 312, 313, /* unshare, move_pages, perf, fanotify, handles, setns, … */
    320, 321, 323, /* kexec_file_load, bpf, userfaultfd */
    428, 429, 430, 431, 432, 433, 438, 442, 443, 450, 457, 458, /* mount API, pidfd_getfd, quotactl_fd, statmount */
    459, 460, 461, /* security module attributes */
};

static struct sock_filter program[MAX_PROGRAM];
static unsigned short program_length;
static uint8_t verdicts[LAST_CALL + 1];

static void emit(struct sock_filter instruction) {
  if (program_length == MAX_PROGRAM) abort();
  program[program_length++] = instruction;
}
static void emit_load(uint32_t offset) { emit((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)); }
static void emit_return(uint32_t action) { emit((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action)); }
/* Returns `action` when the accumulator equals `value`, else goes on. */
static void emit_return_if(uint16_t test, uint32_t value, uint32_t action) {
  emit((struct sock_filter)BPF_JUMP(BPF_JMP | test | BPF_K, value, 0, 1));
  emit_return(action);
}

static uint32_t argument(int index) { return (uint32_t)(offsetof(struct seccomp_data, args) + 8 * (size_t)index); }
enum { NO_CALL = SECCOMP_RET_ERRNO | ENOSYS, NO_RIGHT = SECCOMP_RET_ERRNO | EPERM };

static void emit_verdict(enum verdict verdict) {
  static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
  static const uint32_t personalities[] = {0, 0x8, 0x20000, 0x20008, 0x40000, 0xffffffff};
  switch (verdict) {
    case FAMILY: /* an empty network namespace does not hold back AF_VSOCK, which reaches the hypervisor */
      emit_load(argument(0));
      for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        emit_return_if(BPF_JEQ, families[i], SECCOMP_RET_ALLOW);
      emit_return(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
      return;
    case NO_FAMILY: emit_return(SECCOMP_RET_ERRNO | EAFNOSUPPORT); return;
    case ONLY_UNIX:
      emit_load(argument(0));
      emit_return_if(BPF_JEQ, AF_UNIX, SECCOMP_RET_ALLOW);
      emit_return(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
      return;
    case CLONE:
      emit_load(argument(0));
      emit_return_if(BPF_JSET, CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                   CLONE_NEWNET, NO_RIGHT);
      emit_return(SECCOMP_RET_ALLOW);
      return;
    case IOCTL: /* both put characters into another program's terminal input */
      emit_load(argument(1));
      emit_return_if(BPF_JEQ, TIOCSTI, NO_RIGHT);
      emit_return_if(BPF_JEQ, TIOCLINUX, NO_RIGHT);
      emit_return(SECCOMP_RET_ALLOW);
      return;
    case PERSONALITY:
      emit_load(argument(0));
      for (size_t i = 0; i < sizeof personalities / sizeof *personalities; i++)
        emit_return_if(BPF_JEQ, personalities[i], SECCOMP_RET_ALLOW);
      emit_return(NO_RIGHT);
      return;
    case ALLOW: emit_return(SECCOMP_RET_ALLOW); return;
    case DENY: emit_return(NO_RIGHT); return;
    case PRETEND: emit_return(SECCOMP_RET_ERRNO | 0); return; /* success without the call */
    case UNKNOWN: emit_return(NO_CALL); return;
  }
}

/* Decides calls first … last; the accumulator holds the call number. */
static void emit_tree(int first, int last) {
  int boundary = -1, middle = (first + last + 1) / 2;
  for (int distance = 0; boundary < 0 && distance <= last - first; distance++) /* a change near the middle */
    for (int side = -1; boundary < 0 && side <= 1; side += 2) {
      int at = middle + side * distance;
      if (at > first && at <= last && verdicts[at] != verdicts[at - 1]) boundary = at;
    }
  if (boundary < 0) {
    emit_verdict(verdicts[first]);
    return;
  }
  unsigned short test = program_length;
  emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)boundary, 0, 1));
  emit((struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 0)); /* its distance is known after the left half */
  emit_tree(first, boundary - 1);
  program[test + 1].k = (uint32_t)(program_length - test - 2);
  emit_tree(boundary, last);
}

static bool without_sockets;

void seccomp_prepare_without_sockets(void) {
  without_sockets = true;
  seccomp_prepare(false);
}

void seccomp_prepare(bool hard_limits) {
  memset(verdicts, UNKNOWN, sizeof verdicts);
  for (size_t i = 0; i < sizeof ALLOWED / sizeof *ALLOWED; i++)
    for (int call = ALLOWED[i].first; call <= ALLOWED[i].last; call++) verdicts[call] = ALLOW;
  for (size_t i = 0; i < sizeof DENIED / sizeof *DENIED; i++) verdicts[DENIED[i]] = DENY;
  verdicts[SYS_socket] = verdicts[SYS_socketpair] = FAMILY;
  if (without_sockets) verdicts[SYS_socket] = NO_FAMILY, verdicts[SYS_socketpair] = ONLY_UNIX;
  verdicts[SYS_clone] = CLONE;
  verdicts[SYS_sync] = PRETEND; /* would flush the host's disks; ours is memory */
  verdicts[SYS_ioctl] = IOCTL;
  verdicts[SYS_personality] = PERSONALITY;
  /* Without a memory controller, memory that no process maps would escape the watcher. */
  if (!hard_limits) verdicts[SYS_memfd_create] = verdicts[SYS_shmget] = UNKNOWN;
  program_length = 0;
  emit_load(offsetof(struct seccomp_data, arch));
  emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  emit_return(NO_CALL); /* i386 */
  emit_load(offsetof(struct seccomp_data, nr));
  emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, LAST_CALL, 0, 1));
  emit_return(NO_CALL); /* newer calls, and x32 with its high bit */
  emit_tree(0, LAST_CALL);
}

bool seccomp_install(void) {
  struct sock_fprog filter = {.len = program_length, .filter = program};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &filter) == 0;
}

int filter_main(void) {
  seccomp_prepare(true);
  return write_all(STDOUT_FILENO, program, program_length * sizeof *program) ? 0 : 1;
}
