/**
 * Train–inference mismatch: how far the training engine's probability of a token (π_old) is from the generating engine's (μ)
 * for the same weights; what ROLL calls `train_infer_correction`.
 *
 * Ours takes every statistic from the unfiltered mask and the chunks of the turns, so filters do not fragment chunks and
 * their order does not matter.
 */

import { clamp, type Level, type Numbers, pool, ratios, type TokenPlaces } from "./levels.ts";

export interface MismatchInput extends TokenPlaces {
  readonly proximal_T: Numbers;
  readonly behaviour_T: Numbers;
}

/** π_old/μ at a level; 1 outside of the mask. */
export function mismatchRatios(input: MismatchInput, level: Level): Float64Array {
  return ratios(input.proximal_T, input.behaviour_T, input, level);
}

/** π_old − μ at a level: the token's own, the mean over chunk or sequence, or (`product`) the sum; 0 outside of the mask. */
export function mismatchDifferences(input: MismatchInput, level: Level): Float64Array {
  const difference_T = Float64Array.from(
    input.proximal_T,
    (logprob, t) => Math.exp(logprob) - Math.exp(input.behaviour_T[t] as number),
  );
  return pool(difference_T, input, level);
}

/** `min(ratio, bound)`, a constant for the gradient. */
export function importanceWeights(ratio_T: Numbers, bound: number): Float64Array {
  return Float64Array.from(ratio_T, (ratio) => clamp(ratio, 0, bound));
}

export interface MismatchFilter {
  readonly level: Level;
  /** Ratios that stay, ends included. */
  readonly ratio?: readonly [low: number, high: number] | undefined;
  /** Differences that stay, ends included. */
  readonly difference?: readonly [low: number, high: number] | undefined;
}

/** The mask without the tokens that any filter rejects. */
export function filterMismatch(input: MismatchInput, filters: readonly MismatchFilter[]): Uint8Array {
  const kept_T = Uint8Array.from(input.mask_T);
  for (const { level, ratio, difference } of filters) {
    if (ratio !== undefined) keepWithin(kept_T, mismatchRatios(input, level), ratio);
    if (difference !== undefined) keepWithin(kept_T, mismatchDifferences(input, level), difference);
  }
  return kept_T;
}

function keepWithin(kept_T: Uint8Array, values_T: Numbers, [low, high]: readonly [number, number]): void {
  for (let t = 0; t < kept_T.length; t++) {
    const value = values_T[t] as number;
    if (!(value >= low && value <= high)) kept_T[t] = 0;
  }
}
