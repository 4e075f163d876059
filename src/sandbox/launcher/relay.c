/*
 * Ways between the network namespaces of sandboxes and unix sockets of the control process. A gate joins one TCP port of
 * a sandbox's loopback device with one path:
 *
 *   outward  the port listens; each connection to it is joined with a new one to the path
 *   inward   the path listens; each connection to it is joined with a new one to the port
 *
 * An outward gate may be of datagrams: then there is one connection to the path, for all of them (datagrams.c).
 *
 * A socket belongs to the network namespace it was made in, whoever holds it. So each sandbox's init makes the sockets,
 * hands them over unconnected, and has no part in what goes through them; what may go through is not decided here either,
 * but by who holds the other end of the path. Nothing here waits: sockets are read and written with MSG_DONTWAIT, and a
 * side that does not take its bytes is not read for.
 */
#include "ends.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { BACKLOG = 64, PER_GATE = 64, PER_SANDBOX_GATES = 64, MAX_CONNECTIONS = 4096 };

struct gate {
  struct connection *none; /* NULL */
  struct gate *next;
  uint32_t sandbox, number, request;
  in_addr_t address; /* of the loopback device */
  uint16_t port;
  bool inward, datagrams, watched, closed;
  int listener, open;
  char path[sizeof((struct sockaddr_un *)0)->sun_path];
};
struct connection {
  struct connection *next;
  struct gate *gate;
  uint32_t number;
  bool connecting, closed;
  struct end outer, inner; /* the path's side, the sandbox's side */
};

static struct gate *gates;
static struct connection *connections;
static int connection_count;
static uint32_t next_number = 1;
static bool starved, rubbish;

static struct sockaddr_un path_address(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  format(address.sun_path, sizeof address.sun_path, "%s", path);
  return address;
}

static struct sockaddr_in gate_address(const struct gate *gate) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(gate->port), .sin_addr.s_addr = gate->address};
}

static void watch_listener(struct gate *gate, bool wanted) {
  if (gate->watched == wanted || gate->listener < 0) return;
  gate->watched = wanted;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = gate};
  epoll_ctl(broker.relay, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, gate->listener, &event);
}

/* Freed by `relay_sweep`: an event of the same round may still point here. */
static void close_connection(struct connection *connection) {
  if (connection->closed) return;
  connection->closed = rubbish = true;
  end_close(&connection->outer);
  end_close(&connection->inner);
  connection->gate->open--;
  connection_count -= !connection->inner.datagrams;
  if (!connection->gate->closed) watch_listener(connection->gate, true);
}

static void close_gate(struct gate *gate) {
  if (gate->closed) return;
  gate->closed = rubbish = true;
  for (struct connection *each = connections; each != NULL; each = each->next)
    if (each->gate == gate) close_connection(each);
  watch_listener(gate, false);
  if (gate->listener >= 0) close(gate->listener);
  gate->listener = -1;
  if (gate->inward) unlink(gate->path);
}

static void sweep(void) {
  if (!rubbish) return;
  rubbish = false;
  for (struct connection **link = &connections, *each; (each = *link) != NULL;) {
    if (each->closed) {
      *link = each->next;
      free(each);
    } else link = &each->next;
  }
  for (struct gate **link = &gates, *each; (each = *link) != NULL;) {
    if (each->closed && each->open == 0) {
      *link = each->next;
      free(each);
    } else link = &each->next;
  }
}

static void watch_connection(struct connection *connection) {
  struct end *ends[] = {&connection->outer, &connection->inner};
  for (int i = 0; i < 2; i++) {
    struct end *end = ends[i], *other = ends[1 - i];
    bool reads = !connection->connecting && !end->ended && end_waiting(other) == 0;
    bool writes = end_waiting(end) > 0 || (connection->connecting && end == &connection->inner);
    /* One that hung up is always ready: it is looked at only while there is something to do. */
    end_watch(end, end->hung_up && !reads && !writes ? NOT_WATCHED : (reads ? EPOLLIN : 0) | (writes ? EPOLLOUT : 0));
  }
}

static void finish_connecting(struct connection *connection) {
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(connection->inner.fd, SOL_SOCKET, SO_ERROR, &error, &length);
  connection->connecting = false;
  if (error != 0) close_connection(connection);
}

static void end_event(struct end *end, uint32_t events) {
  struct connection *connection = end->connection;
  if (connection->closed) return;
  struct end *other = end == &connection->outer ? &connection->inner : &connection->outer;
  if (connection->connecting) {
    if (end == &connection->inner) finish_connecting(connection);
    else if (events & (EPOLLHUP | EPOLLERR)) close_connection(connection); /* nobody waits any more */
  } else {
    if (events & (EPOLLHUP | EPOLLERR)) end->hung_up = true;
    if (!end_move(end, other) || !end_move(other, end)) close_connection(connection);
  }
  if (!connection->closed) watch_connection(connection);
}

