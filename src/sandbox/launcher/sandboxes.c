/* The broker's table of sandboxes: from CREATE through the factory to DESTROY. */
#include "broker.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { BUCKETS = 1024 };
static struct sandbox *buckets[BUCKETS];
static int removable_later;

struct sandbox *sandbox_find(uint32_t id) {
  struct sandbox *sandbox = buckets[id % BUCKETS];
  while (sandbox != NULL && sandbox->id != id) sandbox = sandbox->next;
  return sandbox;
}

static void close_socket(struct sandbox *sandbox) {
  if (sandbox->socket >= 0) close(sandbox->socket); /* leaves the epoll set by itself */
  sandbox->socket = -1;
  relay_forget(sandbox->id);
  while (sandbox->handed_count > 0) close(sandbox->handed[--sandbox->handed_count]);
  buffer_free(&sandbox->in);
  buffer_free(&sandbox->out);
}

static void close_writable(struct sandbox *sandbox) {
  if (sandbox->writable >= 0) close(sandbox->writable);
  sandbox->writable = -1;
}

/* Nothing of the sandbox runs any more, so what it wrote can no longer change; its control group may take longer to go. */
static void hand_layer_to_factory(struct sandbox *sandbox) {
  struct factory_message message = {.kind = OP_FREEZE, .request = sandbox->freeze_request, .sandbox = sandbox->id,
                                    .layer = sandbox->freeze_layer};
  sandbox->freeze_request = 0;
  if (message.request != 0 && !send_packet(broker.factory, &message, sizeof message, &sandbox->writable, 1))
    answer_error(message.request, sandbox->id, "the factory is gone");
}

static void answer_create(struct sandbox *sandbox, const char *error) {
  if (sandbox->answered) return;
  sandbox->answered = true;
  char level[64];
  describe_level(&sandbox->spec, level, sizeof level);
  if (error == NULL) answer(sandbox->create_request, sandbox->id, 0, level, strlen(level));
  else answer_error(sandbox->create_request, sandbox->id, error);
}

/* Forgets a sandbox whose processes are gone. Its control group may stay busy for a moment: then it is tried again. */
static void remove_sandbox(struct sandbox *sandbox) {
  hand_layer_to_factory(sandbox);
  if (!cgroups_remove(&broker.cgroups, sandbox->id)) {
    removable_later++;
    return;
  }
  if (sandbox->destroy_request != 0) answer(sandbox->destroy_request, sandbox->id, 0, NULL, 0);
  close_socket(sandbox);
  close_writable(sandbox);
  struct sandbox **link = &buckets[sandbox->id % BUCKETS];
  while (*link != sandbox) link = &(*link)->next;
  *link = sandbox->next;
  block_give_back(&sandbox->spec);
  network_give_back(sandbox);
  free(sandbox);
}

bool sandboxes_pending(void) { return removable_later > 0; }

void sandboxes_retry(void) {
  if (removable_later == 0) return;
  removable_later = 0;
  for (int i = 0; i < BUCKETS; i++)
    for (struct sandbox *sandbox = buckets[i], *next; sandbox != NULL; sandbox = next) {
      next = sandbox->next;
      if (sandbox->destroying && sandbox->state == SANDBOX_GONE && sandbox->pid == 0) remove_sandbox(sandbox);
    }
}

static void fail_creation(struct sandbox *sandbox, const char *error) {
  answer_create(sandbox, error);
  sandbox->state = SANDBOX_GONE;
  sandbox->destroying = true;
  close_socket(sandbox);
  if (sandbox->pid > 0) kill(sandbox->pid, SIGKILL);
  else remove_sandbox(sandbox);
}

/* Hands one sandbox to the factory. */
static void start_making(struct sandbox *sandbox) {
  char error[ERROR_SIZE];
  int fds[3 + MAX_ATTACH], pair[2], attach_count = 0, into = -1;
  if (!cgroups_create(&broker.cgroups, sandbox->id, &sandbox->spec, fds + 1, &attach_count, &into, error,
                      sizeof error)) {
    fail_creation(sandbox, error);
    return;
  }
  int network = network_take();
  struct factory_message message = {.kind = OP_CREATE, .sandbox = sandbox->id, .spec = sandbox->spec,
                                    .attach_count = attach_count, .into_cgroup = into >= 0, .network = network >= 0};
  bool sent = false;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
    fds[0] = pair[1];
    int count = 1 + attach_count;
    if (into >= 0) fds[count++] = into;
    if (network >= 0) fds[count++] = network;
    sandbox->socket = pair[0];
    sent = send_packet(broker.factory, &message, sizeof message, fds, count);
    close(pair[1]);
  }
  format(error, sizeof error, "handing over to the factory: %s", strerror(errno));
  for (int i = 0; i < attach_count; i++) close(fds[1 + i]);
  if (into >= 0) close(into);
  if (network >= 0) close(network);
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = sandbox->id};
  if (!sent || epoll_ctl(broker.inner, EPOLL_CTL_ADD, sandbox->socket, &event) != 0) {
    fail_creation(sandbox, error);
    return;
  }
  sandbox->state = SANDBOX_MAKING;
  broker.in_flight++;
}

