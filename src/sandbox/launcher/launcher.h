/*
 * The launcher makes sandboxes. It is three kinds of process from one program:
 *
 *   broker   speaks frames with the control process on stdin/stdout, owns cgroups, routes to the sandboxes (broker.c)
 *   factory  forked from the broker before any payload is read, so its memory holds nothing worth stealing; lives in a
 *            private mount namespace that no longer contains the host's root; clones every sandbox (stage.c, factory.c)
 *   init     pid 1 of each sandbox, cloned from the factory without exec; runs commands and moves files (init.c, …)
 *
 * In a container that podman or docker made, the program is that container's init and nothing else (container.c).
 *
 * The inits are children of the broker (CLONE_PARENT). When the broker ends, for whatever reason, each init sees its
 * socket close and ends, and the kernel ends every process of its pid namespace with it.
 */
#ifndef ALE_LAUNCHER_H
#define ALE_LAUNCHER_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "the sandbox launcher supports linux-x64 only"
#endif

/* Numbers that are the same on every architecture, for older kernel headers. */
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

/* ---- frames ------------------------------------------------------------------------------------------------------ */

enum { FRAME_MAX = 1 << 20, CHUNK = 64 << 10 };

enum op {
  OP_HELLO = 1,   /* control → broker: settings; reply: what was reached, as key=value */
  OP_BASE = 2,    /* control → factory: register the lower layers of a profile */
  OP_CREATE = 3,
  OP_DESTROY = 4,
  OP_LIMITS = 5,  /* reply: u32 memory, u32 pids, u32 disk */
  OP_FREEZE = 6,  /* the sandbox ends and what it wrote becomes a layer for others; reply: u64 bytes */
  OP_DROP = 7,    /* control → factory: a layer is no longer needed */
  OP_PING = 8,    /* control → factory: an empty reply, which says that both processes are at work */
  OP_STORED = 12, /* control → factory: a folder of the host as a layer */
  OP_RUN = 16,
  OP_EXEC = 17,
  OP_CANCEL = 18,
  OP_READ = 19,
  OP_KILL_ALL = 20, /* reply: u32 processes that were ended */
  OP_EXPORT = 21,
  OP_IMPORT = 22,
  OP_SHELL_OPEN = 23,
  OP_SHELL_CLOSE = 24,
  OP_INTERRUPT = 25,
  OP_TERMINAL_OPEN = 26,
  OP_TERMINAL_READ = 27,
  OP_TERMINAL_WRITE = 28,
  OP_TERMINAL_RESIZE = 29,
  OP_TERMINAL_CLOSE = 30,
  OP_PAUSE = 31,
  OP_RESUME = 32,
  OP_STATS = 33,  /* reply: struct statistics */
  OP_WRITE = 34,
  OP_STAT = 35,
  OP_CHANGE = 36, /* mode and owner */
  OP_LISTEN = 48,    /* control → broker: a port of the sandbox leads to a path (relay.c) */
  OP_FORWARD = 49,   /* control → broker: a path leads to a port of the sandbox */
  OP_UNLISTEN = 50,
  OP_SOCKET = 51,    /* broker → init: a socket of its network namespace; answered with it */
  OP_VARIABLES = 52, /* environment of what starts from now on */
  OP_OBSERVE = 60, /* what the guards look at (observe.c) */
  OP_WRITTEN = 61, /* which of some paths the sandbox wrote to (written.c) */
  OP_COPY = 70,   /* a layer, as it is, to the target; reply: u64 bytes, skipped, entries */
  OP_PACK = 71,   /* a folder as a stream of entries, into a file of the target */
  OP_REPLY = 64,
  OP_GONE = 65,   /* broker → control: the sandbox ended by itself */
};

enum frame_flags {
  FLAG_MORE = 1,    /* the message goes on in the next frame with this request id */
  FLAG_ERROR = 2,   /* payload is a message for people */
  FLAG_MISSING = 4, /* READ: there is no such file */
  FLAG_DATAGRAMS = 8, /* SOCKET: UDP, not TCP */
};

struct frame_header {
  uint32_t length;
  uint8_t op;
  uint8_t flags;
  uint16_t reserved;
  uint32_t request;
  uint32_t sandbox;
} __attribute__((packed));

/* A byte queue: data[start … end). */
struct buffer {
  uint8_t *data;
  size_t start, end, capacity;
};

