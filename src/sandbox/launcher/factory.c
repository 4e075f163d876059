/* The factory's loop: one packet in, one sandbox cloned, one packet out. */
#include "launcher.h"

#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

static struct base bases[MAX_BASES];
static const struct level *sandbox_level;

/* The sandbox's first descriptor, where set-up failures are told. */
static int told_to = -1;
static uint32_t told_for, told_request;

void setup_tell(int descriptor, uint32_t sandbox, uint32_t request) {
  told_to = descriptor;
  told_for = sandbox;
  told_request = request;
}

void setup_fail(const char *what) {
  char text[512];
  struct buffer buffer = {0};
  format(text, sizeof text, "%s: %s", what, strerror(errno));
  buffer_put_frame(&buffer, OP_REPLY, FLAG_ERROR, told_request, told_for, text, strlen(text));
  write_all(told_to, buffer.data, buffer_length(&buffer));
  _exit(125);
}

/* Gives the broker what it can make a layer of. The sandbox itself keeps no way to it. */
static void hand_over(int writable) {
  struct frame_header frame = {.op = OP_FREEZE, .sandbox = told_for};
  if (writable < 0) return;
  if (!send_packet(told_to, &frame, sizeof frame, &writable, 1)) setup_fail("handing over the layer");
  close(writable);
}

/* The child: from a clone of the factory to the init of a sandbox. */
static void become_sandbox(const struct factory_message *message, int socket, int go, const int *tasks) {
  char byte;
  told_to = socket;
  told_for = message->sandbox;
  take_mounts(go, &message->spec, sandbox_level, &bases[message->spec.base]);
  if (read(go, &byte, 1) != 1) _exit(125); /* the id maps are written, or the factory is gone */
  for (int i = 0; i < message->attach_count; i++)
    if (write(tasks[i], "0", 1) != 1) setup_fail("joining the control group");
  if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0) setup_fail("becoming root of the user namespace");
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) setup_fail("parent death signal");
  /* After joining, so that the group is the root of what the sandbox sees. */
  if (unshare(CLONE_NEWCGROUP) != 0) setup_fail("cgroup namespace");
  if (setsid() < 0) setup_fail("setsid");
  int writable = rootfs_build(&bases[message->spec.base], message->spec.base, &message->spec, !sandbox_level->mapped);
  hand_over(writable);
  if (dup2(socket, 3) < 0 || syscall(SYS_close_range, 4, ~0U, 0) != 0) setup_fail("closing descriptors");
  told_to = 3;
  static struct level level;
  level = *sandbox_level;
  level.mapped = level.mapped || message->spec.ids > 0;
  if (message->spec.users_root && message->spec.target[0] != 0) files_have_one_owner();
  confine(&message->spec, &level);
  init_main(3, message->sandbox, &message->spec, &level);
}

/*
 * What the kernel counts per user (inotify instances, message queues, pending signals) it counts again for whoever made the
 * user namespace. So each sandbox is made in the name of an id of its own: otherwise one could use up what is the host's root's
 * and its neighbours'. The capabilities stay; only the name changes.
 */
static void act_as(uid_t id) {
  if (syscall(SYS_setresuid, -1, id, -1) != 0) return; /* then it is counted as ours */
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* the change took both away */
  prctl(PR_SET_DUMPABLE, 1);
}

/* 0: ourselves, where we have no other id. */
static uid_t maker_of(const struct factory_message *message) {
  if (!sandbox_level->mapped || message->spec.ids > 0) return message->spec.ids;
  return sandbox_level->first_id + 1 + message->sandbox % (sandbox_level->id_count - 1);
}

/* In the name of `maker`; with subordinate ids, how many processes the sandbox may have in all is set by that. */
static pid_t clone_sandbox(struct clone_args *arguments, uid_t maker, const struct sandbox_spec *spec) {
  if (sandbox_level->subordinate > 0) subordinate_limit_processes(process_limit(spec, sandbox_level));
  if (maker != 0) act_as(maker);
  pid_t pid = (pid_t)syscall(SYS_clone3, arguments, sizeof *arguments);
  int saved = errno;
  if (pid == 0) return 0;
  if (maker != 0) act_as(0);
  if (sandbox_level->subordinate > 0) subordinate_limit_processes(UINT64_MAX);
  errno = saved;
  return pid;
}

static bool write_maps(pid_t pid, const struct sandbox_spec *spec) {
  if (sandbox_level->subordinate > 0) return subordinate_write_maps(pid, spec);
  return write_id_maps(pid, sandbox_level, spec->ids > 0 ? spec->ids : sandbox_level->first_id);
}

