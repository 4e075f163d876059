/*
 * The init of a container that podman or docker made. That engine gives namespaces, root file system and control groups;
 * from us come the filter of system calls, the rights that go, and the init with its protocol, so that everything works as
 * in the launcher's own sandboxes. Frames come on standard input and go to standard output.
 *
 * The level is what is found, not what was asked for: an engine may ignore limits that it cannot set.
 */
#include "launcher.h"

#include <sys/resource.h>

enum { INPUT = 3, OUTPUT = 4 };

/* The greeting, whose settings stay valid. Nothing but the greeting is sent before it is answered. */
static const uint8_t *read_hello(struct frame_header *header) {
  static struct buffer inbox;
  const uint8_t *payload;
  while (!buffer_frame(&inbox, header, &payload)) {
    uint8_t chunk[4096];
    ssize_t n = read(INPUT, chunk, sizeof chunk);
    if (n <= 0) _exit(0);
    buffer_append(&inbox, chunk, (size_t)n);
  }
  return payload;
}

/* Ids of the user namespace we are in; 0 where we are in the machine's own. */
static uint64_t mapped_ids(void) {
  FILE *map = fopen("/proc/self/uid_map", "re");
  unsigned inside, outside, count;
  uint64_t sum = 0;
  bool own = false;
  while (map != NULL && fscanf(map, "%u %u %u", &inside, &outside, &count) == 3) {
    sum += count;
    own = own || inside != outside || count != UINT32_MAX;
  }
  if (map != NULL) fclose(map);
  return own ? sum : 0;
}

static void read_spec(struct sandbox_spec *spec, const uint8_t *settings, size_t length) {
  const char *workdir = setting(settings, length, "workdir");
  format(spec->workdir, sizeof spec->workdir, "%s", workdir == NULL ? "/" : workdir);
  spec->memory = setting_number(settings, length, "memory", 256 << 20);
  spec->disk = setting_number(settings, length, "disk", 64 << 20);
  spec->pids = setting_number(settings, length, "pids", 64);
  spec->session = setting_number(settings, length, "session", 1) != 0;
}

/* Where files have no quota, at least none of them may be larger than all are to be. */
static void limit_files(uint64_t bytes) {
  struct rlimit limit = {bytes, bytes};
  if (bytes > 0 && setrlimit(RLIMIT_FSIZE, &limit) != 0) setup_fail("the limit of a file's size");
}

int container_main(void) {
  static struct sandbox_spec spec;
  static struct level level;
  static struct cgroups groups;
  struct frame_header hello;
  char limits[16], text[64];
  if (getpid() != 1) return 125; /* its ending must end all others */
  if (dup2(STDIN_FILENO, INPUT) < 0 || dup2(STDOUT_FILENO, OUTPUT) < 0) return 125;
  syscall(SYS_close_range, OUTPUT + 1, ~0U, 0);
  const uint8_t *settings = read_hello(&hello);
  setup_tell(OUTPUT, hello.sandbox, hello.request);
  read_spec(&spec, settings, hello.length);
  if (chdir(spec.workdir) != 0) setup_fail(spec.workdir);
  limit_files(setting_number(settings, hello.length, "file", 0));
  cgroups_open_own(&groups, &spec);
  uint64_t ids = mapped_ids();
  level.mapped = ids != 1;
  level.hard_limits = groups.memory && groups.pids;
  seccomp_prepare(level.hard_limits);
  umask(022);
  confine_in_container(&spec, &level);
  cgroups_describe(&groups, limits, sizeof limits);
  format(text, sizeof text, "isolation=%sseccomp+%s", ids == 0 ? "" : "userns+", limits);
  struct buffer reached = {0};
  buffer_put_frame(&reached, OP_REPLY, 0, hello.request, hello.sandbox, text, strlen(text) + 1);
  write_all(OUTPUT, reached.data, buffer_length(&reached));
  init_in_container(OUTPUT, &groups, spec.workdir);
  init_main(INPUT, hello.sandbox, &spec, &level);
}
