/*
 * A folder as a stream of entries: header, path, content. Regular files, folders and symbolic links with their modes,
 * owners and times; names in byte order, so that equal folders give equal streams. Devices, fifos and sockets are
 * skipped and counted. Hard links become separate files.
 */
#include "init.h"

#include <dirent.h>

/* ---- export ---- */

static struct {
  uint32_t request;
  uint64_t left;      /* bytes that may still be sent */
  uint64_t skipped;
  int entries;
  dev_t device, other; /* folders on any other are mounts, such as /proc */
  int file;            /* of the target, where it goes; -1: into the reply */
  struct buffer out;
  char error[ERROR_SIZE];
} outgoing;

static bool refuse(const char *path, const char *why) {
  if (outgoing.error[0] == 0) format(outgoing.error, sizeof outgoing.error, "%.300s: %s", path, why);
  return false;
}

static bool emit(const char *path, const void *data, size_t length) {
  if (length > outgoing.left) return refuse(path, "the folder is larger than allowed");
  outgoing.left -= length;
  buffer_append(&outgoing.out, data, length);
  if (buffer_length(&outgoing.out) < CHUNK) return true;
  if (outgoing.file < 0) reply(outgoing.request, FLAG_MORE, outgoing.out.data + outgoing.out.start, buffer_length(&outgoing.out));
  else if (!write_all(outgoing.file, outgoing.out.data + outgoing.out.start, buffer_length(&outgoing.out)))
    return refuse(path, strerror(errno));
  buffer_consume(&outgoing.out, buffer_length(&outgoing.out));
  return true;
}

static bool emit_entry(enum entry_type type, const struct stat *status, const char *path, uint64_t size) {
  struct entry entry = {.type = (uint8_t)type,
                        .mode = status->st_mode & 07777,
                        .uid = status->st_uid,
                        .gid = status->st_gid,
                        .mtime_ns = (int64_t)status->st_mtim.tv_sec * 1000000000 + status->st_mtim.tv_nsec,
                        .path_length = (uint32_t)strlen(path),
                        .size = size};
  if (++outgoing.entries > (outgoing.file < 0 ? MAX_ENTRIES : MAX_PACKED)) return refuse(path, "the folder has too many entries");
  return emit(path, &entry, sizeof entry) && emit(path, path, strlen(path));
}

/* Exactly as many bytes as the header says, even when the file changes meanwhile. */
static bool export_file(int parent, const char *name, const char *path, const struct stat *seen) {
  static uint8_t chunk[CHUNK];
  struct stat status;
  const char *first = outgoing.file < 0 ? NULL : link_find(seen, path);
  if (first != NULL)
    return emit_entry(ENTRY_HARD_LINK, seen, path, strlen(first)) && emit(path, first, strlen(first));
  int fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return refuse(path, strerror(errno));
  bool good = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_ino == seen->st_ino;
  good = good ? emit_entry(ENTRY_FILE, &status, path, (uint64_t)status.st_size) : refuse(path, "changed meanwhile");
  for (uint64_t left = (uint64_t)status.st_size; good && left > 0;) {
    size_t part = left < sizeof chunk ? (size_t)left : sizeof chunk;
    ssize_t n = read(fd, chunk, part);
    if (n <= 0) memset(chunk, 0, (size_t)(n = (ssize_t)part));
    good = emit(path, chunk, (size_t)n);
    left -= (uint64_t)n;
  }
  close(fd);
  return good;
}

static bool export_folder(int folder, const char *path, int depth);

