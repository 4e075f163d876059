/** How much a machine takes on when nobody says. */

import { availableParallelism, totalmem } from "node:os";
import type { Resources } from "./admission.ts";

/**
 * Limits are caps, not what sandboxes use: an idle one takes about a megabyte, so more is promised than there is. Each
 * sandbox is held to its own limits whatever the others do.
 */
const MEMORY_FACTOR = 4;
const CPU_FACTOR = 32;
/** Files of sandboxes lie in memory. */
const DISK_FACTOR = 2;
const MAX_COUNT = 2000;

export function defaultCapacity(count = MAX_COUNT): Resources {
  return {
    memoryBytes: totalmem() * MEMORY_FACTOR,
    cpus: availableParallelism() * CPU_FACTOR,
    diskBytes: totalmem() * DISK_FACTOR,
    count,
  };
}

/** The most one sandbox can ask for: what the machine has, and half of its memory for files. */
export function largestSandbox(): Omit<Resources, "count"> {
  return { memoryBytes: totalmem(), cpus: availableParallelism(), diskBytes: Math.floor(totalmem() / 2) };
}
