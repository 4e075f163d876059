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

/* The greeting, whose settings stay valid. Nothing but the greeting is sent before it is answered. */
const uint8_t *hello_read(int input, struct frame_header *header, struct sandbox_spec *spec) {
  static struct buffer inbox;
  const uint8_t *payload;
  while (!buffer_frame(&inbox, header, &payload)) {
    uint8_t chunk[4096];
    ssize_t n = read(input, chunk, sizeof chunk);
    if (n <= 0) _exit(0);
    buffer_append(&inbox, chunk, (size_t)n);
  }
  const char *workdir = setting(payload, header->length, "workdir");
  format(spec->workdir, sizeof spec->workdir, "%s", workdir == NULL ? "/" : workdir);
  spec->memory = setting_number(payload, header->length, "memory", 256 << 20);
  spec->disk = setting_number(payload, header->length, "disk", 64 << 20);
  spec->pids = setting_number(payload, header->length, "pids", 64);
  spec->session = setting_number(payload, header->length, "session", 1) != 0;
  return payload;
}

void hello_answer(int output, const struct frame_header *header, const char *text) {
  struct buffer answer = {0};
  buffer_put_frame(&answer, OP_REPLY, 0, header->request, header->sandbox, text, strlen(text) + 1);
  write_all(output, answer.data, buffer_length(&answer));
  buffer_free(&answer);
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
  const uint8_t *settings = hello_read(INPUT, &hello, &spec);
  setup_tell(OUTPUT, hello.sandbox, hello.request);
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
  hello_answer(OUTPUT, &hello, text);
  init_elsewhere(OUTPUT, &groups, spec.workdir, !level.hard_limits && !level.mapped);
  init_main(INPUT, hello.sandbox, &spec, &level);
}
