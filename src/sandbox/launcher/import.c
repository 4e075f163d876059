/* The other direction: a stream of entries, possibly hostile, becomes files below a folder. Handled as it arrives. */
#include "init.h"

#include <sys/sysmacros.h>
#include <sys/xattr.h>

static struct {
  bool active;
  uint32_t request;
  int folder;             /* entries go below it */
  struct buffer pending;  /* bytes not understood yet */
  int file;               /* being written; -1: none */
  struct entry entry;
  uint64_t left;          /* bytes of its content to come */
  bool hole;              /* what was written last: its end is not there yet */
  bool ended;
  struct buffer folders;  /* struct entry and path of each folder, whose modes and times are set at the end */
  char error[ERROR_SIZE];
} incoming = {.file = -1, .folder = -1};

static bool refuse(const char *path, const char *why) {
  if (incoming.error[0] == 0) format(incoming.error, sizeof incoming.error, "%.300s: %s", path, why);
  return false;
}

/* Opens the parent of `path` below the target folder, and points `name` at the last part. */
static int open_parent(char *path, const char **name) {
  char *slash = strrchr(path, '/');
  *name = slash == NULL ? path : slash + 1;
  if (**name == 0 || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0 || path[0] == '/') {
    errno = EINVAL;
    return -1;
  }
  if (slash == NULL) return dup(incoming.folder);
  *slash = 0;
  int parent = open_folder(incoming.folder, path, true);
  *slash = '/';
  return parent;
}

static void set_attributes(int parent, const char *name, const struct entry *entry) {
  int64_t at = entry->mtime_ns;
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
  set_owner(parent, name, entry->uid, entry->gid);
  if (entry->type != ENTRY_LINK) fchmodat(parent, name, entry->mode & 07777, 0);
  if (at >= 0) utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW);
}

static bool begin_file(int parent, const char *name, const char *path) {
  remove_tree(parent, name);
  incoming.file = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
  return incoming.file >= 0 ? true : refuse(path, strerror(errno));
}

