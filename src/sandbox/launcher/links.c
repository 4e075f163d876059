/* Files that have several names, so that a copy of a folder has them, too. */
#include "init.h"

enum { LINK_BUCKETS = 4096 };
struct link {
  dev_t device;
  ino_t inode;
  struct link *next;
  char path[];
};
static struct link *links[LINK_BUCKETS];

const char *link_find(const struct stat *status, const char *path) {
  struct link **bucket = &links[status->st_ino % LINK_BUCKETS];
  if (status->st_nlink < 2) return NULL;
  for (struct link *link = *bucket; link != NULL; link = link->next)
    if (link->inode == status->st_ino && link->device == status->st_dev) return link->path;
  struct link *link = malloc(sizeof *link + strlen(path) + 1);
  if (link == NULL) abort();
  link->device = status->st_dev;
  link->inode = status->st_ino;
  link->next = *bucket;
  memcpy(link->path, path, strlen(path) + 1);
  *bucket = link;
  return NULL;
}

void links_forget(void) {
  for (int i = 0; i < LINK_BUCKETS; i++)
    while (links[i] != NULL) {
      struct link *next = links[i]->next;
      free(links[i]);
      links[i] = next;
    }
}
