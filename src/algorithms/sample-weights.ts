/**
 * Weights of whole episodes (`length_loss_weight` and `difficulty_loss_weight` of ROLL):
 *
 * - length: `1.5 − (l − l_min) / (l_max − l_min)` over the step, so that short episodes count more; 1 where all are alike;
 * - difficulty: `0.5 + 1.5 d`. ROLL reads d from its data; ours is the group's share of lost reward, `1 − clamp(mean R, 0, 1)`.
 */

import { clamp } from "./levels.ts";
import { mean } from "./statistics.ts";

/** @param lengths tokens that the policy wrote, per episode of the step. */
export function lengthWeights(lengths: readonly number[]): number[] {
  const least = lengths.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const most = lengths.reduce((a, b) => Math.max(a, b), 0);
  return lengths.map((length) => (most > least ? 1.5 - (length - least) / (most - least) : 1));
}

/** One weight per group, from its rewards. */
export function difficultyWeight(rewards_G: readonly number[]): number {
  return 0.5 + 1.5 * (1 - clamp(mean(rewards_G), 0, 1));
}