static void pump(void) {
  while (broker.in_flight < MAX_IN_FLIGHT && broker.queue_first != NULL) {
    struct sandbox *sandbox = broker.queue_first;
    broker.queue_first = sandbox->next_queued;
    if (broker.queue_first == NULL) broker.queue_last = NULL;
    if (sandbox->destroying) fail_creation(sandbox, "destroyed before it was made");
    else start_making(sandbox);
  }
}

void sandbox_create(const struct frame_header *header, const uint8_t *payload) {
  const char *workdir = setting(payload, header->length, "workdir");
  if (sandbox_find(header->sandbox) != NULL || workdir == NULL || workdir[0] != '/' || strlen(workdir) >= PATH_SIZE) {
    answer_error(header->request, header->sandbox, "the working directory must be an absolute path, and the id unused");
    return;
  }
  struct sandbox *sandbox = calloc(1, sizeof *sandbox);
  if (sandbox == NULL) abort();
  sandbox->id = header->sandbox;
  sandbox->create_request = header->request;
  sandbox->socket = -1;
  sandbox->writable = -1;
  sandbox->network = -1;
  struct sandbox_spec *spec = &sandbox->spec;
  spec->base = (uint32_t)setting_number(payload, header->length, "base", 0);
  spec->memory = setting_number(payload, header->length, "memory", 256 << 20);
  spec->disk = setting_number(payload, header->length, "disk", 64 << 20);
  spec->inodes = setting_number(payload, header->length, "inodes", 16384);
  spec->pids = setting_number(payload, header->length, "pids", 64);
  spec->cpu_milli = setting_number(payload, header->length, "cpu", 1000);
  spec->session = setting_number(payload, header->length, "session", 1) != 0;
  format(spec->workdir, sizeof spec->workdir, "%s", workdir);
  const char *target = setting(payload, header->length, "target");
  if (target != NULL) format(spec->target, sizeof spec->target, "%s", target);
  spec->store = setting_number(payload, header->length, "store", 0) != 0;
  const char *layer;
  for (size_t cursor = 0; (layer = setting_next(payload, header->length, "layer", &cursor)) != NULL;) {
    if (spec->layer_count == MAX_LAYERS) {
      free(sandbox);
      answer_error(header->request, header->sandbox, "the sandbox stands on too many snapshots of one another");
      return;
    }
    spec->layers[spec->layer_count++] = (uint32_t)strtoul(layer, NULL, 10);
  }
  block_take(spec);
  sandbox->next = buckets[sandbox->id % BUCKETS];
  buckets[sandbox->id % BUCKETS] = sandbox;
  if (broker.queue_last != NULL) broker.queue_last->next_queued = sandbox;
  else broker.queue_first = sandbox;
  broker.queue_last = sandbox;
  pump();
}

void sandbox_destroy(const struct frame_header *header) {
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  if (sandbox == NULL) {
    answer(header->request, header->sandbox, 0, NULL, 0);
    return;
  }
  if (sandbox->freeze_request != 0) { /* nobody waits for the layer any more */
    answer_error(sandbox->freeze_request, sandbox->id, "the sandbox is being destroyed");
    sandbox->freeze_request = 0;
  }
  sandbox->destroying = true;
  sandbox->destroy_request = header->request;
  if (sandbox->pid > 0) kill(sandbox->pid, SIGKILL); /* the kernel ends the rest of its pid namespace */
  else if (sandbox->state == SANDBOX_GONE) remove_sandbox(sandbox);
}

/* Ends the sandbox; when all of it is gone, what it wrote is handed to the factory, which answers. */
void sandbox_freeze(const struct frame_header *header, const uint8_t *payload) {
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  if (sandbox == NULL || sandbox->state != SANDBOX_LIVE || sandbox->destroying) {
    answer_error(header->request, header->sandbox, "the sandbox is gone");
    return;
  }
  if (sandbox->writable < 0) {
    answer_error(header->request, header->sandbox, "this kernel cannot hand a sandbox's file system over");
    return;
  }
  sandbox->freeze_request = header->request;
  sandbox->freeze_layer = (uint32_t)setting_number(payload, header->length, "layer", 0);
  sandbox->destroying = true;
  kill(sandbox->pid, SIGKILL);
}

