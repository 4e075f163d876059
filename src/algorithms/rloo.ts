/**
 * Leave-one-out baseline: `A_i = R_i − mean of the other members of the group` (RLOO, Ahmadian et al., arXiv 2402.14740;
 * Kool et al. 2019).
 *
 * Equal to the group-centred reward times n / (n − 1). Ours differs in the group of one, which has no other members: it
 * gives 0.
 */

import { mean } from "./statistics.ts";

/** `rewards_G` of one group → advantages of the same length. */
export function rlooAdvantages(rewards_G: readonly number[]): number[] {
  const n = rewards_G.length;
  if (n < 2) return rewards_G.map(() => 0);
  const centre = mean(rewards_G);
  return rewards_G.map((reward) => ((reward - centre) * n) / (n - 1));
}
