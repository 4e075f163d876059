/* Buffers, frames and other plumbing shared by all three kinds of process. */
#include "launcher.h"

#include <sys/socket.h>

void buffer_append(struct buffer *buffer, const void *data, size_t length) {
  if (buffer->capacity - buffer->end < length) {
    size_t used = buffer_length(buffer);
    if (buffer->start > 0) {
      memmove(buffer->data, buffer->data + buffer->start, used);
      buffer->start = 0;
      buffer->end = used;
    }
    if (buffer->capacity < used + length) {
      size_t capacity = buffer->capacity > 0 ? buffer->capacity : 4096;
      while (capacity < used + length) capacity *= 2;
      uint8_t *data_new = realloc(buffer->data, capacity);
      if (data_new == NULL) abort();
      buffer->data = data_new;
      buffer->capacity = capacity;
    }
  }
  memcpy(buffer->data + buffer->end, data, length);
  buffer->end += length;
}

void buffer_consume(struct buffer *buffer, size_t length) {
  buffer->start += length;
  if (buffer->start < buffer->end) return;
  buffer->start = buffer->end = 0;
  if (buffer->capacity > (1 << 20)) buffer_free(buffer);
}

void buffer_free(struct buffer *buffer) {
  free(buffer->data);
  memset(buffer, 0, sizeof *buffer);
}

bool buffer_frame(const struct buffer *buffer, struct frame_header *header, const uint8_t **payload) {
  if (buffer_length(buffer) < sizeof *header) return false;
  memcpy(header, buffer->data + buffer->start, sizeof *header);
  if (header->length > FRAME_MAX) {
    fprintf(stderr, "launcher: frame of %u bytes\n", header->length);
    _exit(70);
  }
  if (buffer_length(buffer) < sizeof *header + header->length) return false;
  *payload = buffer->data + buffer->start + sizeof *header;
  return true;
}

void buffer_put_frame(struct buffer *buffer, uint8_t op, uint8_t flags, uint32_t request, uint32_t sandbox,
                      const void *payload, size_t length) {
  struct frame_header header = {
      .length = (uint32_t)length, .op = op, .flags = flags, .request = request, .sandbox = sandbox};
  buffer_append(buffer, &header, sizeof header);
  if (length > 0) buffer_append(buffer, payload, length);
}

const char *setting_next(const uint8_t *payload, size_t length, const char *key, size_t *cursor) {
  size_t key_length = strlen(key);
  while (*cursor < length) {
    const char *item = (const char *)payload + *cursor;
    size_t item_length = strnlen(item, length - *cursor);
    if (*cursor + item_length >= length) return NULL; /* not ended by NUL */
    *cursor += item_length + 1;
    if (item_length > key_length && item[key_length] == '=' && memcmp(item, key, key_length) == 0)
      return item + key_length + 1;
  }
  return NULL;
}

const char *setting(const uint8_t *payload, size_t length, const char *key) {
  size_t cursor = 0;
  return setting_next(payload, length, key, &cursor);
}

uint64_t setting_number(const uint8_t *payload, size_t length, const char *key, uint64_t otherwise) {
  const char *text = setting(payload, length, key);
  return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

int64_t now_us(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

bool write_all(int fd, const void *data, size_t length) {
  const uint8_t *bytes = data;
  while (length > 0) {
    ssize_t n = write(fd, bytes, length);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes += n;
    length -= (size_t)n;
  }
  return true;
}

bool write_text_at(int dir, const char *path, const char *text) {
  int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = write(fd, text, strlen(text));
  int saved = errno;
  close(fd);
  errno = saved;
  return n == (ssize_t)strlen(text);
}

ssize_t read_text_at(int dir, const char *path, char *text, size_t capacity) {
  int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  size_t used = 0;
  ssize_t n;
  while (used + 1 < capacity && (n = read(fd, text + used, capacity - 1 - used)) > 0) used += (size_t)n;
  close(fd);
  text[used] = 0;
  return (ssize_t)used;
}

void format(char *out, size_t capacity, const char *pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(out, capacity, pattern, arguments);
  va_end(arguments);
}

bool send_packet(int socket, const void *data, size_t length, const int *fds, int count) {
  char control[CMSG_SPACE(sizeof(int) * 16)] = {0};
  struct iovec vector = {.iov_base = (void *)data, .iov_len = length};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * (size_t)count);
  }
  ssize_t n;
  do n = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n == (ssize_t)length;
}

ssize_t receive_packet(int socket, void *data, size_t capacity, int *fds, int *count, int flags) {
  char control[CMSG_SPACE(sizeof(int) * 16)] = {0};
  struct iovec vector = {.iov_base = data, .iov_len = capacity};
  struct msghdr message = {
      .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t n;
  do n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags);
  while (n < 0 && errno == EINTR);
  int found = 0;
  for (struct cmsghdr *header = n >= 0 ? CMSG_FIRSTHDR(&message) : NULL; header != NULL;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int arrived = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < arrived; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + sizeof(int) * (size_t)i, sizeof fd);
      if (count != NULL && found < *count) fds[found++] = fd;
      else close(fd);
    }
  }
  if (count != NULL) *count = found;
  return n;
}
