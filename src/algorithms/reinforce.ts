/**
 * REINFORCE with a baseline: `A_i = R_i − b`, one number per episode (Williams 1992, doi 10.1007/BF00992696).
 *
 * The reward of an episode belongs to all its tokens (no discount). The baseline is the mean of the group, of the
 * whole batch, or nothing. `discountedReturns` is the form with a reward per token and a discount.
 */

import type { Numbers } from "./levels.ts";
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

/**
 * `A_t = Σ_{s ≥ t} γ^{s−t} r_s m_s`, 0 outside of the mask. As in ROLL, γ counts positions of the sequence, observations
 * included.
 */
export function discountedReturns(rewards_T: Numbers, mask_T: Numbers, discount: number): Float64Array {
  const returns_T = new Float64Array(rewards_T.length);
  let after = 0;
  for (let t = rewards_T.length - 1; t >= 0; t--) {
    const isModel = mask_T[t] === 1;
    after = (isModel ? (rewards_T[t] as number) : 0) + discount * after;
    if (isModel) returns_T[t] = after;
  }
  return returns_T;
}
