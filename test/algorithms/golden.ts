/** Which check a golden case of the algorithms belongs to. */

import { ADVANTAGES } from "./advantages.ts";
import { CHUNKS } from "./chunks.ts";
import type { Check, Operation } from "./compare.ts";
import { KL_ENTROPY } from "./kl-entropy.ts";
import { METRICS } from "./metrics.ts";
import { MISMATCH } from "./mismatch.ts";
import { POLICY_LOSSES } from "./policy-losses.ts";
import { RESAMPLING } from "./resampling.ts";
import { STALENESS } from "./staleness.ts";
import { SUPERVISED } from "./supervised.ts";

/** Operations by topic, the number a golden file's name begins with: some names occur in several topics. */
const OPERATIONS: Readonly<Record<string, readonly Operation[]>> = {
  "01": ADVANTAGES,
  "02": POLICY_LOSSES,
  "03": KL_ENTROPY,
  "04": MISMATCH,
  "05": SUPERVISED,
  "06": CHUNKS,
  "07": STALENESS,
  "08": RESAMPLING,
  "10": METRICS,
};

/** The check of case `name` in a file of topic `topic`, or `undefined`. */
export function findCheck(topic: string, name: string): Check | undefined {
  return OPERATIONS[topic]?.find(([prefix]) => name.startsWith(prefix))?.[1];
}
