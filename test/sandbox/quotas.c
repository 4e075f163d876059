/*
 * Takes as much as it can of what the kernel counts per user, and says how much of each it got: `name count`. With `hold` it
 * keeps that until its input ends; with `try` it asks for a few of each, as a neighbour or a program of the host would.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <unistd.h>

static int most; /* of each */

static void inotify_instances(void) {
  int count = 0;
  while (count < most && inotify_init1(0) >= 0) count++;
  printf("inotify %d\n", count);
}

static void message_queues(void) {
  int count = 0;
  char name[64];
  struct mq_attr attributes = {.mq_maxmsg = 10, .mq_msgsize = 8192};
  for (; count < most; count++) {
    snprintf(name, sizeof name, "/q-%d-%d", getpid(), count);
    if (mq_open(name, O_CREAT | O_RDWR | O_EXCL, 0600, &attributes) < 0) break;
    mq_unlink(name);
  }
  printf("mqueue %d\n", count);
}

static void pending_signals(void) {
  int count = 0;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  sigprocmask(SIG_BLOCK, &set, NULL);
  while (count < most * 1000 && sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0) count++;
  printf("sigpending %d\n", count);
}

/* Descriptors on their way through sockets that nobody reads. */
static void descriptors_in_flight(void) {
  enum { EACH = 250 };
  int count = 0, fds[EACH], pair[2];
  for (int i = 0; i < EACH; i++) fds[i] = 0;
  for (; count < most;) {
    int batch = most - count < EACH ? most - count : EACH;
    struct iovec part = {"x", 1};
    union {
      char bytes[CMSG_SPACE(sizeof fds)];
      struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE((size_t)batch * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)batch * sizeof(int));
    memcpy(CMSG_DATA(header), fds, (size_t)batch * sizeof(int));
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0 || sendmsg(pair[0], &message, 0) < 0) break;
    count += batch;
  }
  printf("inflight %d\n", count);
}

static void pipes(void) {
  int count = 0, whole = 0, ends[2];
  for (; count < most && pipe2(ends, O_CLOEXEC) == 0; count++)
    if (fcntl(ends[0], F_GETPIPE_SZ) >= 65536) whole++;
  printf("pipes %d\nwholepipes %d\n", count, whole);
}

int main(int count, char **arguments) {
  struct rlimit limit;
  int hold = count > 1 && strcmp(arguments[1], "hold") == 0;
  most = hold ? 20000 : 3;
  setvbuf(stdout, NULL, _IOLBF, 0);
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  /* Each in a process of its own, which the limit on open files is of. */
  static void (*const all[])(void) = {inotify_instances, message_queues, pending_signals, descriptors_in_flight, pipes};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    int done[2];
    char byte;
    if (pipe(done) != 0) return 1;
    pid_t child = fork();
    if (child == 0) {
      close(done[0]);
      all[i]();
      fflush(stdout);
      if (write(done[1], "d", 1) != 1) return 1;
      close(done[1]);
      if (hold) pause();
      _exit(0);
    }
    close(done[1]);
    if (read(done[0], &byte, 1) != 1) printf("died %zu\n", i);
    close(done[0]);
  }
  printf("held\n");
  if (hold) pause();
  return 0;
}
