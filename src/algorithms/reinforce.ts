/**
 * REINFORCE with a baseline: `A_i = R_i − b`, one number per episode (Williams 1992, doi 10.1007/BF00992696).
 *
 * The reward of an episode belongs to all its tokens (no discount). The baseline is the mean of the group, of the
 * whole batch, or nothing.
 */

import { mean } from "./statistics.ts";

/** `groups` holds the rewards of each group; the result has the same shape. */
export function reinforceAdvantages(
  groups: readonly (readonly number[])[],
  options: { readonly baseline: "group" | "batch" | "none" },
): number[][] {
  const batchMean = options.baseline === "batch" ? mean(groups.flat()) : 0;
  return groups.map((rewards) => {
    const baseline = options.baseline === "group" ? mean(rewards) : batchMean;
    return rewards.map((reward) => reward - baseline);
  });
}
