/*
 * What init has to do with the network of its sandbox: it makes sockets, for only who is in a network namespace can, and it
 * keeps the variables that tell programs of the proxy. Connections are the broker's (relay.c), and go past init.
 */
#include "init.h"

#include <sys/socket.h>

enum { CHANNEL = 3, MAX_VARIABLES = 32, MAX_VARIABLE_BYTES = 16384 };

static char variable_text[MAX_VARIABLE_BYTES];
static char *variables[MAX_VARIABLES + 1];

char *const *given_variables(void) { return variables; }

/* Payload: KEY=VALUE strings, each ended by NUL. Programs and shells that start from now on have them. */
void network_variables(uint32_t request, const uint8_t *payload, size_t length) {
  int count = 0;
  if (length > sizeof variable_text || (length > 0 && payload[length - 1] != 0)) {
    reply_error(request, 0, "bad variables");
    return;
  }
  memcpy(variable_text, payload, length);
  for (size_t at = 0; at < length && count < MAX_VARIABLES; at += strlen(variable_text + at) + 1)
    variables[count++] = variable_text + at;
  variables[count] = NULL;
  reply(request, 0, NULL, 0);
}

/* Answered with the socket, or with a frame that has none. */
void network_socket(uint32_t request, bool datagrams) {
  struct frame_header frame = {.op = OP_SOCKET, .request = request};
  int fd = socket(AF_INET, (datagrams ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (!send_packet(CHANNEL, &frame, sizeof frame, &fd, fd >= 0 ? 1 : 0)) _exit(0); /* the broker is gone */
  if (fd >= 0) close(fd);
}
