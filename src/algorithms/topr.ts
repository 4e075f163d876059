/**
 * Tapered off-policy REINFORCE: positives `−w⁺ A log p`, negatives `−w⁻ sg[clip(r, 0, 1)] A log p` (Le Roux et al., arXiv
 * 2503.14286, with its canonical bounds).
 *
 * What counts as positive: `advantage` (default), the sign of the token's advantage; `score`, the sign of the raw episode
 * score, as ROLL does it. They differ once advantages are normalised: a positive episode below its group's mean then gets a
 * negative update that nothing bounds.
 */

import { AleError } from "../core/errors.ts";
import type { LossScale } from "./aggregation.ts";
import { clamp, type Level } from "./levels.ts";
import { linearLoss, type PolicyLossInput, type PolicyLossOutput, policyRatios } from "./policy-loss.ts";

/** By what a token is a positive one. */
export type PositiveBy = "advantage" | "score";

export interface ToprOptions extends LossScale {
  readonly positives: PositiveBy;
  readonly positiveWeight: number;
  readonly negativeWeight: number;
  /** Default `token`. */
  readonly ratio?: Level | undefined;
}

export function toprLoss(input: PolicyLossInput, options: ToprOptions): PolicyLossOutput {
  const ratio_T = policyRatios(input, options.ratio ?? "token");
  const isPositive = positiveTokens(input, options.positives);
  return linearLoss(input, options, (t) => {
    const advantage = input.advantages_T[t] as number;
    if (isPositive(t)) return { value: options.positiveWeight * advantage, isClipped: false };
    const ratio = ratio_T[t] as number;
    return { value: options.negativeWeight * clamp(ratio, 0, 1) * advantage, isClipped: ratio > 1 };
  });
}

/** Tells positive tokens from negative ones. */
export function positiveTokens(input: PolicyLossInput, by: PositiveBy): (t: number) => boolean {
  if (by === "advantage") return (t) => (input.advantages_T[t] as number) > 0;
  const { score } = input;
  if (score === undefined) throw new AleError("internal", "positives by score need the score of the episode");
  return () => score > 0;
}
