/**
 * Quantities of a token, its chunk or its sequence. A *chunk* is what the policy wrote in one turn; its id comes from the
 * turns and never from a mask that something was filtered out of.
 */

import type { LEVELS } from "../config/components.ts";
import { AleError } from "../core/errors.ts";

/** Plain or typed array; `x_T` has one element per token of a sequence. */
export type Numbers = ArrayLike<number>;

/**
 * What a ratio is about: a token, the geometric mean of a chunk, the geometric mean of a sequence, or the product over a
 * sequence.
 */
export type Level = (typeof LEVELS)[number];

/** Where the tokens of a sequence belong. */
export interface TokenPlaces {
  /** 1 on tokens the policy wrote. */
  readonly mask_T: Numbers;
  /** Chunk of each token, −1 outside of the mask; only the level `chunk` needs it. */
  readonly turnIds_T?: Numbers | undefined;
}

/**
 * The mean (for `product`, the sum) of `values_T` over the chunk or sequence a token belongs to, given to each of its tokens;
 * the value itself at level `token`. 0 outside of the mask.
 *
 * The map is linear and symmetric, so it also carries gradients back: ∂/∂x Σ_t g_t · pool(x)_t = pool(g).
 */
export function pool(values_T: Numbers, places: TokenPlaces, level: Level): Float64Array {
  const { mask_T } = places;
  const pooled_T = new Float64Array(mask_T.length);
  if (level === "token") {
    for (let t = 0; t < mask_T.length; t++) if (mask_T[t] === 1) pooled_T[t] = values_T[t] as number;
    return pooled_T;
  }
  const idOf = groupIds(places, level);
  const sums = new Map<number, { total: number; count: number }>();
  for (let t = 0; t < mask_T.length; t++) {
    if (mask_T[t] !== 1) continue;
    const sum = sums.get(idOf(t)) ?? { total: 0, count: 0 };
    sum.total += values_T[t] as number;
    sum.count++;
    sums.set(idOf(t), sum);
  }
  for (let t = 0; t < mask_T.length; t++) {
    const sum = mask_T[t] === 1 ? sums.get(idOf(t)) : undefined;
    if (sum !== undefined) pooled_T[t] = level === "product" ? sum.total : sum.total / sum.count;
  }
  return pooled_T;
}

function groupIds(places: TokenPlaces, level: Level): (t: number) => number {
  if (level !== "chunk") return () => 0;
  const { turnIds_T } = places;
  if (turnIds_T === undefined) throw new AleError("internal", "a chunk level needs the turn of each token");
  return (t) => turnIds_T[t] as number;
}

/** `exp` of the pooled `logprobs_T − base_T`; 1 outside of the mask. */
export function ratios(logprobs_T: Numbers, base_T: Numbers, places: TokenPlaces, level: Level): Float64Array {
  const difference_T = Float64Array.from(logprobs_T, (logprob, t) => logprob - (base_T[t] as number));
  return pool(difference_T, places, level).map(Math.exp);
}

export function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}

/** Sum of an array of zeros and ones. */
export function countOnes(mask_T: Numbers): number {
  let ones = 0;
  for (let t = 0; t < mask_T.length; t++) ones += mask_T[t] as number;
  return ones;
}