void buffer_append(struct buffer *buffer, const void *data, size_t length);
void buffer_consume(struct buffer *buffer, size_t length);
void buffer_free(struct buffer *buffer);
static inline size_t buffer_length(const struct buffer *buffer) { return buffer->end - buffer->start; }
/* Points `header` and `payload` at the first complete frame; false when more bytes are needed, exits on nonsense. */
bool buffer_frame(const struct buffer *buffer, struct frame_header *header, const uint8_t **payload);
void buffer_put_frame(struct buffer *buffer, uint8_t op, uint8_t flags, uint32_t request, uint32_t sandbox,
                      const void *payload, size_t length);

/* Payloads of settings: strings `key=value`, each ended by NUL. Returns the value, or NULL. */
const char *setting(const uint8_t *payload, size_t length, const char *key);
/* The next value of `key` after `*cursor` (start with 0); for keys that repeat. */
const char *setting_next(const uint8_t *payload, size_t length, const char *key, size_t *cursor);
uint64_t setting_number(const uint8_t *payload, size_t length, const char *key, uint64_t otherwise);

/* ---- small helpers (util-free names; io.c) ----------------------------------------------------------------------- */

int64_t now_us(void);
bool write_all(int fd, const void *data, size_t length);
bool write_text_at(int dir, const char *path, const char *text);
ssize_t read_text_at(int dir, const char *path, char *text, size_t capacity);
void format(char *out, size_t capacity, const char *pattern, ...) __attribute__((format(printf, 3, 4)));
/* Sends one packet with descriptors; false on failure. */
bool send_packet(int socket, const void *data, size_t length, const int *fds, int count);
/* Receives one packet; at most `*count` descriptors, `*count` set to how many came. */
ssize_t receive_packet(int socket, void *data, size_t capacity, int *fds, int *count, int flags);

/* ---- settings ---------------------------------------------------------------------------------------------------- */

/* Layers one sandbox can stand on: their names have to fit into the page that mount(2) takes. */
enum { MAX_LAYERS = 64 };
/* In the number of a layer that lies in a folder of the host: what it holds is no memory of the sandbox's. */
#define STORED_LAYER 0x80000000u
/* Where a sandbox with a target finds it. */
#define TARGET_NAME ".target"
enum { MAX_TREES = 4, MAX_ATTACH = MAX_TREES, MAX_BASES = 64, MAX_MASKS = 64, MAX_BINDS = 32, PATH_SIZE = 1024 };

/* What the machine gave us, decided once at start. */
struct level {
  bool mapped;        /* sandbox ids are a range of their own (0 → first_id…), not the one id of our user */
  uint32_t first_id;
  uint32_t id_count;
  bool hard_limits;   /* memory and pids by cgroup; otherwise rlimits and a watcher */
  bool want_subordinate;
  uint32_t subordinate; /* ids from 1 on in the factory's namespace, in blocks for the sandboxes; 0: none */
  bool ranges;          /* as root: sandboxes have a range each, from RANGES_FIRST on; else all have the one at first_id */
};
/* Subordinate ids that one sandbox gets. */
enum { BLOCK_IDS = 32 };
/* Ids that one sandbox of root's gets. Above what is granted as subordinate ids, and to containers of systemd's. */
#define RANGES_FIRST 0x80000000u
enum { RANGE_IDS = 65536 };
enum { MAX_BLOCKS = 16384 };

/* One sandbox to make. */
struct sandbox_spec {
  uint32_t base;
  uint64_t memory, disk, inodes, pids;
  uint64_t cpu_milli;
  bool session;
  char workdir[PATH_SIZE];
  uint32_t layers[MAX_LAYERS]; /* what frozen sandboxes wrote, newest first */
  uint32_t layer_count;
  char target[PATH_SIZE]; /* a folder of the host that it may write to; empty: none */
  bool store;             /* no root file system: the layers side by side, and the target */
  uint32_t ids;           /* first of its own ids, a block of subordinate ones or as root a range; 0: none */
  bool shares_ids;        /* with others */
  bool users_root;        /* its root is the user all the same, for the sake of files on disk */
};

/* Broker → factory. */
struct factory_message {
  uint32_t kind; /* OP_BASE, OP_CREATE, OP_FREEZE (with the layer's mount), OP_DROP, OP_PING or OP_STORED (path in spec.target) */
  uint32_t request;
  uint32_t sandbox;
  uint32_t layer;
  struct sandbox_spec spec;
  int32_t attach_count;  /* v1 `tasks` files among the descriptors, after the socket */
  int32_t into_cgroup;   /* 1: then a v2 directory */
  int32_t network;       /* 1: then a network that nobody is in any more */
  uint32_t settings_length; /* OP_BASE: bytes after this struct */
};

