/**
 * IPA, interaction-perceptive agentic policy optimisation: credit, importance ratio and mismatch mask per chunk (arXiv
 * 2512.24873, section 3.2.4).
 *
 * - return (equation 7): `G_k = γ^{K−1−k} R`, shared by the tokens of chunk k of K;
 * - ratio (equation 8): `ρ_c` = geometric mean of π/π_old over the chunk;
 * - mask: `m_c = 1[low ≤ geometric mean of π_old/μ ≤ H]`, one-sided (low = 0) in the paper;
 * - loss (equation 9): `−w_c m_c G_c log π`, `w_c = 1` for positives, `sg[clip(ρ_c, 0, 1)]` for negatives;
 * - mixed with imitation of the expert's chunks up to the fork (equation 10).
 *
 * The paper leaves open what R is for a failure: with R = 0 its negative term is empty. Here it is −1 or the group-centred
 * reward, by choice of the caller, and always said. It also leaves open the factor π(c*) of the imitation term as a sampled
 * gradient: it is dropped (`none`) or the chunk's probability as a constant (`chunk-probability`). The mask zeroes losses
 * and changes no denominator.
 */

import type { LossScale } from "./aggregation.ts";
import { countChunks } from "./chunks.ts";
import { clamp, type Numbers, pool } from "./levels.ts";
import { mismatchRatios } from "./mismatch.ts";
import { combineLosses, linearLoss, type PolicyLossInput, type PolicyLossOutput, policyRatios } from "./policy-loss.ts";
import { type PositiveBy, positiveTokens } from "./topr.ts";

/** Final rewards where a failure counts −1: 1 for any reward above 0. The other choice is the reward minus its group's mean. */
export function signedRewards(groups: readonly (readonly number[])[]): number[][] {
  return groups.map((rewards) => rewards.map((reward) => (reward > 0 ? 1 : -1)));
}

/** Equation 7: the return of each token, 0 outside of the chunks. Chunk ids are dense. */
export function ipaReturns(finalReward: number, turnIds_T: Numbers, discount: number): Float64Array {
  const last = countChunks(turnIds_T) - 1;
  return Float64Array.from(turnIds_T, (k) => (k < 0 ? 0 : discount ** (last - k) * finalReward));
}

export interface IpaOptions extends LossScale {
  /** H and the lower bound of the mismatch mask. */
  readonly mismatchHigh: number;
  readonly mismatchLow?: number | undefined;
  /** What counts as positive; equal for rewards of 0 and 1. */
  readonly positives: PositiveBy;
}

/** ρ_c and w_c of every token, 0 outside of the mask, and whether its chunk is kept. */
export interface IpaTokens {
  readonly ratio_T: Float64Array;
  readonly weight_T: Float64Array;
  readonly kept_T: Uint8Array;
}

export function ipaTokens(input: PolicyLossInput, options: IpaOptions): IpaTokens {
  const { mask_T, behaviour_T } = input;
  const proximal_T = input.proximal_T ?? behaviour_T;
  const mismatch_T = mismatchRatios({ ...input, proximal_T }, "chunk");
  const isPositive = positiveTokens(input, options.positives);
  const inMask = (value: number, t: number) => (mask_T[t] === 1 ? value : 0);
  const ratio_T = policyRatios(input, "chunk").map(inMask);
  const low = options.mismatchLow ?? 0;
  return {
    ratio_T,
    weight_T: ratio_T.map((ratio, t) => inMask(isPositive(t) ? 1 : clamp(ratio, 0, 1), t)),
    kept_T: Uint8Array.from(mismatch_T, (gap, t) => inMask(gap <= options.mismatchHigh && gap >= low ? 1 : 0, t)),
  };
}

/** Equation 9; `advantages_T` holds the returns. */
export function ipaLoss(input: PolicyLossInput, options: IpaOptions): PolicyLossOutput {
  const { ratio_T, weight_T, kept_T } = ipaTokens(input, options);
  const isPositive = positiveTokens(input, options.positives);
  return linearLoss(input, options, (t) => {
    if (kept_T[t] !== 1) return { value: 0, isClipped: true };
    const value = (weight_T[t] as number) * (input.advantages_T[t] as number);
    return { value, isClipped: !isPositive(t) && (ratio_T[t] as number) > 1 };
  });
}

/** An expert trajectory under the current weights. */
export interface ExpertInput {
  readonly logprobs_T: Numbers;
  /** Its returns, e.g. `ipaReturns(1, …)`. */
  readonly returns_T: Numbers;
  readonly turnIds_T: Numbers;
}

export interface ImitationOptions {
  /** Chunks that are imitated: the first `fork` ones. */
  readonly fork: number;
  readonly weight: "none" | "chunk-probability";
  /** Imitated tokens of the whole minibatch. */
  readonly tokens: number;
}

/** First term of equation 10: `−Σ_{k < fork} w_k G*_k Σ_t log π / tokens`; `factors_T` are the w_k of the tokens. */
export function imitationLoss(
  expert: ExpertInput,
  options: ImitationOptions,
): PolicyLossOutput & { readonly factors_T: Float64Array } {
  const { logprobs_T, returns_T, turnIds_T } = expert;
  const mask_T = Uint8Array.from(turnIds_T, (k) => (k >= 0 && k < options.fork ? 1 : 0));
  const factors_T = imitationFactors(logprobs_T, mask_T, turnIds_T, options.weight);
  const input = { logprobs_T, behaviour_T: logprobs_T, advantages_T: returns_T, mask_T };
  const coefficient = (t: number) => ({
    value: (factors_T[t] as number) * (returns_T[t] as number),
    isClipped: false,
  });
  return { ...linearLoss(input, { tokens: options.tokens }, coefficient), factors_T };
}

/** 1, or the probability of the whole chunk: exp of (mean · count). */
function imitationFactors(
  logprobs_T: Numbers,
  mask_T: Uint8Array,
  turnIds_T: Numbers,
  weight: ImitationOptions["weight"],
): Float64Array {
  if (weight === "none") return Float64Array.from(mask_T);
  const sizes = new Map<number, number>();
  mask_T.forEach((bit, t) => {
    const id = turnIds_T[t] as number;
    if (bit === 1) sizes.set(id, (sizes.get(id) ?? 0) + 1);
  });
  const means_T = pool(logprobs_T, { mask_T, turnIds_T }, "chunk");
  return means_T.map((value, t) =>
    mask_T[t] === 1 ? Math.exp(value * (sizes.get(turnIds_T[t] as number) as number)) : 0,
  );
}

/** Equation 10 of one expert trajectory and of the sampled ones, each part scaled by its λ. */
export function ipaMixedLoss(
  parts: { readonly imitation: PolicyLossOutput; readonly reinforcement: readonly PolicyLossOutput[] },
  lambda: { readonly imitation: number; readonly reinforcement: number },
): { readonly loss: number; readonly imitation: PolicyLossOutput; readonly reinforcement: PolicyLossOutput[] } {
  const imitation = combineLosses([lambda.imitation, parts.imitation]);
  const reinforcement = parts.reinforcement.map((output) => combineLosses([lambda.reinforcement, output]));
  return {
    loss: reinforcement.reduce((sum, output) => sum + output.loss, imitation.loss),
    imitation,
    reinforcement,
  };
}
