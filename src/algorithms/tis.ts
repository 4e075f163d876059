/**
 * Truncated importance sampling: `−sg[clip(r, lower, upper)] A log p`; the ratio is a constant for the gradient.
 *
 * Ionides 2008 (doi 10.1198/106186008X320456); `tis` of ROLL, with its bounds [0, 1]. With `ratio = "sequence"` it is
 * equation 4 of the IPA paper, arXiv 2512.24873. Unlike PPO no token loses its gradient.
 */

import type { LossScale } from "./aggregation.ts";
import { clamp, type Level } from "./levels.ts";
import { linearLoss, type PolicyLossInput, type PolicyLossOutput, policyRatios } from "./policy-loss.ts";

export interface TisOptions extends LossScale {
  readonly lower: number;
  readonly upper: number;
  /** Default `token`. */
  readonly ratio?: Level | undefined;
}

export function tisLoss(input: PolicyLossInput, options: TisOptions): PolicyLossOutput {
  const ratio_T = policyRatios(input, options.ratio ?? "token");
  return linearLoss(input, options, (t) => {
    const ratio = ratio_T[t] as number;
    const bounded = clamp(ratio, options.lower, options.upper);
    return { value: bounded * (input.advantages_T[t] as number), isClipped: bounded !== ratio };
  });
}