/* Factory → broker. */
struct factory_answer {
  uint32_t kind, request, sandbox;
  int32_t pid;
  uint64_t bytes;  /* OP_FREEZE: what the layer holds; OP_BASE: whether it is lent; OP_STORED: whether it is not */
  char error[512]; /* empty: success */
};

/* Lower layers of a profile, as seen in the factory's mount namespace. */
struct base {
  bool used;
  bool directory;                     /* one whole root, instead of the host's /usr */
  bool has_usr;
  bool bare;                          /* nothing of the host's */
  bool lent;                          /* mounted with the host's ids: each sandbox gets it mounted with its own */
  char links[8][2][64];               /* top-level symlinks: name, target */
  int link_count;
  char trees[8][64];                  /* other top-level folders, bound read-only */
  int tree_count;
  char binds[MAX_BINDS][PATH_SIZE];   /* paths (without leading slash) bound read-only from the host */
  bool bind_is_dir[MAX_BINDS];
  int bind_count;
  char masks[MAX_MASKS][PATH_SIZE];   /* paths inside the sandbox to hide */
  int mask_count;
};

/* What a sandbox has used. Numbers that the control groups know are the broker's, the others its init's. */
struct statistics {
  uint64_t cpu_us, memory, memory_peak, memory_kills, processes, disk, disk_limit, inodes, inode_limit;
} __attribute__((packed));
#define NOT_KNOWN UINT64_MAX

/* ---- parts ------------------------------------------------------------------------------------------------------- */

int broker_main(void);
int probe_main(void);

/* cgroup.c, in the broker */
struct cgroup_tree {
  char path[PATH_SIZE]; /* our own group, below which each sandbox gets one */
  int dir;
  bool v2, memory, pids, cpu;
};
struct cgroups {
  struct cgroup_tree trees[MAX_TREES];
  int count;
  bool memory, pids, cpu;
  char aside[PATH_SIZE]; /* v2: the group whose processes moved down to make room; empty: none */
};
void cgroups_detect(struct cgroups *groups, const char *name);
/* Makes the sandbox's groups with their limits. Fills descriptors to attach with. False: see `error`. */
bool cgroups_create(struct cgroups *groups, uint32_t sandbox, const struct sandbox_spec *spec, int *attach,
                    int *attach_count, int *into, char *error, size_t capacity);
void cgroups_events(const struct cgroups *groups, uint32_t sandbox, uint32_t *memory, uint32_t *pids);
/* Fills in what the groups know, NOT_KNOWN for the rest. */
void cgroups_statistics(const struct cgroups *groups, uint32_t sandbox, struct statistics *statistics);
/* Whether `cgroups_freeze` can work. */
bool cgroups_can_freeze(const struct cgroups *groups);
bool cgroups_freeze(const struct cgroups *groups, uint32_t sandbox, bool frozen);
/* True when nothing is left. */
bool cgroups_remove(const struct cgroups *groups, uint32_t sandbox);
void cgroups_close(struct cgroups *groups);
/* In a container: the groups that this process is in, as they are mounted there. Only limits that are in force count. */
enum { OWN_GROUP = 0, EXTRA_PROCESSES = 2 /* init and shell */ };
void cgroups_open_own(struct cgroups *groups, const struct sandbox_spec *spec);
void cgroups_describe(const struct cgroups *groups, char *text, size_t capacity);

/* room.c, for cgroup.c: hands controllers to the children of a v2 group, noted in `tree`; of all groups above `own`, from `top` characters on. */
void room_hand_down(int dir, struct cgroup_tree *tree);
void room_hand_down_above(const char *own, size_t top);
/* Moves the processes of our own group into a child of it, so that it may hand down controllers. False: it stays as it was. */
bool room_step_aside(const char *own);
/* Whether another launcher did so before: our group is that child. */
bool room_was_made(const char *own, const char *parent);
/* The contrary, unless another launcher still needs the room. */
void room_step_back(const char *own);

/* stage.c and factory.c */
void factory_main(int channel, struct level *level, const char *stage) __attribute__((noreturn));
/* Enters the factory's own namespaces; afterwards the host is out of reach except through `stage_base`. */
bool stage_enter(struct level *level, const char *stage, char *error, size_t capacity);
bool stage_base(uint32_t id, struct base *base, const struct level *level, const uint8_t *settings, size_t length, char *error,
                size_t capacity);
