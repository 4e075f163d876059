/* Sides of connections (ends.h): bytes from one to the other, as far as that one takes them. */
#include "ends.h"

#include <sys/epoll.h>
#include <sys/socket.h>

size_t end_waiting(const struct end *end) { return end->datagrams ? 0 : buffer_length(&end->out); }

void end_watch(struct end *end, int64_t events) {
  if (end->fd < 0 || events == end->watched) return;
  struct epoll_event event = {.events = (uint32_t)events, .data.ptr = end};
  bool added = end->watched == NOT_WATCHED, removed = events == NOT_WATCHED;
  epoll_ctl(broker.relay, added ? EPOLL_CTL_ADD : removed ? EPOLL_CTL_DEL : EPOLL_CTL_MOD, end->fd, &event);
  end->watched = events;
}

void end_close(struct end *end) {
  end_watch(end, NOT_WATCHED);
  if (end->fd >= 0) close(end->fd);
  end->fd = -1;
  buffer_free(&end->out);
}

/* Writes what waits; false when the connection is to be closed. */
static bool flush_end(struct end *end) {
  if (end->datagrams) datagrams_write(end->fd, &end->out);
  while (end_waiting(end) > 0) {
    ssize_t n = send(end->fd, end->out.data + end->out.start, buffer_length(&end->out), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    buffer_consume(&end->out, (size_t)n);
  }
  return true;
}

bool end_move(struct end *from, struct end *to) {
  static uint8_t chunk[CHUNK];
  if (!flush_end(to)) return false;
  if (end_waiting(to) == 0 && !from->ended) {
    ssize_t n = from->datagrams ? datagrams_read(from->fd, chunk, sizeof chunk)
                                : recv(from->fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (n == 0) from->ended = true;
    if (n > 0) buffer_append(&to->out, chunk, (size_t)n);
    if (!flush_end(to)) return false;
  }
  bool done = from->ended && end_waiting(to) == 0;
  if (done && !to->shut) {
    to->shut = true;
    shutdown(to->fd, SHUT_WR);
  }
  return !(done && (from->hung_up || to->ended));
}
