/*
 * The broker: frames from the control process on stdin, answers on stdout, sandboxes in between. Single-threaded; nothing
 * here waits. When stdin ends the control process is gone, and so is everything it had us start.
 */
#include "broker.h"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum source { SOURCE_INPUT, SOURCE_OUTPUT, SOURCE_FACTORY, SOURCE_SIGNALS, SOURCE_SANDBOXES, SOURCE_RELAY };

struct broker broker;

static void shut_down(int code) __attribute__((noreturn));
static void shut_down(int code) {
  sandboxes_end();
  cgroups_close(&broker.cgroups);
  if (broker.stage[0] != 0) rmdir(broker.stage);
  _exit(code);
}

static void watch_epoll(int fd, enum source source, uint32_t events, int operation) {
  struct epoll_event event = {.events = events, .data.u64 = source};
  epoll_ctl(broker.epoll, operation, fd, &event);
}

/* Writes what is queued; a control process that does not read is not sent more. */
static void flush_output(void) {
  while (buffer_length(&broker.outbox) > 0) {
    ssize_t n = write(STDOUT_FILENO, broker.outbox.data + broker.outbox.start, buffer_length(&broker.outbox));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) shut_down(0);
    if (n <= 0) break;
    buffer_consume(&broker.outbox, (size_t)n);
  }
  size_t left = buffer_length(&broker.outbox);
  if ((left > 0) != broker.output_watched) {
    broker.output_watched = left > 0;
    watch_epoll(STDOUT_FILENO, SOURCE_OUTPUT, EPOLLOUT, left > 0 ? EPOLL_CTL_ADD : EPOLL_CTL_DEL);
  }
  if (broker.inner_watched ? left > OUTBOX_HIGH : left < OUTBOX_LOW) {
    broker.inner_watched = !broker.inner_watched;
    watch_epoll(broker.inner, SOURCE_SANDBOXES, EPOLLIN, broker.inner_watched ? EPOLL_CTL_ADD : EPOLL_CTL_DEL);
  }
}

void answer(uint32_t request, uint32_t sandbox, uint8_t flags, const void *data, size_t length) {
  buffer_put_frame(&broker.outbox, OP_REPLY, flags, request, sandbox, data, length);
}

void answer_error(uint32_t request, uint32_t sandbox, const char *text) {
  answer(request, sandbox, FLAG_ERROR, text, strlen(text));
}

void answer_gone(uint32_t sandbox, const char *text) {
  buffer_put_frame(&broker.outbox, OP_GONE, 0, 0, sandbox, text, strlen(text));
}

/* Whether our ids hold `count` from `first`: in a container's user namespace they often do not. */
static bool ids_available(const char *file, uint32_t first, uint32_t count) {
  FILE *map = fopen(file, "re");
  unsigned inside, outside, length;
  bool found = false;
  while (map != NULL && !found && fscanf(map, "%u %u %u", &inside, &outside, &length) == 3)
    found = inside <= first && (uint64_t)inside + length >= (uint64_t)first + count;
  if (map != NULL) fclose(map);
  return found;
}

static void choose_level(bool use_cgroups, const char *name) {
  struct level *level = &broker.level;
  level->first_id = 100000;
  level->id_count = 65536;
  level->mapped = geteuid() == 0 && ids_available("/proc/self/uid_map", level->first_id, level->id_count) &&
                  ids_available("/proc/self/gid_map", level->first_id, level->id_count);
  level->ranges = level->mapped && can_show_with_ids() && ids_available("/proc/self/uid_map", RANGES_FIRST, MAX_BLOCKS * RANGE_IDS) &&
                  ids_available("/proc/self/gid_map", RANGES_FIRST, MAX_BLOCKS * RANGE_IDS);
  if (use_cgroups) cgroups_detect(&broker.cgroups, name);
  level->hard_limits = broker.cgroups.memory && broker.cgroups.pids;
}

/* The factory starts before any payload is read. */
static pid_t start_factory(void) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return -1;
  pid_t pid = fork();
  if (pid == 0) {
    int null = open("/dev/null", O_RDWR);
    if (null < 0) null = open("/", O_PATH);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(pair[1], 3);
    syscall(SYS_close_range, 4, ~0U, 0);
    fcntl(3, F_SETFD, FD_CLOEXEC);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    factory_main(3, &broker.level, broker.stage);
  }
  close(pair[1]);
  broker.factory = pair[0];
  return pid;
}