/* Sends what is queued; asks to be called again when the socket is full. */
static void flush(struct sandbox *sandbox) {
  while (buffer_length(&sandbox->out) > 0) {
    ssize_t n = send(sandbox->socket, sandbox->out.data + sandbox->out.start, buffer_length(&sandbox->out),
                     MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    buffer_consume(&sandbox->out, (size_t)n);
  }
  bool wants = buffer_length(&sandbox->out) > 0;
  if (wants == sandbox->wants_write) return;
  sandbox->wants_write = wants;
  struct epoll_event event = {.events = wants ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.u64 = sandbox->id};
  epoll_ctl(broker.inner, EPOLL_CTL_MOD, sandbox->socket, &event);
}

void sandbox_send(struct sandbox *sandbox, const struct frame_header *header, const uint8_t *payload, size_t length) {
  buffer_put_frame(&sandbox->out, header->op, header->flags, header->request, sandbox->id, payload, length);
  flush(sandbox);
}

void sandbox_forward(const struct frame_header *header, const uint8_t *payload) {
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  if (sandbox == NULL || sandbox->state != SANDBOX_LIVE || sandbox->destroying) {
    if ((header->flags & FLAG_MORE) == 0 && header->op != OP_CANCEL)
      answer_error(header->request, header->sandbox, "the sandbox is gone");
    return;
  }
  sandbox_send(sandbox, header, payload, header->length);
}

void sandbox_limits(const struct frame_header *header) {
  uint32_t counts[3] = {0};
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  if (sandbox == NULL) {
    answer_error(header->request, header->sandbox, "the sandbox is gone");
    return;
  }
  cgroups_events(&broker.cgroups, header->sandbox, &counts[0], &counts[1]);
  if (sandbox->state == SANDBOX_LIVE && !sandbox->frozen && sandbox->limits_request == 0) {
    sandbox->limits_request = header->request;
    sandbox_send(sandbox, header, (uint8_t *)counts, 8); /* its init adds what it saw */
  } else {
    answer(header->request, header->sandbox, 0, counts, sizeof counts);
  }
}

/* One frame from the sandbox. Request 0 is its first word: ready, or why not. */
static void receive_frame(struct sandbox *sandbox, const struct frame_header *header, const uint8_t *payload) {
  if (header->request == sandbox->limits_request) sandbox->limits_request = 0;
  if (header->op == OP_FREEZE) return; /* came with the mount, which is kept already */
  if (header->op == OP_SOCKET) {
    int handed = sandbox->handed_count > 0 ? sandbox->handed[0] : -1;
    if (handed >= 0) memmove(sandbox->handed, sandbox->handed + 1, sizeof(int) * (size_t)--sandbox->handed_count);
    if (sandbox->sockets_asked > 0) sandbox->sockets_asked--;
    relay_socket(sandbox, header->request, handed);
    return;
  }
  if (header->request != 0) {
    if (header->request == sandbox->pause_request && !sandbox_paused(sandbox)) return;
    answer(header->request, sandbox->id, header->flags, payload, header->length);
    return;
  }
  if (sandbox->answered) return;
  if (header->flags & FLAG_ERROR) {
    char text[ERROR_SIZE];
    format(text, sizeof text, "%.*s", (int)header->length, (const char *)payload);
    answer_create(sandbox, text);
    sandbox->destroying = true; /* it exits by itself */
    return;
  }
  sandbox->state = SANDBOX_LIVE;
  answer_create(sandbox, NULL);
}

/* Reads what is there; false at the end of the stream. */
static bool receive(struct sandbox *sandbox) {
  static uint8_t chunk[CHUNK];
  int mount, mounts = 1;
  ssize_t n = receive_packet(sandbox->socket, chunk, sizeof chunk, &mount, &mounts, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  if (mounts == 1 && sandbox->state != SANDBOX_LIVE && sandbox->writable < 0) sandbox->writable = mount;
  else if (mounts == 1 && sandbox->sockets_asked > 0 && sandbox->handed_count < MAX_HANDED)
    sandbox->handed[sandbox->handed_count++] = mount;
  else if (mounts == 1) close(mount); /* nothing else is taken */
  buffer_append(&sandbox->in, chunk, (size_t)n);
  struct frame_header header;
  const uint8_t *payload;
  while (buffer_frame(&sandbox->in, &header, &payload)) {
    receive_frame(sandbox, &header, payload);
    buffer_consume(&sandbox->in, sizeof header + header.length);
  }
  return true;
}

void sandbox_socket_event(uint32_t id, uint32_t events) {
  struct sandbox *sandbox = sandbox_find(id);
  if (sandbox == NULL || sandbox->socket < 0) return;
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !receive(sandbox)) {
    close_socket(sandbox); /* the rest follows when the init is reaped */
    return;
  }
  if (events & EPOLLOUT) flush(sandbox);
}

/* Inits that ended before the factory's word of their making arrived. */
static struct {
  pid_t pid;
  int status;
} early[MAX_IN_FLIGHT * 2];

static void remember_early(pid_t pid, int status) {
  for (size_t i = 0; i < sizeof early / sizeof *early; i++)
    if (early[i].pid == 0) {
      early[i].pid = pid;
      early[i].status = status;
      return;
    }
}

static bool take_early(pid_t pid, int *status) {
  for (size_t i = 0; i < sizeof early / sizeof *early; i++)
    if (early[i].pid == pid) {
      *status = early[i].status;
      early[i].pid = 0;
      return true;
    }
  return false;
}

/* The init was reaped: nothing of the sandbox runs any more. */
static void sandbox_ended(struct sandbox *sandbox, int status) {
  char text[128];
  int unread;
  while (sandbox->socket >= 0 && ioctl(sandbox->socket, FIONREAD, &unread) == 0 && unread > 0) /* its last words */
    if (!receive(sandbox)) break;
  bool was_live = sandbox->state == SANDBOX_LIVE;
  sandbox->pid = 0;
  sandbox->state = SANDBOX_GONE;
  close_socket(sandbox);
  format(text, sizeof text, WIFSIGNALED(status) ? "its init was ended by signal %d" : "its init ended with code %d",
         WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  if (sandbox->limits_request != 0) { /* asked while it was dying, perhaps of what the answer is about */
    uint32_t counts[3] = {0};
    cgroups_events(&broker.cgroups, sandbox->id, &counts[0], &counts[1]);
    answer(sandbox->limits_request, sandbox->id, 0, counts, sizeof counts);
    sandbox->limits_request = 0;
  }
  if (!sandbox->answered) {
    answer_create(sandbox, text);
    sandbox->destroying = true;
  }
  if (sandbox->destroying) remove_sandbox(sandbox);
  else if (was_live) answer_gone(sandbox->id, text);
}

void sandbox_reaped(pid_t pid, int status) {
  struct sandbox *sandbox = NULL;
  for (int i = 0; i < BUCKETS && sandbox == NULL; i++)
    for (sandbox = buckets[i]; sandbox != NULL && sandbox->pid != pid; sandbox = sandbox->next) continue;
  if (sandbox != NULL) sandbox_ended(sandbox, status);
  else remember_early(pid, status);
}

void sandbox_made(const struct factory_answer *made, int network) {
  int status;
  broker.in_flight--;
  struct sandbox *sandbox = sandbox_find(made->sandbox);
  if (sandbox != NULL) network_keep(sandbox, network);
  else if (network >= 0) close(network);
  bool ended = made->pid > 0 && take_early(made->pid, &status); /* also where the factory failed for that very reason */
  if (sandbox != NULL) {
    sandbox->pid = made->pid > 0 && !ended ? made->pid : 0;
    if (sandbox->state == SANDBOX_MAKING) sandbox->state = SANDBOX_STARTING; /* it may have said "ready" already */
    if (made->error[0] != 0) fail_creation(sandbox, made->error);
    else if (ended) sandbox_ended(sandbox, status);
    else if (sandbox->destroying) kill(sandbox->pid, SIGKILL);
  }
  pump();
}

void sandboxes_end(void) {
  for (int i = 0; i < BUCKETS; i++)
    for (struct sandbox *sandbox = buckets[i]; sandbox != NULL; sandbox = sandbox->next) {
      sandbox->destroying = true;
      if (sandbox->pid > 0) kill(sandbox->pid, SIGKILL);
    }
  int64_t deadline = now_us() + 1000000;
  for (bool left = true; left && now_us() < deadline;) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) sandbox_reaped(pid, status);
    sandboxes_retry();
    left = false;
    for (int i = 0; i < BUCKETS; i++)
      for (struct sandbox *sandbox = buckets[i]; sandbox != NULL; sandbox = sandbox->next)
        left = left || sandbox->pid > 0 || sandboxes_pending();
    if (left) usleep(500);
  }
}
