/**
 * Critic loss: `½ max((V − R)², (clip(V, V_old ± ε) − R)²)`, meaned over the response tokens of the minibatch (PPO2's
 * clipped value loss, OpenAI Baselines; ROLL's critic). For critics trained beside the policy (`gae.ts`).
 */

import { clamp, type Numbers } from "./levels.ts";

export interface ValueLossInput {
  readonly values_T: Numbers;
  /** Values when the advantages were computed. */
  readonly oldValues_T: Numbers;
  readonly returns_T: Numbers;
  readonly mask_T: Numbers;
}

/** One trajectory's share of the loss, ∂loss/∂V, and tokens whose value was clipped; `tokens` counts the response tokens of the whole minibatch. */
export function valueLoss(
  { values_T, oldValues_T, returns_T, mask_T }: ValueLossInput,
  options: { readonly clip: number; readonly tokens: number },
): { readonly loss: number; readonly gradient_T: Float64Array; readonly clipped: number } {
  const gradient_T = new Float64Array(mask_T.length);
  let [loss, clipped] = [0, 0];
  for (let t = 0; t < mask_T.length; t++) {
    if (mask_T[t] !== 1) continue;
    const value = values_T[t] as number;
    const old = oldValues_T[t] as number;
    const error = value - (returns_T[t] as number);
    const bounded = clamp(value, old - options.clip, old + options.clip) - (returns_T[t] as number);
    loss += 0.5 * Math.max(error ** 2, bounded ** 2);
    // Where the bounded error is the larger one, the bound is active and cuts the gradient off.
    if (error ** 2 >= bounded ** 2) gradient_T[t] = error / options.tokens;
    else clipped++;
  }
  return { loss: loss / options.tokens, gradient_T, clipped };
}