/* HELLO: the settings; answered with the level reached, or why there is none. */
static void hello(const struct frame_header *header, const uint8_t *payload) {
  const char *stage = setting(payload, header->length, "stage");
  const char *name = setting(payload, header->length, "name");
  if (stage == NULL || name == NULL || strlen(stage) >= PATH_SIZE || strchr(name, '/') != NULL ||
      broker.stage[0] != 0) {
    answer_error(header->request, 0, "bad greeting");
    return;
  }
  format(broker.stage, sizeof broker.stage, "%s", stage);
  choose_level(setting_number(payload, header->length, "cgroups", 1) != 0, name);
  broker.level.want_subordinate = !broker.level.mapped && setting_number(payload, header->length, "subids", 1) != 0;
  struct factory_answer first = {0};
  pid_t factory = start_factory();
  if (factory < 0 || receive_packet(broker.factory, &first, sizeof first, NULL, NULL, 0) != sizeof first)
    format(first.error, sizeof first.error, "the factory did not start");
  if (first.error[0] != 0) {
    answer_error(header->request, 0, first.error);
    return;
  }
  blocks_open((uint32_t)first.bytes, factory);
  /* Paths of sockets have to be short, so relative ones begin in our folder. */
  const char *folder = setting(payload, header->length, "folder");
  if (folder != NULL && chdir(folder) != 0) {
    answer_error(header->request, 0, "the launcher's folder cannot be entered");
    return;
  }
  watch_epoll(broker.factory, SOURCE_FACTORY, EPOLLIN, EPOLL_CTL_ADD);
  struct buffer text = {0};
  char level[64], line[PATH_SIZE + 32];
  describe_level(NULL, level, sizeof level);
  format(line, sizeof line, "isolation=%s", level);
  buffer_append(&text, line, strlen(line) + 1);
  format(line, sizeof line, "pause=%s", cgroups_can_freeze(&broker.cgroups) ? "freeze" : "stop");
  buffer_append(&text, line, strlen(line) + 1);
  for (int i = 0; i < broker.cgroups.count; i++) {
    format(line, sizeof line, "cgroup=%s", broker.cgroups.trees[i].path);
    buffer_append(&text, line, strlen(line) + 1);
  }
  answer(header->request, 0, 0, text.data, buffer_length(&text));
  buffer_free(&text);
}

static void register_base(const struct frame_header *header, const uint8_t *payload) {
  struct factory_message message = {.kind = OP_BASE, .request = header->request};
  struct buffer packet = {0};
  message.spec.base = (uint32_t)setting_number(payload, header->length, "id", MAX_BASES);
  message.settings_length = header->length;
  if (message.spec.base >= MAX_BASES || header->length > 100000) {
    answer_error(header->request, 0, "too many profiles, or one too large");
    return;
  }
  broker.on_disk[message.spec.base] = setting(payload, header->length, "root") != NULL;
  buffer_append(&packet, &message, sizeof message);
  buffer_append(&packet, payload, header->length);
  if (!send_packet(broker.factory, packet.data, buffer_length(&packet), NULL, 0))
    answer_error(header->request, 0, "the factory is gone");
  buffer_free(&packet);
}

static void drop_layer(const struct frame_header *header, const uint8_t *payload) {
  struct factory_message message = {.kind = OP_DROP, .request = header->request};
  message.layer = (uint32_t)setting_number(payload, header->length, "layer", 0);
  if (!send_packet(broker.factory, &message, sizeof message, NULL, 0))
    answer_error(header->request, 0, "the factory is gone");
}

/* By way of the factory, without which no sandbox is made either. */
static void ping(const struct frame_header *header) {
  struct factory_message message = {.kind = OP_PING, .request = header->request};
  if (!send_packet(broker.factory, &message, sizeof message, NULL, 0))
    answer_error(header->request, 0, "the factory is gone");
}

static void place_stored(const struct frame_header *header, const uint8_t *payload) {
  struct factory_message message = {.kind = OP_STORED, .request = header->request};
  const char *path = setting(payload, header->length, "path");
  message.layer = (uint32_t)setting_number(payload, header->length, "layer", 0);
  if (path == NULL || path[0] != '/' || strlen(path) >= PATH_SIZE || (message.layer & STORED_LAYER) == 0) {
    answer_error(header->request, 0, "a stored layer needs a number of its kind and an absolute path");
    return;
  }
  format(message.spec.target, sizeof message.spec.target, "%s", path);
  if (!send_packet(broker.factory, &message, sizeof message, NULL, 0))
    answer_error(header->request, 0, "the factory is gone");
}

static void handle(const struct frame_header *header, const uint8_t *payload) {
  switch (header->op) {
    case OP_HELLO: hello(header, payload); return;
    case OP_BASE: register_base(header, payload); return;
    case OP_CREATE: sandbox_create(header, payload); return;
    case OP_DESTROY: sandbox_destroy(header); return;
    case OP_LIMITS: sandbox_limits(header); return;
    case OP_FREEZE: sandbox_freeze(header, payload); return;
    case OP_STATS: sandbox_statistics(header); return;
    case OP_PAUSE: sandbox_pause(header); return;
    case OP_RESUME: sandbox_resume(header); return;
    case OP_WRITTEN: sandbox_written(header, payload); return;
    case OP_DROP: drop_layer(header, payload); return;
    case OP_PING: ping(header); return;
    case OP_STORED: place_stored(header, payload); return;
    case OP_LISTEN:
    case OP_FORWARD: relay_open(header, payload); return;
    case OP_UNLISTEN: relay_close(header, payload); return;
    default: sandbox_forward(header, payload); return;
  }
}

