/** Returns of rewards per token (REINFORCE, Williams 1992, doi 10.1007/BF00992696). */

import type { Numbers } from "./levels.ts";

/**
 * `A_t = Σ_{s ≥ t} γ^{s−t} r_s m_s`, 0 outside of the mask. As in ROLL, γ counts positions of the sequence, observations
 * included.
 */
export function discountedReturns(rewards_T: Numbers, mask_T: Numbers, discount: number): Float64Array {
  const returns_T = new Float64Array(rewards_T.length);
  let after = 0;
  for (let t = rewards_T.length - 1; t >= 0; t--) {
    const isModel = mask_T[t] === 1;
    after = (isModel ? (rewards_T[t] as number) : 0) + discount * after;
    if (isModel) returns_T[t] = after;
  }
  return returns_T;
}
