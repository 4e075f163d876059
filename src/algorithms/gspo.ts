/**
 * GSPO: PPO's clipped surrogate with one ratio per sequence, `s = (π(y)/π_old(y))^{1/|y|}`, averaged over sequences (Zheng
 * et al., arXiv 2507.18071).
 *
 * A sequence is an episode here, and |y| counts what the policy wrote: observations have no part in the ratio. The ratio
 * moves far less than a token's, so its bounds are much narrower (the paper: 3e-4 and 4e-4).
 */

import type { LossScale } from "./aggregation.ts";
import { type PolicyLossInput, type PolicyLossOutput, ppoLoss } from "./policy-loss.ts";

export function gspoLoss(
  input: PolicyLossInput,
  options: LossScale & { readonly clipLow: number; readonly clipHigh: number },
): PolicyLossOutput {
  return ppoLoss(input, { ...options, clip: options.clipLow, ratio: "sequence" });
}
