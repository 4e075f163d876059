/*
 * Attacks that need system calls of their own. Runs inside a sandbox; each prints one line, `name result`. Uses only
 * numbers, ports and addresses of its own making.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void tell(const char *name, long result) {
  printf("%s %s\n", name, result >= 0 ? "works" : strerrorname_np(errno));
}

static void sockets(void) {
  static const struct {
    const char *name;
    int family, type, protocol;
  } kinds[] = {{"unix", AF_UNIX, SOCK_STREAM, 0},     {"inet", AF_INET, SOCK_STREAM, 0},
               {"inet6", AF_INET6, SOCK_STREAM, 0},   {"netlink", AF_NETLINK, SOCK_RAW, 0},
               {"vsock", AF_VSOCK, SOCK_STREAM, 0},   {"packet", AF_PACKET, SOCK_RAW, 0},
               {"alg", AF_ALG, SOCK_SEQPACKET, 0},    {"bluetooth", AF_BLUETOOTH, SOCK_RAW, 0},
               {"can", AF_CAN, SOCK_RAW, 1},          {"raw", AF_INET, SOCK_RAW, IPPROTO_ICMP},
               {"rds", AF_RDS, SOCK_SEQPACKET, 0},    {"tipc", AF_TIPC, SOCK_SEQPACKET, 0},
               {"xdp", 44, SOCK_RAW, 0},              {"key", 15, SOCK_RAW, 2}};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    tell(kinds[i].name, socket(kinds[i].family, kinds[i].type, kinds[i].protocol));
  int pair[2];
  tell("socketpair-vsock", socketpair(AF_VSOCK, SOCK_STREAM, 0, pair));
}

static void connections(void) {
  static const unsigned addresses[] = {0x01010101, 0xa9fea9fe, 0x0a000001}; /* 1.1.1.1, metadata, 10.0.0.1 */
  for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(59999), .sin_addr.s_addr = htonl(addresses[i])};
    tell("connect", connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&to, sizeof to));
  }
}

/* What the sandbox's network is made of. */
static void device(void) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002)};
  struct ifreq down = {.ifr_name = "lo"}, alias = {.ifr_name = "lo:1"}, narrow = {.ifr_name = "lo", .ifr_mtu = 1500};
  memcpy(&alias.ifr_addr, &address, sizeof address);
  tell("down", ioctl(fd, SIOCSIFFLAGS, &down));
  tell("address", ioctl(fd, SIOCSIFADDR, &alias));
  tell("mtu", ioctl(fd, SIOCSIFMTU, &narrow));
  tell("setting", open("/proc/sys/net/ipv4/ip_unprivileged_port_start", O_WRONLY));
  address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  tell("port-80", bind(fd, (struct sockaddr *)&address, sizeof address));
}

