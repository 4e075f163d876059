/**
 * Divergence from a reference policy on sampled tokens, as a loss or inside the reward, and its coefficient.
 *
 * Estimators of KL(π ‖ π_ref) with `d = log π_ref − log π` (Schulman, http://joschu.net/blog/kl-approx.html):
 *
 * | kind | value | bias |
 * |---|---|---|
 * | `k1` | −d | none; may be negative |
 * | `abs` | \|d\| | |
 * | `k2` | d²/2 | small |
 * | `k3` | e^d − d − 1, value clamped to ±10 (ROLL) | none below the clamp; never negative |
 * | `k3-clamped-ratio` | e^c − c − 1, c = clamp(d, ±10) | the other reading of that clamp |
 *
 * The divergence over the whole vocabulary is `fullKl` in `distribution.ts`.
 */

import { type LossScale, rowDivisor } from "./aggregation.ts";
import { clamp, countOnes, type Numbers } from "./levels.ts";

export const KL_KINDS = ["k1", "abs", "k2", "k3", "k3-clamped-ratio"] as const;
export type KlKind = (typeof KL_KINDS)[number];

const CLAMP = 10;

/** Value and derivative with respect to log π of one token. */
export function klEstimate(
  logprob: number,
  reference: number,
  kind: KlKind,
): { readonly value: number; readonly slope: number } {
  const d = reference - logprob;
  switch (kind) {
    case "k1":
      return { value: -d, slope: 1 };
    case "abs":
      return { value: Math.abs(d), slope: -Math.sign(d) };
    case "k2":
      return { value: 0.5 * d * d, slope: -d };
    case "k3": {
      const value = Math.exp(d) - d - 1;
      return value > CLAMP ? { value: CLAMP, slope: 0 } : { value, slope: 1 - Math.exp(d) };
    }
    case "k3-clamped-ratio": {
      const c = clamp(d, -CLAMP, CLAMP);
      return { value: Math.exp(c) - c - 1, slope: c === d ? 1 - Math.exp(d) : 0 };
    }
  }
}

export interface KlInput {
  readonly logprobs_T: Numbers;
  readonly reference_T: Numbers;
  readonly mask_T: Numbers;
}

/** The divergence as a loss of one trajectory, with its weights; add it with `combineLosses` and its coefficient. */
export function klLoss(
  { logprobs_T, reference_T, mask_T }: KlInput,
  options: LossScale & { readonly kind: KlKind },
): { readonly loss: number; readonly weights_T: Float64Array; readonly losses_T: Float64Array } {
  const divisor = rowDivisor(options, countOnes(mask_T));
  const losses_T = new Float64Array(mask_T.length);
  const weights_T = new Float64Array(mask_T.length);
  let loss = 0;
  for (let t = 0; t < mask_T.length; t++) {
    if (mask_T[t] !== 1) continue;
    const { value, slope } = klEstimate(logprobs_T[t] as number, reference_T[t] as number, options.kind);
    losses_T[t] = value;
    weights_T[t] = -slope / divisor;
    loss += value;
  }
  return { loss: loss / divisor, weights_T, losses_T };
}

/**
 * The divergence inside the reward: `r_t − β kl_t`, and the mean divergence of the trajectory's tokens, which steers β.
 * Returns must then be summed over all tokens of a chunk (`chunkReturns` with `sum`), or this part is lost.
 */
export function rewardsWithKl(
  rewards_T: Numbers,
  input: KlInput,
  options: { readonly beta: number; readonly kind: KlKind },
): { readonly rewards_T: Float64Array; readonly meanKl: number } {
  const { losses_T, loss } = klLoss(input, { kind: options.kind, tokens: Math.max(1, countOnes(input.mask_T)) });
  return {
    rewards_T: losses_T.map((kl, t) => (rewards_T[t] as number) - options.beta * kl),
    meanKl: loss,
  };
}

/**
 * Adaptive coefficient: `β ← β (1 + clip(kl/target − 1, ±0.2) n / horizon)` after n samples (Ziegler et al., arXiv
 * 1909.08593, section 2.2).
 */
export function adaptKlCoefficient(
  beta: number,
  observed: { readonly kl: number; readonly samples: number },
  options: { readonly target: number; readonly horizon: number },
): number {
  const error = clamp(observed.kl / options.target - 1, -0.2, 0.2);
  return beta * (1 + (error * observed.samples) / options.horizon);
}
