/* Inside the broker: the table of sandboxes and the channels around it. */
#ifndef ALE_BROKER_H
#define ALE_BROKER_H

#include "launcher.h"

enum { ERROR_SIZE = 512, MAX_IN_FLIGHT = 8, OUTBOX_HIGH = 16 << 20, OUTBOX_LOW = 4 << 20, MAX_HANDED = 4 };

enum sandbox_state {
  SANDBOX_QUEUED,   /* waits for the factory */
  SANDBOX_MAKING,   /* the factory clones it */
  SANDBOX_STARTING, /* sets itself up */
  SANDBOX_LIVE,
  SANDBOX_GONE,     /* its init ended; what is left is removed on DESTROY */
};

struct sandbox {
  struct sandbox *next;       /* in its bucket */
  struct sandbox *next_queued;
  uint32_t id;
  enum sandbox_state state;
  struct sandbox_spec spec;
  uint32_t create_request, destroy_request;
  uint32_t limits_request;    /* handed to the init, not answered yet; 0: none */
  uint32_t pause_request;     /* told to the init, after whose answer the control group is frozen; 0: none */
  bool frozen;
  uint32_t freeze_request, freeze_layer; /* 0: it is not to become a layer */
  int writable;               /* mount of all it can write; −1 where there is none */
  int network;                /* its network namespace; −1: not kept */
  int handed[MAX_HANDED], handed_count; /* sockets that came with frames which are not read yet */
  int sockets_asked;          /* of its init, not answered yet */
  bool answered;              /* CREATE was answered */
  bool destroying, wants_write;
  pid_t pid;                  /* 0: not cloned, or reaped */
  int socket;                 /* -1: closed */
  struct buffer in, out;
};

struct broker {
  int epoll, inner, relay, signals, factory; /* `inner` holds the sandboxes' sockets, `relay` those of relay.c */
  bool inner_watched, output_watched;
  struct buffer inbox, outbox;
  struct level level;
  struct cgroups cgroups;
  int ids; /* the factory's user namespace, where sandboxes have subordinate ids */
  bool on_disk[MAX_BASES]; /* bases that are folders of the host's, other than its programs */
  bool lent[MAX_BASES];    /* bases that sandboxes can be shown with ids of their own */
  bool stored_kept;        /* of the layers on disk there is one that cannot */
  struct sandbox *queue_first, *queue_last;
  int in_flight;
  char stage[PATH_SIZE];
};
extern struct broker broker;

/* broker.c */
void answer(uint32_t request, uint32_t sandbox, uint8_t flags, const void *data, size_t length);
void answer_error(uint32_t request, uint32_t sandbox, const char *text);
void answer_gone(uint32_t sandbox, const char *text);

/* sandboxes.c */
void sandbox_create(const struct frame_header *header, const uint8_t *payload);
void sandbox_destroy(const struct frame_header *header);
void sandbox_forward(const struct frame_header *header, const uint8_t *payload);
void sandbox_limits(const struct frame_header *header);
void sandbox_freeze(const struct frame_header *header, const uint8_t *payload);
struct sandbox *sandbox_find(uint32_t id);
/* Queues a frame for the sandbox's init. */
void sandbox_send(struct sandbox *sandbox, const struct frame_header *header, const uint8_t *payload, size_t length);
void sandbox_made(const struct factory_answer *made, int network);
void sandbox_socket_event(uint32_t id, uint32_t events);
void sandbox_reaped(pid_t pid, int status);
void sandboxes_retry(void);
bool sandboxes_pending(void); /* some wait for their control group to be removable */
void sandboxes_end(void);     /* kills all and removes what they leave, within a second */

/* blocks.c */
void blocks_open(uint32_t ids, pid_t factory);
void block_take(struct sandbox_spec *spec);
void block_give_back(const struct sandbox_spec *spec);
/* The level's name: in general (NULL), or of one sandbox. */
void describe_level(const struct sandbox_spec *spec, char *text, size_t capacity);

/* networks.c */
int network_take(void); /* one that nobody is in any more; −1: there is none */
void network_keep(struct sandbox *sandbox, int fd);
void network_give_back(struct sandbox *sandbox); /* when nothing of the sandbox runs any more */

/* written.c */
void sandbox_written(const struct frame_header *header, const uint8_t *payload);
/* relay.c */
void relay_open(const struct frame_header *header, const uint8_t *payload);
void relay_close(const struct frame_header *header, const uint8_t *payload);
/* The sandbox's init answered: a socket, or −1. */
void relay_socket(struct sandbox *sandbox, uint32_t number, int fd);
void relay_events(void);
void relay_forget(uint32_t sandbox);
/* Frees what was closed; after a want of descriptors, tries again. */
void relay_tidy(void);
bool relay_starved(void);

/* datagrams.c */
/*
 * Gives the loopback device of the socket's network namespace another one: the C library takes a machine whose only address is
 * 127.0.0.1 for one without IPv4, and finds no names for programs that ask for IPv4 alone (AI_ADDRCONFIG).
 */
void second_address(int fd);
/* As recv: what has come, each in its frame; −1 and EAGAIN when nothing has. */
ssize_t datagrams_read(int fd, uint8_t *stream, size_t size);
/* Sends those that are complete. */
void datagrams_write(int fd, struct buffer *stream);

/* pause.c */
void sandbox_statistics(const struct frame_header *header);
void sandbox_pause(const struct frame_header *header);
bool sandbox_paused(struct sandbox *sandbox);
void sandbox_resume(const struct frame_header *header);

#endif