/* The file grows by what follows; mode and time are set again at its end. */
static bool begin_part(int parent, const char *name, const char *path) {
  struct stat status;
  incoming.file = openat(parent, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (incoming.file < 0) return refuse(path, strerror(errno));
  if (fstat(incoming.file, &status) == 0 && S_ISREG(status.st_mode) && lseek(incoming.file, 0, SEEK_END) >= 0) return true;
  return refuse(path, "no regular file to go on with");
}

static bool mark_opaque(int parent, const char *name, const char *path) {
  int folder = open_folder(parent, name, true);
  bool good = folder >= 0 && fsetxattr(folder, OPAQUE_ATTRIBUTE, "y", 1, 0) == 0 ? true : refuse(path, strerror(errno));
  if (folder >= 0) close(folder);
  return good;
}

static bool begin_entry(char *path) {
  const char *name;
  const struct entry *entry = &incoming.entry;
  int parent = open_parent(path, &name);
  if (parent < 0) return refuse(path, strerror(errno));
  bool good = true;
  if (entry->type == ENTRY_FILE) {
    good = begin_file(parent, name, path);
    if (good) set_attributes(parent, name, entry);
  } else if (entry->type == ENTRY_FOLDER) {
    int folder = open_folder(parent, name, true);
    good = folder >= 0 ? true : refuse(path, strerror(errno));
    if (folder >= 0) close(folder);
    buffer_append(&incoming.folders, entry, sizeof *entry);
    buffer_append(&incoming.folders, path, entry->path_length);
  } else if (entry->type == ENTRY_PART) {
    good = begin_part(parent, name, path);
  } else if (entry->type == ENTRY_OPAQUE) {
    good = mark_opaque(parent, name, path);
  } else if (entry->type == ENTRY_WHITEOUT) {
    remove_tree(parent, name);
    good = mknodat(parent, name, S_IFCHR, makedev(0, 0)) == 0 ? true : refuse(path, strerror(errno));
  } else {
    good = refuse(path, "unknown kind of entry");
  }
  close(parent);
  return good;
}

static bool make_link(char *path, const char *target) {
  const char *name;
  int parent = open_parent(path, &name);
  if (parent < 0) return refuse(path, strerror(errno));
  remove_tree(parent, name);
  bool good = symlinkat(target, parent, name) == 0 ? true : refuse(path, strerror(errno));
  if (good) set_attributes(parent, name, &incoming.entry);
  close(parent);
  return good;
}

/* Another name of a file that is there already. A link that stands there is not followed. */
static bool make_hard_link(char *path, char *target) {
  const char *name, *other;
  int parent = open_parent(path, &name);
  if (parent < 0) return refuse(path, strerror(errno));
  int from = open_parent(target, &other);
  remove_tree(parent, name);
  bool good = from >= 0 && linkat(from, other, parent, name, 0) == 0 ? true : refuse(path, strerror(errno));
  if (from >= 0) close(from);
  close(parent);
  return good;
}

/* Writing changes the time and clears set-id bits, so both are set when the file is complete. */
static void end_file(void) {
  int64_t at = incoming.entry.mtime_ns;
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
  if (incoming.hole && ftruncate(incoming.file, lseek(incoming.file, 0, SEEK_CUR)) != 0)
    refuse("writing a file", strerror(errno));
  incoming.hole = false;
  fchmod(incoming.file, incoming.entry.mode & 07777);
  if (at >= 0) futimens(incoming.file, times);
  close(incoming.file);
  incoming.file = -1;
}

static bool write_content(void) {
  enum { HOLE = 4096 };
  size_t part = buffer_length(&incoming.pending);
  if (part > incoming.left) part = (size_t)incoming.left;
  const uint8_t *data = incoming.pending.data + incoming.pending.start;
  bool zeros = incoming.entry.sparse && part >= HOLE && data[0] == 0 && memcmp(data, data + 1, part - 1) == 0;
  if (zeros && lseek(incoming.file, (off_t)part, SEEK_CUR) < 0) return refuse("writing a file", strerror(errno));
  incoming.hole = zeros;
  if (!zeros && !write_all(incoming.file, incoming.pending.data + incoming.pending.start, part))
    return refuse("writing a file", strerror(errno));
  buffer_consume(&incoming.pending, part);
  incoming.left -= part;
  if (incoming.left == 0) end_file();
  return true;
}

/* One step; false when more bytes are needed or something failed. */
static bool step(void) {
  char path[PATH_SIZE], target[PATH_SIZE * 4];
  struct entry *entry = &incoming.entry;
  size_t available = buffer_length(&incoming.pending);
  const uint8_t *data = incoming.pending.data + incoming.pending.start;
  if (incoming.file >= 0 && available > 0) return write_content();
  if (incoming.file >= 0 || available < sizeof *entry) return false;
  memcpy(entry, data, sizeof *entry);
  if (entry->type == ENTRY_END) {
    incoming.ended = true;
    buffer_consume(&incoming.pending, available);
    return false;
  }
  if (entry->path_length == 0 || entry->path_length >= sizeof path) return refuse("archive", "bad path");
  size_t head = sizeof *entry + entry->path_length;
  bool link = entry->type == ENTRY_LINK || entry->type == ENTRY_HARD_LINK;
  if (link && entry->size >= sizeof target) return refuse("archive", "bad link");
  if (available < head + (link ? (size_t)entry->size : 0)) return false;
  memcpy(path, data + sizeof *entry, entry->path_length);
  path[entry->path_length] = 0;
  if (strlen(path) != entry->path_length) return refuse("archive", "bad path");
  if (link) {
    memcpy(target, data + head, (size_t)entry->size);
    target[entry->size] = 0;
    buffer_consume(&incoming.pending, head + (size_t)entry->size);
    return entry->type == ENTRY_LINK ? make_link(path, target) : make_hard_link(path, target);
  }
  buffer_consume(&incoming.pending, head);
  if (!begin_entry(path)) return false;
  incoming.left = incoming.file >= 0 ? entry->size : 0;
  if (incoming.file >= 0 && incoming.left == 0) end_file();
  return true;
}

/* Deepest last in the stream, so backwards: a read-only parent is sealed after what it holds. */
static void finish_folders(void) {
  size_t at = incoming.folders.start, offsets_used = 0;
  size_t *offsets = malloc((buffer_length(&incoming.folders) / sizeof(struct entry) + 1) * sizeof *offsets);
  struct entry entry;
  while (offsets != NULL && at < incoming.folders.end) {
    memcpy(&entry, incoming.folders.data + at, sizeof entry);
    offsets[offsets_used++] = at;
    at += sizeof entry + entry.path_length;
  }
  while (offsets_used > 0) {
    char path[PATH_SIZE];
    const char *name;
    at = offsets[--offsets_used];
    memcpy(&entry, incoming.folders.data + at, sizeof entry);
    memcpy(path, incoming.folders.data + at + sizeof entry, entry.path_length);
    path[entry.path_length] = 0;
    int parent = open_parent(path, &name);
    if (parent < 0) continue;
    set_attributes(parent, name, &entry);
    close(parent);
  }
  free(offsets);
}

/* First payload: u8 replace, u8 0, u16 length, folder; then the stream. `replace`: whatever lay there is removed. */
static bool begin(const uint8_t **payload, size_t *length) {
  char path[PATH_SIZE];
  uint16_t path_length;
  if (*length < 4) return refuse("import", "short request");
  memcpy(&path_length, *payload + 2, 2);
  if (path_length >= sizeof path || *length < 4U + path_length) return refuse("import", "path is too long");
  memcpy(path, *payload + 4, path_length);
  path[path_length] = 0;
  bool replace = (*payload)[0] != 0;
  *payload += 4 + path_length;
  *length -= 4 + path_length;
  if (replace) {
    char parent_path[PATH_SIZE];
    format(parent_path, sizeof parent_path, "%s", path);
    char *slash = strrchr(parent_path, '/');
    if (slash == NULL || slash[1] == 0) return refuse(path, "cannot be replaced");
    *slash = 0;
    int parent = open_folder(-1, parent_path, true);
    if (parent < 0 || !remove_tree(parent, slash + 1)) refuse(path, strerror(errno));
    if (parent >= 0) close(parent);
    if (incoming.error[0] != 0) return false;
  }
  incoming.folder = open_folder(-1, path, true);
  return incoming.folder >= 0 ? true : refuse(path, strerror(errno));
}

static void finish(void) {
  if (incoming.error[0] == 0 && !incoming.ended) refuse("archive", "ends early");
  if (incoming.error[0] == 0) finish_folders();
  if (incoming.file >= 0) close(incoming.file);
  if (incoming.folder >= 0) close(incoming.folder);
  buffer_free(&incoming.pending);
  buffer_free(&incoming.folders);
  incoming.file = incoming.folder = -1;
  incoming.active = false;
  if (incoming.error[0] != 0) reply_error(incoming.request, 0, "%s", incoming.error);
  else reply(incoming.request, 0, NULL, 0);
}

void folder_import(uint32_t request, const uint8_t *payload, size_t length, bool more) {
  if (!incoming.active) {
    incoming.active = true;
    incoming.request = request;
    incoming.error[0] = 0;
    incoming.ended = false;
    begin(&payload, &length);
  }
  if (incoming.error[0] == 0 && !incoming.ended) {
    buffer_append(&incoming.pending, payload, length);
    while (step()) continue;
  }
  if (!more) finish();
}
