/**
 * GRPO's group-relative advantage: `A_i = (R_i − mean_g) / (std_g + 1e-6)`, one number per episode.
 *
 * DeepSeekMath, arXiv 2402.03300, section 4.1. Ours differs in the guard: a group whose rewards are all equal (spread
 * ≤ 1e-6), or that has one member, gives exactly 0, so that it can be left out of the batch. `normalizeStd = false` is
 * the form of Dr. GRPO (arXiv 2503.20783).
 */

import { mean, standardDeviation, ZERO_SPREAD } from "./statistics.ts";

/** `rewards_G` of one group → advantages of the same length. */
export function grpoAdvantages(rewards_G: readonly number[], options: { readonly normalizeStd: boolean }): number[] {
  const spread = standardDeviation(rewards_G);
  if (spread <= ZERO_SPREAD) return rewards_G.map(() => 0);
  const centre = mean(rewards_G);
  const scale = options.normalizeStd ? spread + ZERO_SPREAD : 1;
  return rewards_G.map((reward) => (reward - centre) / scale);
}
