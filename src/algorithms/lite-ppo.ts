/**
 * Lite PPO: `A_i = (R_i − mean of the group) / (std of the batch + 1e-6)`, with a token-level loss (arXiv 2508.08221).
 *
 * The spread is that of the raw rewards of the whole batch, so a group where nearly all succeed is not blown up as in
 * GRPO. A batch without spread and a group of one give 0.
 */

import { normalizeRewards } from "./normalization.ts";

/** `groups` holds the rewards of each group; the result has the same shape. */
export function litePpoAdvantages(groups: readonly (readonly number[])[]): number[][] {
  return normalizeRewards(groups, { mean: "group", spread: "batch" });
}
