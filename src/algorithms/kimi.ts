/**
 * Kimi k1.5: `−A log p + τ/2 (log p − log p_old)²`: policy gradient held near the old policy by a squared log-ratio (arXiv
 * 2501.12599, section 2.3.2; `kimi15` of ROLL). Ours is per token; the paper writes it per answer.
 */

import type { LossScale } from "./aggregation.ts";
import { type PolicyLossInput, type PolicyLossOutput, reduceTokens } from "./policy-loss.ts";

export function kimiLoss(input: PolicyLossInput, options: LossScale & { readonly tau: number }): PolicyLossOutput {
  const { logprobs_T, advantages_T, mask_T } = input;
  const old_T = input.proximal_T ?? input.behaviour_T;
  const lossMask_T = input.lossMask_T ?? mask_T;
  const losses_T = new Float64Array(mask_T.length);
  const slopes_T = new Float64Array(mask_T.length);
  for (let t = 0; t < mask_T.length; t++) {
    if (lossMask_T[t] !== 1) continue;
    const logprob = logprobs_T[t] as number;
    const advantage = advantages_T[t] as number;
    const difference = logprob - (old_T[t] as number);
    const factor = input.factors_T?.[t] ?? 1;
    losses_T[t] = factor * (-advantage * logprob + 0.5 * options.tau * difference ** 2);
    slopes_T[t] = factor * (advantage - options.tau * difference);
  }
  return reduceTokens(input, options, { losses_T, slopes_T, clipped: 0 });
}
