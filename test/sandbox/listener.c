/*
 * A server for tests: `listener http PORT` answers each connection with what it was sent, under headers that a hostile
 * service would send; `listener echo PORT` sends bytes back until the other side has said all; `listener websocket PORT`
 * repeats small frames.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536];

static void echo(int fd) {
  ssize_t n;
  while ((n = read(fd, buffer, sizeof buffer)) > 0)
    if (write(fd, buffer, (size_t)n) != n) return;
}

static size_t read_head(int fd) {
  size_t used = 0;
  ssize_t n;
  while (used < sizeof buffer - 1 && (n = read(fd, buffer + used, sizeof buffer - 1 - used)) > 0) {
    buffer[used += (size_t)n] = 0;
    if (strstr(buffer, "\r\n\r\n") != NULL) break;
  }
  return used;
}

static void http(int fd) {
  size_t used = read_head(fd);
  ssize_t more;
  struct pollfd ready = {.fd = fd, .events = POLLIN};
  while (used < sizeof buffer && poll(&ready, 1, 100) == 1 && (more = read(fd, buffer + used, sizeof buffer - used)) > 0)
    used += (size_t)more;
  const char *location = strncmp(buffer, "GET /away", 9) == 0   ? "302 Found\r\nLocation: http://evil.test/"
                         : strncmp(buffer, "GET /near", 9) == 0 ? "302 Found\r\nLocation: /there?x=1"
                                                                : "200 OK";
  dprintf(fd,
          "HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %zu\r\nConnection: close\r\n"
          "Set-Cookie: session=stolen\r\nContent-Security-Policy: script-src *\r\nService-Worker-Allowed: /\r\n"
          "Access-Control-Allow-Origin: *\r\nClear-Site-Data: *\r\nETag: \"one\"\r\n\r\n",
          location, used);
  if (write(fd, buffer, used) < 0) exit(1);
}

/* What the client's key is answered with: programs of the sandbox know SHA-1 and base64. */
static void accept_key(char *key) {
  char command[512];
  const char *field = strstr(buffer, "WebSocket-Key: ");
  if (field == NULL) field = strstr(buffer, "websocket-key: ");
  if (field == NULL) exit(3);
  snprintf(command, sizeof command,
           "bash -c 'printf %%b \"$(printf %%s %.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11 | sha1sum | cut -c1-40 |"
           " sed \"s/../\\\\\\\\x&/g\")\" | base64'",
           field + 15);
  FILE *output = popen(command, "r");
  if (output == NULL || fscanf(output, "%63s", key) != 1) exit(4);
  pclose(output);
}

/* Frames of less than 126 bytes, masked by the client (RFC 6455). */
static void websocket(int fd) {
  unsigned char frame[131];
  char key[64];
  read_head(fd);
  accept_key(key);
  dprintf(fd, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", key);
  while (recv(fd, frame, 6, MSG_WAITALL) == 6) {
    size_t length = frame[1] & 127;
    unsigned char *mask = frame + 2, body[128];
    if (length > 125 || recv(fd, body + 2, length, MSG_WAITALL) != (ssize_t)length) return;
    for (size_t i = 0; i < length; i++) body[2 + i] ^= mask[i % 4];
    body[0] = frame[0];
    body[1] = (unsigned char)length;
    if (write(fd, body, length + 2) < 0 || (frame[0] & 15) == 8) return;
  }
}

int main(int count, char **arguments) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int server = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  if (count < 3) return 2;
  address.sin_port = htons((unsigned short)atoi(arguments[2]));
  setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(server, (struct sockaddr *)&address, sizeof address) != 0 || listen(server, 16) != 0) return 1;
  if (fork() != 0) return 0; /* who started it knows that it listens */
  for (;;) {
    int fd = accept(server, NULL, NULL);
    if (fd < 0) return 1;
    if (strcmp(arguments[1], "http") == 0) http(fd);
    else if (strcmp(arguments[1], "echo") == 0) echo(fd);
    else websocket(fd);
    close(fd);
  }
}