static bool export_entry(int parent, const char *name, const char *path, int depth) {
  struct stat status;
  char target[PATH_MAX];
  if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT ? true : refuse(path, strerror(errno));
  if (S_ISREG(status.st_mode)) return export_file(parent, name, path, &status);
  if (S_ISLNK(status.st_mode)) {
    ssize_t n = readlinkat(parent, name, target, sizeof target);
    if (n < 0) return refuse(path, strerror(errno));
    return emit_entry(ENTRY_LINK, &status, path, (uint64_t)n) && emit(path, target, (size_t)n);
  }
  if (!S_ISDIR(status.st_mode) || (status.st_dev != outgoing.device && status.st_dev != outgoing.other)) {
    outgoing.skipped++;
    return true;
  }
  int folder = openat(parent, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
  if (folder < 0) return refuse(path, strerror(errno));
  if (emit_entry(ENTRY_FOLDER, &status, path, 0)) return export_folder(folder, path, depth + 1);
  close(folder);
  return false;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Takes over the descriptor. */
static bool export_folder(int folder, const char *path, int depth) {
  char **names = NULL, below[PATH_SIZE * 2];
  size_t count = 0, capacity = 0;
  bool good = depth <= MAX_DEPTH ? true : refuse(path, "folders are nested too deeply");
  DIR *directory = fdopendir(folder);
  if (directory == NULL) {
    close(folder);
    return refuse(path, strerror(errno));
  }
  for (struct dirent *item; good && (item = readdir(directory)) != NULL;) {
    if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0) continue;
    if (count == capacity) names = realloc(names, (capacity = capacity > 0 ? capacity * 2 : 16) * sizeof *names);
    if (names == NULL || (names[count] = strdup(item->d_name)) == NULL) abort();
    if (++count > MAX_PACKED) good = refuse(path, "the folder has too many entries");
  }
  if (count > 0) qsort(names, count, sizeof *names, by_name);
  for (size_t i = 0; i < count; i++) {
    int length = snprintf(below, sizeof below, "%s%s%s", path, *path != 0 ? "/" : "", names[i]);
    if (good && length >= PATH_SIZE) good = refuse(path, "a path is too long");
    good = good && export_entry(dirfd(directory), names[i], below, depth);
    free(names[i]);
  }
  free(names);
  closedir(directory);
  return good;
}

/* Payload: u64 most bytes, folder. */
void folder_export(uint32_t request, const uint8_t *payload, size_t length) {
  char path[PATH_SIZE];
  struct stat status;
  if (length < 8 || length - 8 >= sizeof path) {
    reply_error(request, 0, "path is too long");
    return;
  }
  memset(&outgoing, 0, sizeof outgoing);
  outgoing.request = request;
  outgoing.file = -1;
  memcpy(&outgoing.left, payload, 8);
  memcpy(path, payload + 8, length - 8);
  path[length - 8] = 0;
  int folder = open_folder(-1, path, false);
  int readable = folder < 0 ? -1 : openat(folder, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  if (folder >= 0) close(folder);
  if (readable < 0 || fstat(readable, &status) != 0) {
    reply_error(request, errno == ENOENT ? FLAG_MISSING : 0, "%s: %s", path, strerror(errno));
    return;
  }
  outgoing.device = outgoing.other = status.st_dev;
  if (export_folder(readable, "", 0)) {
    struct entry end = {.type = ENTRY_END, .size = outgoing.skipped};
    buffer_append(&outgoing.out, &end, sizeof end);
    reply(request, 0, outgoing.out.data + outgoing.out.start, buffer_length(&outgoing.out));
  } else {
    reply_error(request, 0, "%s", outgoing.error);
  }
  buffer_free(&outgoing.out);
}

/*
 * The whole root file system, without what is mounted in it but /usr, as a file of the target.
 * Payload, as settings: file, bytes. Reply: u64 entries, u64 skipped.
 */
void folder_pack(uint32_t request, const uint8_t *payload, size_t length) {
  const char *name = setting(payload, length, "file");
  struct stat status, usr;
  memset(&outgoing, 0, sizeof outgoing);
  outgoing.request = request;
  outgoing.left = setting_number(payload, length, "bytes", 0);
  int root = open_root(), target = open_folder(-1, TARGET_NAME, false);
  int readable = root < 0 ? -1 : openat(root, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  outgoing.file = target < 0 || name == NULL || strchr(name, '/') != NULL
                      ? -1
                      : openat(target, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (target >= 0) close(target);
  if (outgoing.file < 0 || readable < 0 || fstat(readable, &status) != 0) {
    reply_error(request, 0, "packing: %s", strerror(errno));
    return;
  }
  outgoing.device = outgoing.other = status.st_dev;
  if (fstatat(root, "usr", &usr, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(usr.st_mode)) outgoing.other = usr.st_dev;
  close(root);
  struct entry end = {.type = ENTRY_END};
  bool good = export_folder(readable, "", 0);
  end.size = outgoing.skipped;
  if (good) {
    buffer_append(&outgoing.out, &end, sizeof end);
    good = write_all(outgoing.file, outgoing.out.data + outgoing.out.start, buffer_length(&outgoing.out))
               ? true
               : refuse(name, strerror(errno));
  }
  close(outgoing.file);
  links_forget();
  buffer_free(&outgoing.out);
  uint64_t answer[2] = {(uint64_t)outgoing.entries, outgoing.skipped};
  if (good) reply(request, 0, answer, sizeof answer);
  else reply_error(request, 0, "%s", outgoing.error);
}
