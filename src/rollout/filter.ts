/** Which finished groups are worth training on (dynamic sampling, as in DAPO, arXiv 2503.14476). */

import { mean, standardDeviation, ZERO_SPREAD } from "../algorithms/statistics.ts";
import type { FilterConfig } from "../config/async.ts";
import type { Trajectory } from "../core/types.ts";
import type { SlotName } from "./rollout.ts";

/** A filter of the user's: `rewards_G` of a group's members, in the order of their numbers. */
export type KeepGroup = (rewards_G: number[], family: string) => boolean;

/**
 * The `reject` of a rollout, about the members that training sees; a group without any is rejected, too. A queue loses at most `attempts` groups in a row: where nothing would ever pass, training goes
 * on with what there is.
 */
export function groupFilter(
  config: FilterConfig,
  keep?: KeepGroup,
): (group: readonly Trajectory[], slot: SlotName) => boolean {
  const rejected = new Map<number, number>();
  return (group, { group: queue }) => {
    const before = rejected.get(queue) ?? 0;
    const members = group.toSorted((a, b) => a.member - b.member);
    const rewards = members.map(({ reward }) => reward);
    const isRejected = before < config.attempts && !passes(config, rewards, members[0]?.family ?? "", keep);
    rejected.set(queue, isRejected ? before + 1 : 0);
    return isRejected;
  };
}

function passes(
  { equal, minMean = Number.NEGATIVE_INFINITY, maxMean = Number.POSITIVE_INFINITY, minStd }: FilterConfig,
  rewards_G: number[],
  family: string,
  keep: KeepGroup | undefined,
): boolean {
  if (rewards_G.length === 0) return false;
  const average = mean(rewards_G);
  const spread = standardDeviation(rewards_G);
  if (equal && spread <= ZERO_SPREAD) return false;
  if (average < minMean || average > maxMean || spread < minStd) return false;
  return keep === undefined || keep(rewards_G, family);
}