static void read_input(void) {
  static uint8_t chunk[CHUNK * 4];
  ssize_t n = read(STDIN_FILENO, chunk, sizeof chunk);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) shut_down(0);
  buffer_append(&broker.inbox, chunk, (size_t)n);
  struct frame_header header;
  const uint8_t *payload;
  while (buffer_frame(&broker.inbox, &header, &payload)) {
    handle(&header, payload);
    buffer_consume(&broker.inbox, sizeof header + header.length);
  }
}

static void read_factory(void) {
  struct factory_answer made;
  int fd, count = 1;
  if (receive_packet(broker.factory, &made, sizeof made, &fd, &count, 0) != sizeof made) {
    fprintf(stderr, "launcher: the factory is gone\n");
    shut_down(71);
  }
  if (made.kind == OP_BASE && made.sandbox < MAX_BASES) broker.lent[made.sandbox] = made.bytes != 0;
  if (made.kind == OP_STORED && made.bytes != 0) broker.stored_kept = true;
  if (made.kind == OP_CREATE) sandbox_made(&made, count == 1 ? fd : -1);
  else if (made.error[0] != 0) answer_error(made.request, 0, made.error);
  else if (made.kind == OP_FREEZE) answer(made.request, made.sandbox, 0, &made.bytes, sizeof made.bytes);
  else answer(made.request, 0, 0, NULL, 0);
}

static void read_signals(void) {
  struct signalfd_siginfo info[16];
  ssize_t n = read(broker.signals, info, sizeof info);
  for (ssize_t i = 0; i < n / (ssize_t)sizeof *info; i++)
    if (info[i].ssi_signo == SIGTERM) shut_down(0);
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) sandbox_reaped(pid, status);
}

static void read_sandboxes(void) {
  struct epoll_event events[64];
  int count = epoll_wait(broker.inner, events, 64, 0);
  for (int i = 0; i < count; i++) sandbox_socket_event((uint32_t)events[i].data.u64, events[i].events);
}

static void loop(void) {
  struct epoll_event events[8];
  for (;;) {
    int count = epoll_wait(broker.epoll, events, 8, sandboxes_pending() ? 2 : relay_starved() ? 100 : -1);
    for (int i = 0; i < count; i++) {
      switch ((enum source)events[i].data.u64) {
        case SOURCE_INPUT: read_input(); break;
        case SOURCE_OUTPUT: break; /* flushed below */
        case SOURCE_FACTORY: read_factory(); break;
        case SOURCE_SIGNALS: read_signals(); break;
        case SOURCE_SANDBOXES: read_sandboxes(); break;
        case SOURCE_RELAY: relay_events(); break;
      }
    }
    sandboxes_retry();
    relay_tidy();
    flush_output();
  }
}

/* Each sandbox takes a descriptor; the usual soft limit of 1024 is for programs that use select. */
static void raise_open_files(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int broker_main(void) {
  sigset_t handled;
  setsid(); /* Ctrl-C is for the control process, which tells us when to stop */
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  prctl(PR_SET_DUMPABLE, 0);
  raise_open_files();
  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&handled);
  sigaddset(&handled, SIGCHLD);
  sigaddset(&handled, SIGTERM);
  sigprocmask(SIG_BLOCK, &handled, NULL);
  broker.signals = signalfd(-1, &handled, SFD_NONBLOCK | SFD_CLOEXEC);
  broker.epoll = epoll_create1(EPOLL_CLOEXEC);
  broker.inner = epoll_create1(EPOLL_CLOEXEC);
  broker.relay = epoll_create1(EPOLL_CLOEXEC);
  if (broker.signals < 0 || broker.epoll < 0 || broker.inner < 0 || broker.relay < 0) return 70;
  fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
  fcntl(STDOUT_FILENO, F_SETFL, O_NONBLOCK);
  watch_epoll(STDIN_FILENO, SOURCE_INPUT, EPOLLIN, EPOLL_CTL_ADD);
  watch_epoll(broker.signals, SOURCE_SIGNALS, EPOLLIN, EPOLL_CTL_ADD);
  watch_epoll(broker.inner, SOURCE_SANDBOXES, EPOLLIN, EPOLL_CTL_ADD);
  watch_epoll(broker.relay, SOURCE_RELAY, EPOLLIN, EPOLL_CTL_ADD);
  broker.inner_watched = true;
  loop();
  return 0;
}
