/* Capped output of a command. */
#include "init.h"

#include <sys/ioctl.h>

void capture_start(struct capture *capture, size_t cap) {
  memset(capture, 0, sizeof *capture);
  capture->log = -1;
  capture->head_limit = cap / 2;
  capture->ring_limit = cap - cap / 2;
}

void capture_free(struct capture *capture) {
  free(capture->head);
  free(capture->ring);
  if (capture->log >= 0) close(capture->log);
  memset(capture, 0, sizeof *capture);
  capture->log = -1;
}

/* Makes room for `wanted` bytes, never more than `limit`. */
static bool grow(uint8_t **data, size_t *capacity, size_t wanted, size_t limit) {
  if (wanted <= *capacity) return true;
  size_t size = *capacity > 0 ? *capacity : 1024;
  while (size < wanted) size *= 2;
  if (size > limit) size = limit;
  uint8_t *larger = realloc(*data, size);
  if (larger == NULL) return false;
  *data = larger;
  *capacity = size;
  return true;
}

static void add_to_ring(struct capture *capture, const uint8_t *data, size_t length) {
  if (length > capture->ring_limit) {
    data += length - capture->ring_limit;
    length = capture->ring_limit;
  }
  size_t wanted = capture->ring_used + length;
  if (wanted > capture->ring_limit) wanted = capture->ring_limit;
  if (!grow(&capture->ring, &capture->ring_capacity, wanted, capture->ring_limit)) return;
  while (length > 0) {
    if (capture->ring_at == capture->ring_limit) capture->ring_at = 0;
    size_t part = capture->ring_limit - capture->ring_at;
    if (part > length) part = length;
    memcpy(capture->ring + capture->ring_at, data, part);
    capture->ring_at += part;
    if (capture->ring_at > capture->ring_used) capture->ring_used = capture->ring_at;
    data += part;
    length -= part;
  }
}

/* A full disk, or the end of what the log may hold, ends the log and not the program. */
static void add_to_log(struct capture *capture, const uint8_t *data, size_t length) {
  if (length > capture->log_left) length = (size_t)capture->log_left;
  capture->log_left = write_all(capture->log, data, length) ? capture->log_left - length : 0;
}

void capture_add(struct capture *capture, const uint8_t *data, size_t length) {
  capture->total += length;
  if (capture->log >= 0 && capture->log_left > 0) add_to_log(capture, data, length);
  size_t part = capture->head_limit - capture->head_used;
  if (part > length) part = length;
  if (part > 0 && grow(&capture->head, &capture->head_capacity, capture->head_used + part, capture->head_limit)) {
    memcpy(capture->head + capture->head_used, data, part);
    capture->head_used += part;
    data += part;
    length -= part;
  }
  if (length > 0) add_to_ring(capture, data, length);
}

bool capture_drain(struct capture *capture, int fd, size_t at_most) {
  static uint8_t chunk[CHUNK];
  while (at_most > 0) {
    ssize_t n = read(fd, chunk, at_most < sizeof chunk ? at_most : sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return true;
    if (n == 0) return false;
    capture_add(capture, chunk, (size_t)n);
    at_most -= (size_t)n;
  }
  return true;
}

bool capture_flooded(const struct capture *capture) {
  return capture->total > (uint64_t)OUTPUT_FACTOR * (capture->head_limit + capture->ring_limit);
}
