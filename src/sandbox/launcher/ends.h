/* One side of a connection that relay.c joins: what is to be written to it, and whether it is listened to. */
#ifndef ALE_ENDS_H
#define ALE_ENDS_H

#include "broker.h"

enum { NOT_WATCHED = -1 };
struct connection;
struct end {
  struct connection *connection; /* first, and never NULL: told apart from a gate by it */
  int fd;                        /* −1: not there yet */
  struct buffer out;             /* to be written here */
  int64_t watched;               /* epoll events; NOT_WATCHED: it is not in the set */
  bool ended, shut, hung_up;     /* it sends no more; it was told that nothing more comes; it is gone */
  bool datagrams;
};

/* Bytes that hold up the other side. Datagrams do not: what of them cannot be sent is lost. */
size_t end_waiting(const struct end *end);
/* Without events an end is still told of as gone, unless it is NOT_WATCHED. */
void end_watch(struct end *end, int64_t events);
/* Closing alone would leave it in the epoll set as long as its init holds it, too. */
void end_close(struct end *end);
/* Moves one chunk from `from` to `to`, and the end of it; false when the connection is to be closed. */
bool end_move(struct end *from, struct end *to);

#endif
