/*
 * Inside the broker: which ids a sandbox gets. As an ordinary user a block of the subordinate ones, as root a range; it is one
 * sandbox's as long as that lives. What cannot have its own shares: as root the range at `first_id`, else the last block. Its
 * level says so.
 */
#include "broker.h"

static bool taken[MAX_BLOCKS];
static uint32_t own_blocks, next_block, first_own, block_ids;

void blocks_open(uint32_t ids, pid_t factory) {
  char path[64];
  broker.level.subordinate = ids;
  own_blocks = broker.level.ranges ? MAX_BLOCKS : 0;
  first_own = RANGES_FIRST;
  block_ids = RANGE_IDS;
  if (ids == 0) return;
  format(path, sizeof path, "/proc/%d/ns/user", factory);
  broker.ids = open(path, O_RDONLY | O_CLOEXEC); /* now, while it does nothing: what changes its name cannot be looked at */
  uint32_t count = ids / BLOCK_IDS;
  own_blocks = count == 0 ? 0 : (count > MAX_BLOCKS ? MAX_BLOCKS : count) - 1;
  first_own = 1;
  block_ids = BLOCK_IDS;
}

static bool stands_on_stored(const struct sandbox_spec *spec) {
  for (uint32_t i = 0; i < spec->layer_count; i++)
    if ((spec->layers[i] & STORED_LAYER) != 0) return true;
  return false;
}

/* Files on disk are the user's, and no ordinary user can have them shown as another's. So who stands on some, or writes some,
 * has the user's id as its root. */
static bool needs_users_root(const struct sandbox_spec *spec) {
  return spec->target[0] != 0 || stands_on_stored(spec) || (spec->base < MAX_BASES && broker.on_disk[spec->base]);
}

/* As root: of what can only be shown with the ids at `first_id`. */
static bool needs_common_ids(const struct sandbox_spec *spec) {
  bool lent = spec->store || (spec->base < MAX_BASES && broker.lent[spec->base]);
  return !lent || spec->target[0] != 0 || (broker.stored_kept && stands_on_stored(spec));
}

void block_take(struct sandbox_spec *spec) {
  bool subordinate = broker.level.subordinate > 0;
  if (!subordinate && !broker.level.mapped) return;
  if (subordinate) spec->users_root = needs_users_root(spec);
  else spec->shares_ids = needs_common_ids(spec);
  for (uint32_t i = 0; i < own_blocks && !spec->shares_ids; i++) {
    uint32_t block = (next_block + i) % own_blocks;
    if (taken[block]) continue;
    taken[block] = true;
    next_block = block + 1;
    spec->ids = first_own + block * block_ids;
    return;
  }
  if (subordinate) spec->ids = first_own + own_blocks * block_ids;
  spec->shares_ids = true;
}

void block_give_back(const struct sandbox_spec *spec) {
  if (spec->ids > 0 && !spec->shares_ids) taken[(spec->ids - first_own) / block_ids] = false;
}

/* What is said of ids besides whose they are; of the launcher itself, what its sandboxes usually get. */
static const char *describe_ids(const struct sandbox_spec *spec) {
  bool subordinate = broker.level.subordinate > 0;
  if (spec == NULL) return subordinate ? "+subids" : broker.level.mapped && !broker.level.ranges ? "+sharedids" : "";
  if (spec->users_root) return "";
  return spec->shares_ids ? "+sharedids" : subordinate ? "+subids" : "";
}

void describe_level(const struct sandbox_spec *spec, char *text, size_t capacity) {
  char limits[16];
  cgroups_describe(&broker.cgroups, limits, sizeof limits);
  format(text, capacity, "%s%s+userns+seccomp+%s", broker.level.mapped ? "root" : "user", describe_ids(spec), limits);
}
