/**
 * Puts an episode's reward on one of its tokens.
 *
 * Ours puts it on the last token the policy wrote. ROLL puts it on the last attended token and multiplies by the response
 * mask, so an episode that ends with an observation loses its reward; that form is there to compare with.
 */

import type { Numbers } from "./levels.ts";

/** Token rewards of one sequence: `reward` on the last model token, 0 elsewhere. */
export function placeReward(reward: number, mask_T: Numbers): Float64Array {
  return placeOnLast(reward, mask_T, mask_T);
}

/** ROLL's placement: on the last token of `attended_T`, times the response mask. */
export function placeRewardOnAttended(reward: number, mask_T: Numbers, attended_T: Numbers): Float64Array {
  return placeOnLast(reward, mask_T, attended_T);
}

function placeOnLast(reward: number, mask_T: Numbers, where_T: Numbers): Float64Array {
  const rewards_T = new Float64Array(mask_T.length);
  let last = mask_T.length - 1;
  while (last >= 0 && where_T[last] !== 1) last--;
  if (last >= 0 && mask_T[last] === 1) rewards_T[last] = reward;
  return rewards_T;
}
