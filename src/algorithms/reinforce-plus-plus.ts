/**
 * REINFORCE++: `A_i = (R_i − mean of the batch) / (std of the batch + 1e-6)` (Hu, arXiv 2501.03262).
 *
 * Ours has no KL term inside the reward (add `rewardsWithKl` where a reference policy exists), so the advantage is one
 * number per episode. A batch without spread gives 0.
 */

import { normalizeRewards } from "./normalization.ts";

/** `groups` holds the rewards of each group; the result has the same shape. Groups do not matter to the numbers. */
export function reinforcePlusPlusAdvantages(groups: readonly (readonly number[])[]): number[][] {
  const [flat = []] = normalizeRewards([groups.flat()], { mean: "group", spread: "group" });
  let begin = 0;
  return groups.map((rewards) => {
    begin += rewards.length;
    return flat.slice(begin - rewards.length, begin);
  });
}