static void calls(void) {
  int pid_fd;
  char stack[4096], *pts;
  tell("mount", mount("t", "/mnt", "tmpfs", 0, NULL));
  tell("umount", umount("/proc"));
  tell("remount", mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
  tell("unshare-user", unshare(CLONE_NEWUSER));
  tell("unshare-mount", unshare(CLONE_NEWNS));
  tell("clone-user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
  tell("clone-net", syscall(SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0));
  tell("clone3", syscall(SYS_clone3, stack, 64));
  tell("setns", setns(open("/proc/self/ns/mnt", O_RDONLY), 0));
  tell("mknod-block", mknod("/tmp/vda", S_IFBLK | 0600, makedev(254, 0)));
  tell("mknod-mem", mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1)));
  tell("ptrace-init", ptrace(PTRACE_ATTACH, 1, 0, 0));
  tell("ptrace-seize-init", ptrace(PTRACE_SEIZE, 1, 0, 0));
  tell("pidfd-init", pid_fd = (int)syscall(SYS_pidfd_open, 1, 0));
  tell("pidfd-getfd-init", syscall(438, pid_fd, 3, 0));
  struct iovec local = {stack, 16}, remote = {(void *)0x400000, 16};
  tell("vm-read-init", process_vm_readv(1, &local, 1, &remote, 1, 0));
  tell("init-mem", open("/proc/1/mem", O_RDONLY));
  tell("init-environ", open("/proc/1/environ", O_RDONLY) < 0 ? -1 : read(open("/proc/1/environ", O_RDONLY), stack, 10) - 1);
  tell("init-fd", open("/proc/1/fd/3", O_RDONLY));
  tell("init-exe", readlink("/proc/1/exe", stack, sizeof stack));
  tell("init-maps", open("/proc/1/maps", O_RDONLY) < 0 ? -1 : read(open("/proc/1/maps", O_RDONLY), stack, 10) - 1);
  tell("init-root", open("/proc/1/root", O_RDONLY));
  tell("init-ns", readlink("/proc/1/ns/mnt", stack, sizeof stack));
  tell("keyctl", syscall(SYS_keyctl, 0, -3, 0));
  tell("add-key", syscall(SYS_add_key, "user", "k", "v", 1, -5));
  tell("bpf", syscall(SYS_bpf, 0, stack, 64));
  tell("perf", syscall(SYS_perf_event_open, stack, 0, -1, -1, 0));
  tell("userfaultfd", syscall(SYS_userfaultfd, 0));
  tell("io-uring", syscall(425, 8, stack));
  tell("open-by-handle", syscall(SYS_open_by_handle_at, 0, stack, 0));
  tell("syslog", syscall(SYS_syslog, 10, 0, 0));
  tell("settimeofday", syscall(SYS_settimeofday, 0, 0));
  tell("clock-settime", syscall(SYS_clock_settime, 0, stack));
  tell("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0, 0));
  tell("kexec", syscall(SYS_kexec_load, 0, 0, 0, 0));
  tell("init-module", syscall(SYS_init_module, 0, 0, ""));
  tell("sethostname", sethostname("pwn", 3));
  tell("swapon", syscall(SYS_swapon, "/tmp", 0));
  tell("iopl", syscall(SYS_iopl, 3));
  tell("fsopen", syscall(430, "tmpfs", 0));
  tell("open-tree", syscall(428, -100, "/", 1));
  tell("memfd-secret", syscall(447, 0));
  tell("unknown-call", syscall(600));
  tell("x32-getpid", syscall(0x40000000 + 39));
  tell("personality", syscall(SYS_personality, 0x400000));
  tell("setuid-root-again", setresuid(0, 0, 0));
  tell("dumpable", prctl(PR_SET_DUMPABLE, 1));
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  tell("pty", master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0 && (pts = ptsname(master)) != NULL ? 0 : -1);
  tell("tiocsti", ioctl(master, TIOCSTI, "x"));
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    _exit(0);
  }
  waitpid(child, NULL, 0);
  tell("ptrace-own-child", ptrace(PTRACE_CONT, child, 0, 0));
}

/* A 32-bit call, which a filter for 64-bit numbers alone would let through under another meaning. */
static void int80(void) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
  printf("i386-getpid %s\n", result > 0 ? "works" : strerrorname_np((int)-result));
}

/* Touches `megabytes` of memory: anonymous, or in a memfd that is written and never mapped. */
static int hog(const char *kind, size_t megabytes) {
  char *block = malloc(1 << 20);
  memset(block, 1, 1 << 20);
  int fd = strcmp(kind, "memfd") == 0 ? memfd_create("hog", 0) : -1;
  for (size_t i = 0; i < megabytes; i++) {
    if (strcmp(kind, "memfd") == 0) {
      if (write(fd, block, 1 << 20) != 1 << 20) return printf("memfd stopped\n"), 1;
    } else {
      int flags = strcmp(kind, "shared") == 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_PRIVATE | MAP_ANONYMOUS;
      char *more = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, flags, -1, 0);
      if (more == MAP_FAILED) return printf("mmap stopped\n"), 1;
      memset(more, 1, 1 << 20);
      usleep(500); /* slower than the watcher of the rlimits level */
    }
  }
  printf("%s took %zu MB\n", kind, megabytes);
  return 0;
}

/* Takes a processor for so many seconds, and does nothing else. */
static int burn(int seconds) {
  volatile unsigned long sum = 0;
  for (time_t end = time(NULL) + seconds; time(NULL) < end;)
    for (int i = 0; i < 10000000; i++) sum += (unsigned long)i;
  return 0;
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (count > 3 && strcmp(arguments[1], "hog") == 0) return hog(arguments[2], (size_t)atoi(arguments[3]));
  if (count > 2 && strcmp(arguments[1], "burn") == 0) return burn(atoi(arguments[2]));
  if (count > 1 && strcmp(arguments[1], "sockets") == 0) sockets();
  if (count > 1 && strcmp(arguments[1], "connect") == 0) connections();
  if (count > 1 && strcmp(arguments[1], "device") == 0) device();
  if (count > 1 && strcmp(arguments[1], "calls") == 0) calls();
  if (count > 1 && strcmp(arguments[1], "int80") == 0) int80();
  return 0;
}