static struct connection *new_connection(struct gate *gate, int outer, int inner) {
  struct connection *connection = calloc(1, sizeof *connection);
  if (connection == NULL) abort();
  connection->gate = gate;
  connection->number = next_number++;
  connection->outer.connection = connection->inner.connection = connection;
  connection->outer.fd = outer;
  connection->inner.fd = inner;
  connection->outer.watched = connection->inner.watched = NOT_WATCHED;
  connection->connecting = inner < 0;
  connection->next = connections;
  connections = connection;
  connection_count++;
  if (++gate->open >= PER_GATE) watch_listener(gate, false);
  return connection;
}

static void ask_for_socket(const struct gate *gate, uint32_t number) {
  struct frame_header header = {.op = OP_SOCKET, .flags = gate->datagrams ? FLAG_DATAGRAMS : 0, .request = number};
  struct sandbox *sandbox = sandbox_find(gate->sandbox);
  sandbox->sockets_asked++;
  sandbox_send(sandbox, &header, NULL, 0);
}

/* A new connection to the path of the gate; −1: nobody listens there. */
static int connect_path(const struct gate *gate) {
  struct sockaddr_un address = path_address(gate->path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
  int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

static void accept_one(struct gate *gate) {
  int fd = accept4(gate->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
  if (fd < 0 || connection_count >= MAX_CONNECTIONS) { /* later, for the listener stays ready */
    if (fd >= 0) close(fd);
    watch_listener(gate, false);
    starved = true;
    return;
  }
  if (gate->inward) {
    struct connection *connection = new_connection(gate, fd, -1);
    watch_connection(connection);
    ask_for_socket(gate, connection->number);
    return;
  }
  int outer = connect_path(gate);
  if (outer < 0) close(fd);
  else watch_connection(new_connection(gate, outer, fd));
}

/* Only what it was asked for is taken from an init, whatever it sends. */
static bool is_asked_for(int fd, int wanted) {
  int type = 0, domain = 0;
  socklen_t length = sizeof type;
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == wanted &&
         getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_INET &&
         fcntl(fd, F_SETFL, O_NONBLOCK) == 0;
}

/* The socket is in use by then; all datagrams go through one connection. */
static bool join_datagrams(struct gate *gate, int fd) {
  int outer = connect_path(gate);
  if (outer < 0) return false;
  second_address(fd);
  struct connection *connection = new_connection(gate, outer, fd);
  connection->inner.datagrams = true;
  connection_count--; /* everyone's limit is about connections that come and go */
  watch_connection(connection);
  return true;
}

static bool listen_at(struct gate *gate, int fd) {
  if (gate->datagrams) return join_datagrams(gate, fd);
  if (listen(fd, BACKLOG) != 0) return false;
  gate->listener = fd;
  watch_listener(gate, true);
  return true;
}

static void start_listening(struct gate *gate, int fd) {
  struct sockaddr_in address = gate_address(gate);
  char text[128];
  uint32_t request = gate->request;
  int on = 1; /* past connections of the port that the kernel still remembers do not matter */
  gate->request = 0;
  if (fd >= 0 && !gate->datagrams) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen_at(gate, fd)) {
    answer(request, gate->sandbox, 0, NULL, 0);
    return;
  }
  format(text, sizeof text, "listening on port %u of the sandbox: %s", gate->port, strerror(errno));
  if (fd >= 0) close(fd);
  answer_error(request, gate->sandbox, text);
  close_gate(gate);
}

static void start_connecting(struct connection *connection, int fd) {
  struct sockaddr_in address = gate_address(connection->gate);
  connection->inner.fd = fd;
  if (fd < 0) close_connection(connection);
  else if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) connection->connecting = false;
  else if (errno != EINPROGRESS) close_connection(connection);
  if (!connection->closed) watch_connection(connection);
}

void relay_socket(struct sandbox *sandbox, uint32_t number, int fd) {
  struct gate *gate = gates;
  while (gate != NULL && !(gate->number == number && gate->sandbox == sandbox->id && !gate->closed && gate->request != 0))
    gate = gate->next;
  if (fd >= 0 && !is_asked_for(fd, gate != NULL && gate->datagrams ? SOCK_DGRAM : SOCK_STREAM)) {
    close(fd);
    fd = -1;
  }
  if (gate != NULL) {
    start_listening(gate, fd);
    return;
  }
  for (struct connection *each = connections; each != NULL; each = each->next)
    if (each->number == number && each->gate->sandbox == sandbox->id && !each->closed && each->inner.fd < 0) {
      start_connecting(each, fd);
      return;
    }
  if (fd >= 0) close(fd);
}

/* What a request is about. Settings: `address` (127.0.0.1), `port`, `datagrams`. False: it is nothing of the loopback device's. */
static bool read_place(struct gate *place, const struct frame_header *header, const uint8_t *payload) {
  const char *address = setting(payload, header->length, "address");
  uint64_t port = setting_number(payload, header->length, "port", 0);
  *place = (struct gate){.sandbox = header->sandbox, .port = (uint16_t)port, .address = htonl(INADDR_LOOPBACK)};
  place->datagrams = setting_number(payload, header->length, "datagrams", 0) != 0;
  return port > 0 && port <= 65535 && (address == NULL || inet_pton(AF_INET, address, &place->address) == 1) &&
         ntohl(place->address) >> IN_CLASSA_NSHIFT == IN_LOOPBACKNET;
}

static struct gate *find_gate(const struct gate *place) {
  for (struct gate *gate = gates; gate != NULL; gate = gate->next)
    if (gate->sandbox == place->sandbox && gate->port == place->port && gate->address == place->address &&
        gate->inward == place->inward && gate->datagrams == place->datagrams && !gate->closed)
      return gate;
  return NULL;
}

static int count_gates(uint32_t sandbox) {
  int count = 0;
  for (struct gate *gate = gates; gate != NULL; gate = gate->next) count += gate->sandbox == sandbox;
  return count;
}

static void open_inward(struct gate *gate) {
  char text[PATH_SIZE];
  uint32_t request = gate->request;
  struct sockaddr_un address = path_address(gate->path);
  gate->request = 0;
  gate->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  unlink(gate->path);
  if (gate->listener >= 0 && bind(gate->listener, (struct sockaddr *)&address, sizeof address) == 0 &&
      listen(gate->listener, BACKLOG) == 0) {
    watch_listener(gate, true);
    answer(request, gate->sandbox, 0, NULL, 0);
    return;
  }
  format(text, sizeof text, "%s: %s", gate->path, strerror(errno));
  answer_error(request, gate->sandbox, text);
  close_gate(gate);
}

/* LISTEN and FORWARD. Settings: the place, and `path` (relative ones begin in the launcher's folder). */
void relay_open(const struct frame_header *header, const uint8_t *payload) {
  const char *path = setting(payload, header->length, "path");
  struct sandbox *sandbox = sandbox_find(header->sandbox);
  struct gate place;
  const char *error = NULL;
  bool good = read_place(&place, header, payload);
  place.inward = header->op == OP_FORWARD;
  if (sandbox == NULL || sandbox->state != SANDBOX_LIVE || sandbox->destroying) error = "the sandbox is gone";
  else if (!good || path == NULL || strlen(path) >= sizeof gates->path) error = "bad address, port or path";
  else if (find_gate(&place) != NULL) error = "the port is in use";
  else if (count_gates(header->sandbox) >= PER_SANDBOX_GATES) error = "too many ports are in use";
  struct gate *gate = error == NULL ? malloc(sizeof *gate) : NULL;
  if (gate == NULL) {
    answer_error(header->request, header->sandbox, error != NULL ? error : "out of memory");
    return;
  }
  *gate = place;
  gate->number = next_number++;
  gate->request = header->request;
  gate->listener = -1;
  format(gate->path, sizeof gate->path, "%s", path);
  gate->next = gates;
  gates = gate;
  if (gate->inward) open_inward(gate);
  else ask_for_socket(gate, gate->number);
}

/* Settings: the place, `inward`. The connections through the gate end with it. */
void relay_close(const struct frame_header *header, const uint8_t *payload) {
  struct gate place;
  bool good = read_place(&place, header, payload);
  place.inward = setting_number(payload, header->length, "inward", 0) != 0;
  struct gate *gate = good ? find_gate(&place) : NULL;
  if (gate != NULL) close_gate(gate);
  answer(header->request, header->sandbox, 0, NULL, 0);
}

void relay_forget(uint32_t sandbox) {
  for (struct gate *gate = gates; gate != NULL; gate = gate->next)
    if (gate->sandbox == sandbox) close_gate(gate);
}

void relay_events(void) {
  struct epoll_event events[64];
  int count = epoll_wait(broker.relay, events, 64, 0);
  for (int i = 0; i < count; i++) {
    struct gate *gate = events[i].data.ptr;
    if (gate->none != NULL) end_event(events[i].data.ptr, events[i].events);
    else if (!gate->closed) accept_one(gate);
  }
}

bool relay_starved(void) { return starved; }

void relay_tidy(void) {
  sweep();
  if (!starved) return;
  starved = false;
  for (struct gate *gate = gates; gate != NULL; gate = gate->next)
    if (!gate->closed && gate->open < PER_GATE) watch_listener(gate, true);
}
