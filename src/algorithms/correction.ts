/**
 * Train–inference correction: what a policy loss takes on besides its own ratio π/π_old, because tokens were sampled from μ
 * and not from π_old: an older weight version, a cache of one, or an engine that rounds in another way.
 *
 * - weights: `sg[min(π_old/μ, bound)]` on the loss of each token (truncated importance sampling). With PPO it is decoupled
 *   PPO (Hilton et al., arXiv 2110.00641; AReaL, arXiv 2505.24298), whose clipped ratio is π/π_old;
 * - filters: tokens whose π_old/μ or π_old − μ is out of bounds have no loss (equation 6 of the IPA paper, arXiv 2512.24873).
 *
 * Both at token, chunk or sequence level; ROLL's `train_infer_correction`, verl's `rollout_correction`. Ours takes every level
 * from the unfiltered mask and the chunks of the turns, and filters change no denominator except the token mean of a sequence.
 */

import type { Correction } from "../config/components.ts";
import { AleError } from "../core/errors.ts";
import { filterMismatch, importanceWeights, type MismatchFilter, mismatchRatios } from "./mismatch.ts";
import type { PolicyLossInput } from "./policy-loss.ts";

/** ROLL's `upper_bound`. */
const WEIGHT_BOUND = 1.2;

/** `factors_T` and `lossMask_T` of a loss's input; only what the correction asks for. */
export function correct(
  { mask_T, turnIds_T, proximal_T, behaviour_T }: Omit<PolicyLossInput, "logprobs_T" | "advantages_T">,
  { weight, weightBound = WEIGHT_BOUND, filters }: Correction,
): { readonly factors_T?: Float64Array; readonly lossMask_T?: Uint8Array } {
  if (proximal_T === undefined) throw new AleError("internal", "a correction needs the proximal log-probabilities");
  const input = { mask_T, turnIds_T, proximal_T, behaviour_T };
  return {
    ...(weight !== undefined && { factors_T: importanceWeights(mismatchRatios(input, weight), weightBound) }),
    ...(filters !== undefined && { lossMask_T: filterMismatch(input, filters.map(filterOf)) }),
  };
}

function filterOf(settings: NonNullable<Correction["filters"]>[number]): MismatchFilter {
  const { level, ratioLow, ratioHigh, differenceLow, differenceHigh } = settings;
  const within = (low: number | undefined, high: number | undefined) =>
    low === undefined && high === undefined
      ? undefined
      : ([low ?? Number.NEGATIVE_INFINITY, high ?? Number.POSITIVE_INFINITY] as const);
  return { level, ratio: within(ratioLow, ratioHigh), difference: within(differenceLow, differenceHigh) };
}
