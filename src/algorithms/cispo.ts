/**
 * CISPO: `−sg[clip(r, 1 − ε_low, 1 + ε_high)] A log p`: the importance weight is clipped, the gradient never is (MiniMax-M1,
 * arXiv 2506.13585).
 *
 * `unifiedMask` is the paper's unified form: tokens that PPO would clip (A > 0 and r above the range, A < 0 and r below)
 * drop out. The paper bounds r from above only; a `clipLow` of 1 is that.
 */

import type { LossScale } from "./aggregation.ts";
import { clamp, type Level } from "./levels.ts";
import { linearLoss, type PolicyLossInput, type PolicyLossOutput, policyRatios } from "./policy-loss.ts";

export interface CispoOptions extends LossScale {
  readonly clipLow: number;
  readonly clipHigh: number;
  readonly unifiedMask: boolean;
  /** Default `token`. */
  readonly ratio?: Level | undefined;
}

export function cispoLoss(input: PolicyLossInput, options: CispoOptions): PolicyLossOutput {
  const low = 1 - options.clipLow;
  const high = 1 + options.clipHigh;
  const ratio_T = policyRatios(input, options.ratio ?? "token");
  return linearLoss(input, options, (t) => {
    const ratio = ratio_T[t] as number;
    const advantage = input.advantages_T[t] as number;
    const isMasked = options.unifiedMask && ((advantage > 0 && ratio > high) || (advantage < 0 && ratio < low));
    const bounded = clamp(ratio, low, high);
    return { value: isMasked ? 0 : bounded * advantage, isClipped: isMasked || bounded !== ratio };
  });
}