/* Descriptors: the sandbox's socket, the v1 `tasks` files, the v2 group. `network`: the one it got; −1: it made its own. */
static pid_t make_sandbox(const struct factory_message *message, const int *fds, int *network, char *error, size_t capacity) {
  int go[2];
  if (!message->spec.store && (message->spec.base >= MAX_BASES || !bases[message->spec.base].used)) {
    format(error, capacity, "profile %u is not registered", message->spec.base);
    return -1;
  }
  if (message->spec.target[0] != 0 && !stage_target(message->spec.target, error, capacity)) return -1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, go) != 0) {
    format(error, capacity, "socket: %s", strerror(errno));
    return -1;
  }
  *network = network_enter(message->network ? fds[1 + message->attach_count + message->into_cgroup] : -1);
  struct clone_args arguments = {
      .flags = CLONE_PARENT | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS};
  if (*network < 0) arguments.flags |= CLONE_NEWNET;
  if (message->into_cgroup) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = (uint64_t)fds[1 + message->attach_count];
  }
  pid_t pid = clone_sandbox(&arguments, maker_of(message), &message->spec);
  if (pid == 0) {
    close(go[1]);
    become_sandbox(message, fds[0], go[0], fds + 1);
    _exit(125);
  }
  network_leave();
  if (message->spec.target[0] != 0) stage_target_end(); /* the sandbox has its own */
  if (pid < 0) format(error, capacity, "new namespaces: %s", strerror(errno));
  else if (!write_maps(pid, &message->spec)) format(error, capacity, "id maps: %s", strerror(errno));
  else if (!lend_mounts(go[1], pid, &message->spec, sandbox_level, &bases[message->spec.base]))
    format(error, capacity, "mounts with its ids: %s", strerror(errno));
  else if (write(go[1], "g", 1) != 1) format(error, capacity, "start: %s", strerror(errno));
  close(go[0]);
  close(go[1]);
  return pid;
}

/* `settings`: what follows the message. */
static void handle(const struct factory_message *message, const uint8_t *settings, size_t length, const int *fds, int count,
                   struct factory_answer *answer, int *network) {
  char *error = answer->error;
  size_t capacity = sizeof answer->error;
  uint32_t base = message->spec.base;
  if (message->kind == OP_BASE && base < MAX_BASES) {
    stage_base(base, &bases[base], sandbox_level, settings, length, error, capacity);
    answer->sandbox = base;
    answer->bytes = bases[base].lent;
    if (bases[base].used) error[0] = 0;
  } else if (message->kind == OP_FREEZE && count == 1) {
    stage_layer(message->layer, fds[0], &answer->bytes, error, capacity);
  } else if (message->kind == OP_STORED) {
    stage_stored(message->layer, message->spec.target, sandbox_level, error, capacity);
    answer->bytes = stage_keeps_ids(message->layer);
  } else if (message->kind == OP_DROP) {
    stage_drop(message->layer);
  } else if (message->kind == OP_CREATE && count == 1 + message->attach_count + message->into_cgroup + message->network) {
    answer->pid = make_sandbox(message, fds, network, error, capacity);
  } else if (message->kind != OP_PING) { /* to answer that is all */
    format(error, capacity, "descriptors are missing (limit on open files reached?)");
  }
}

void factory_main(int channel, struct level *level, const char *stage) {
  static uint8_t packet[sizeof(struct factory_message) + 128 * 1024];
  struct factory_answer answer = {.kind = OP_HELLO};
  sandbox_level = level;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "ale-factory");
  /* Until `confine`: an ordinary user may write the id maps of dumpable processes only. */
  prctl(PR_SET_DUMPABLE, 1);
  bool entered = stage_enter(level, stage, answer.error, sizeof answer.error);
  /* For `act_as`: another name takes no capability away. */
  if (entered && (level->mapped || level->subordinate > 0) && prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) != 0)
    format(answer.error, sizeof answer.error, "secure bits: %s", strerror(errno));
  networks_open();
  answer.bytes = level->subordinate;
  if (answer.error[0] == 0) seccomp_prepare(level->hard_limits);
  if (!send_packet(channel, &answer, sizeof answer, NULL, 0) || answer.error[0] != 0) _exit(0);
  for (;;) {
    struct factory_message message;
    int fds[16], count = 16;
    ssize_t n = receive_packet(channel, packet, sizeof packet, fds, &count, 0);
    if (n < (ssize_t)sizeof message) _exit(0); /* the broker is gone */
    memcpy(&message, packet, sizeof message);
    answer = (struct factory_answer){.kind = message.kind, .request = message.request, .sandbox = message.sandbox};
    int network = -1;
    handle(&message, packet + sizeof message, (size_t)n - sizeof message, fds, count, &answer, &network);
    for (int i = 0; i < count; i++) close(fds[i]);
    if (!send_packet(channel, &answer, sizeof answer, &network, network >= 0)) _exit(0);
    if (network >= 0) close(network);
  }
}