/* Places a frozen sandbox's file system, a detached mount, where every later sandbox can stand on it. */
bool stage_layer(uint32_t layer, int mount, uint64_t *bytes, char *error, size_t capacity);
void stage_drop(uint32_t layer);
/* The same for a folder of the host; nothing can be written through it. */
bool stage_stored(uint32_t layer, const char *path, const struct level *level, char *error, size_t capacity);
/* Such a one cannot be shown with a sandbox's own ids. */
bool stage_keeps_ids(uint32_t layer);
/* Makes a folder of the host writable at /base/target for the sandbox that is cloned before `stage_target_end`. */
bool stage_target(const char *path, char *error, size_t capacity);
void stage_target_end(void);
/* 0 where /usr can be mounted with the sandboxes' ids, else the error number. */
int stage_probe_mapping(const struct level *level);
/* As root, a range that begins with `first`. */
bool write_id_maps(pid_t pid, const struct level *level, uint32_t first);

/* subordinate.c: the user's subordinate ids, in the factory */
/* As an ordinary user: becomes root of a user namespace that holds only ourselves, and our subordinate ids where there are any,
 * whose number is noted in the level. */
bool enter_own_namespace(struct level *level, char *error, size_t capacity);
/* Whether those can be had, and how far they go, or why not. Changes the process. */
bool subordinate_probe(char *detail, size_t capacity);
bool subordinate_write_maps(pid_t pid, const struct sandbox_spec *spec);
void subordinate_limit_processes(uint64_t count);

/* lend.c: mounts of the stage, shown with the ids of the new sandbox, which waits for them and has its ids by then */
bool lend_mounts(int to, pid_t pid, const struct sandbox_spec *spec, const struct level *level, const struct base *base);
void take_mounts(int from, const struct sandbox_spec *spec, const struct level *level, const struct base *base);
/* Whether this kernel can do so. */
bool can_show_with_ids(void);
/* A copy of the mount, and of those below it, with the ids of a user namespace. A descriptor, or −1. */
int mount_with_ids(const char *path, int namespace);

/* networks.c, in the factory: enters a network for the next sandbox, the given one if that is like new; −1: it must make its own */
void networks_open(void);
int network_enter(int given);
void network_leave(void);
bool raise_loopback(void); /* of the network it is called in, unless it is up */

/* rootfs.c, confine.c, seccomp.c: in the new sandbox, before anything of the agent's runs */
void setup_fail(const char *what) __attribute__((noreturn));
/* Where it is told, and as the answer to what. */
void setup_tell(int descriptor, uint32_t sandbox, uint32_t request);
/* Returns a detached mount of everything the sandbox can write, which can outlive it as a layer; −1 where impossible. */
int rootfs_build(const struct base *base, uint32_t base_id, const struct sandbox_spec *spec, bool shared);
void confine(const struct sandbox_spec *spec, const struct level *level);
/* Most processes of one of its users. */
uint64_t process_limit(const struct sandbox_spec *spec, const struct level *level);
/* Where another engine made the namespaces and we have no right to change them. */
void confine_in_container(const struct sandbox_spec *spec, const struct level *level);
void seccomp_prepare(bool hard_limits);
/* As without hard limits, and no sockets but connected pairs. */
void seccomp_prepare_without_sockets(void);
bool seccomp_install(void);
/* processes.c: before init can no longer be looked at. */
void prefer_programs(void);
/* Writes the filter to stdout, as bubblewrap takes it: for comparisons. */
int filter_main(void);

/* init.c */
void init_main(int socket, uint32_t sandbox, const struct sandbox_spec *spec, const struct level *level)
    __attribute__((noreturn));
/* Before `init_main`, where there is no broker: frames go to another descriptor, what it would tell of control groups is
 * looked up here, `place` is on the file system that the sandbox fills, and where the kernel counts processes together with
 * others' the watcher is to enforce their limit. */
void init_elsewhere(int descriptor, const struct cgroups *groups, const char *place, bool enforce);
enum { PROCESS_SLACK = 512 }; /* how far a fork bomb comes there, at most */
/* There is no pid namespace: what descends from us is the sandbox. Paths of requests begin at `root`. */
void init_without_namespaces(const char *root);
/* What is written belongs to root, whatever archives and layers say: it lies on the disk of a user who has to remove it. */
void files_have_one_owner(void);
/* Enters a folder of the sandbox. */
bool enter_folder(const char *path);
uint64_t count_tasks_of_user(void);

/* container.c and landlock.c: sandboxes that no broker makes, one per process of ours */
int container_main(void);
const uint8_t *hello_read(int input, struct frame_header *header, struct sandbox_spec *spec);
void hello_answer(int output, const struct frame_header *header, const char *text);
int landlock_main(void);
/* The version of Landlock's interface; below 1 where there is none. */
int landlock_abi(void);
void landlock_program(void);

#endif
