/*
 * Networks of sandboxes: namespaces with a loopback device and no way out. The kernel takes a millisecond to make one and two to
 * three to take it away, a third of what a sandbox costs. So the factory makes them, not the sandbox, and one that is like new
 * when its sandbox is gone is handed on: no socket is left, nothing was ever sent or counted, and who was in it had no right to
 * change it. A sandbox that used its loopback device takes its network with it.
 */
#include "broker.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* In the factory: a network of its own, to go back to; −1: each sandbox makes its own. */
static int home = -1;

static int loopback(unsigned long what, struct ifreq *request) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  int result = ioctl(fd, what, request), saved = errno;
  close(fd);
  errno = saved;
  return result;
}

bool raise_loopback(void) {
  struct ifreq request = {.ifr_name = "lo"};
  if (loopback(SIOCGIFFLAGS, &request) != 0) return false;
  if (request.ifr_flags & IFF_UP) return true;
  request.ifr_flags |= IFF_UP | IFF_RUNNING;
  return loopback(SIOCSIFFLAGS, &request) == 0;
}

void networks_open(void) {
  if (unshare(CLONE_NEWNET) == 0) home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* Where the sandbox does not own the network, its root needs leave for the ports below 1024. */
static bool make_network(void) {
  return unshare(CLONE_NEWNET) == 0 && write_text_at(AT_FDCWD, "/proc/sys/net/ipv4/ip_unprivileged_port_start", "0") &&
         raise_loopback();
}

/* What the kernel tells of the network it is called in: whether there are sockets, and all that it counts. */
static void describe(char *text, size_t capacity) {
  static const char *const files[] = {"/proc/self/net/dev", "/proc/self/net/snmp", "/proc/self/net/snmp6", "/proc/self/net/netstat"};
  ssize_t used = read_text_at(AT_FDCWD, "/proc/self/net/sockstat", text, capacity);
  if (used > 0) used = (ssize_t)strcspn(text, "\n"); /* the rest is of the whole machine */
  else used = 0;
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    ssize_t n = read_text_at(AT_FDCWD, files[i], text + used, capacity - (size_t)used);
    if (n > 0) used += n;
  }
  text[used] = 0;
}

static char fresh[32768]; /* of one that was just made; empty where nothing can be read */

/* Nothing is different, and there is no second address (`second_address`). */
static bool is_like_new(void) {
  static char text[sizeof fresh];
  struct ifreq alias = {.ifr_name = "lo:1"};
  describe(text, sizeof text);
  return *fresh != 0 && strcmp(text, fresh) == 0 && loopback(SIOCGIFADDR, &alias) != 0;
}

int network_enter(int given) {
  if (home < 0) return -1;
  if (given >= 0 && setns(given, CLONE_NEWNET) == 0 && is_like_new()) return fcntl(given, F_DUPFD_CLOEXEC, 0);
  if (make_network()) {
    if (*fresh == 0) describe(fresh, sizeof fresh);
    return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  }
  close(home);
  home = -1;
  return -1;
}

void network_leave(void) {
  if (home >= 0 && setns(home, CLONE_NEWNET) != 0) _exit(70);
}

/* In the broker. Those of more sandboxes, and more without one, are not kept: descriptors and memory are not endless. */
enum { MAX_KEPT = 256, MAX_IDLE = 16 };
static int idle[MAX_IDLE], idle_count, kept_count;

int network_take(void) { return idle_count > 0 ? idle[--idle_count] : -1; }

void network_keep(struct sandbox *sandbox, int fd) {
  if (fd < 0) return;
  if (kept_count == MAX_KEPT) {
    close(fd);
    return;
  }
  kept_count++;
  sandbox->network = fd;
}

void network_give_back(struct sandbox *sandbox) {
  if (sandbox->network < 0) return;
  kept_count--;
  if (idle_count < MAX_IDLE) idle[idle_count++] = sandbox->network;
  else close(sandbox->network);
  sandbox->network = -1;
}
