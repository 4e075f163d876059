/*
 * Datagrams of a sandbox as a stream to control, for gates of relay.c. Each is in a frame: its length, then address and port of
 * whom it is from, or for, all in network order; then its bytes. One that is too long, or that nobody takes, is lost, as
 * datagrams are.
 */
#include "broker.h"

#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { DATAGRAM_MAX = 4096 };

struct datagram {
  uint16_t length;
  in_addr_t address;
  uint16_t port;
} __attribute__((packed));

void second_address(int fd) {
  struct ifreq request = {.ifr_name = "lo:1"};
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f400000)}; /* 127.64.0.0 */
  memcpy(&request.ifr_addr, &address, sizeof address);
  ioctl(fd, SIOCSIFADDR, &request);
}

ssize_t datagrams_read(int fd, uint8_t *stream, size_t size) {
  size_t used = 0;
  while (size - used >= sizeof(struct datagram) + DATAGRAM_MAX) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    uint8_t *content = stream + used + sizeof(struct datagram);
    ssize_t n = recvfrom(fd, content, DATAGRAM_MAX, MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&from, &length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    if (n > DATAGRAM_MAX || length != sizeof from) continue;
    struct datagram frame = {
        .length = htons((uint16_t)n), .address = from.sin_addr.s_addr, .port = from.sin_port};
    memcpy(stream + used, &frame, sizeof frame);
    used += sizeof frame + (size_t)n;
  }
  if (used > 0) return (ssize_t)used;
  errno = EAGAIN;
  return -1;
}

void datagrams_write(int fd, struct buffer *stream) {
  struct datagram frame;
  while (buffer_length(stream) >= sizeof frame) {
    const uint8_t *start = stream->data + stream->start;
    memcpy(&frame, start, sizeof frame);
    size_t length = ntohs(frame.length);
    if (buffer_length(stream) < sizeof frame + length) return;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = frame.port, .sin_addr.s_addr = frame.address};
    sendto(fd, start + sizeof frame, length, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to);
    buffer_consume(stream, sizeof frame + length);
  }
}
