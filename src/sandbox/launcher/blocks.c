/*
 * Inside the broker: which of the subordinate ids a sandbox gets. A block is one sandbox's as long as it lives. The last block
 * is for those that come when all others are taken: they share it, and their level says so.
 */
#include "broker.h"

enum { MAX_BLOCKS = 16384 };
static bool taken[MAX_BLOCKS];
static uint32_t own_blocks, next_block;

void blocks_open(uint32_t ids, pid_t factory) {
  char path[64];
  broker.level.subordinate = ids;
  if (ids == 0) return;
  format(path, sizeof path, "/proc/%d/ns/user", factory);
  broker.ids = open(path, O_RDONLY | O_CLOEXEC); /* now, while it does nothing: what changes its name cannot be looked at */
  uint32_t count = ids / BLOCK_IDS;
  own_blocks = count == 0 ? 0 : (count > MAX_BLOCKS ? MAX_BLOCKS : count) - 1;
}

/* Files on disk are the user's, and no ordinary user can have them shown as another's. So who stands on some, or writes some,
 * has the user's id as its root. */
static bool needs_users_root(const struct sandbox_spec *spec) {
  bool needs = spec->target[0] != 0 || (spec->base < MAX_BASES && broker.on_disk[spec->base]);
  for (uint32_t i = 0; i < spec->layer_count; i++) needs = needs || (spec->layers[i] & STORED_LAYER) != 0;
  return needs;
}

void block_take(struct sandbox_spec *spec) {
  if (broker.level.subordinate == 0) return;
  spec->users_root = needs_users_root(spec);
  for (uint32_t i = 0; i < own_blocks; i++) {
    uint32_t block = (next_block + i) % own_blocks;
    if (taken[block]) continue;
    taken[block] = true;
    next_block = block + 1;
    spec->ids = 1 + block * BLOCK_IDS;
    return;
  }
  spec->ids = 1 + own_blocks * BLOCK_IDS;
  spec->shares_ids = true;
}

void block_give_back(const struct sandbox_spec *spec) {
  if (spec->ids > 0 && !spec->shares_ids) taken[(spec->ids - 1) / BLOCK_IDS] = false;
}

void describe_level(const struct sandbox_spec *spec, char *text, size_t capacity) {
  char limits[16];
  bool subordinate = broker.level.subordinate > 0 && (spec == NULL || !spec->users_root);
  cgroups_describe(&broker.cgroups, limits, sizeof limits);
  format(text, capacity, "%s%s+userns+seccomp+%s", broker.level.mapped ? "root" : "user",
         !subordinate ? "" : spec != NULL && spec->shares_ids ? "+sharedids" : "+subids", limits);
}
