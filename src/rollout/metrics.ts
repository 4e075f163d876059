/** What a batch says about the rollout it comes from. */

import { quantile } from "simple-statistics";
import { mean } from "../algorithms/statistics.ts";
import type { Trajectory } from "../core/types.ts";
import type { RolloutBatch } from "./rollout.ts";

/**
 * Staleness of a trajectory: the version that is trained less the oldest one that sampled one of its tokens or wrote a cache
 * entry one of them attended to. Age of a group: train step less the step it was made at, what `async.ratio` bounds.
 * @param version of the weights that training starts from.
 */
export function batchMetrics({ groups, lead }: RolloutBatch, version: number): Record<string, number> {
  const all = groups.flatMap((group) => group.trajectories);
  const stale = all.map((trajectory) => version - oldestVersion(trajectory, version));
  const seconds = all.map(({ phases }) => (phases.reset + phases.generate + phases.tool + phases.grade) / 1000);
  const shares = new Map<number, number>();
  for (const steps of stale) shares.set(steps, (shares.get(steps) ?? 0) + 1 / stale.length);
  return {
    "async/staleness/mean": mean(stale),
    "async/staleness/max": Math.max(0, ...stale),
    ...Object.fromEntries([...shares].map(([steps, share]) => [`async/staleness/share_${steps}`, share])),
    ...(lead && {
      "async/age/mean": mean(lead.ages),
      "async/age/max": Math.max(0, ...lead.ages),
      ...agesOf("async/in_queue", lead.queued),
      ...agesOf("async/in_flight", lead.inFlight),
      ...(lead.idle !== undefined && { "fully_async/rollouter/idle_ratio": lead.idle }),
      "async/keep_rate": groups.length / Math.max(1, groups.length + lead.counts.dropped),
      "async/groups_dropped": lead.counts.dropped,
      "async/groups_filtered": lead.counts.filtered,
      "async/episodes_cancelled": lead.counts.cancelled,
      // What failed on the machine, and when, is not a function of the seed.
      "perf/episodes_retried": lead.counts.retried,
    }),
    "timing_s/trajectory/p50": quantile(seconds, 0.5),
    "timing_s/trajectory/p99": quantile(seconds, 0.99),
    "timing_s/trajectory/max": Math.max(...seconds),
  };
}

/**
 * What episodes cost their environments: `rollout/env_steps` is commands executed, those of a replayed expert included;
 * `rollout/forked_prefix_turns` is turns that forked episodes did not have to execute because their sandbox is a copy.
 * @param replayed commands that experts' replays executed.
 */
export function environmentMetrics(trajectories: readonly Trajectory[], replayed: number): Record<string, number> {
  const commands = trajectories.flatMap(({ turns }) => turns.filter(({ command }) => command !== ""));
  return {
    "rollout/env_steps": commands.length + replayed,
    "rollout/forked_prefix_turns": trajectories.reduce((sum, { fork }) => sum + (fork ? fork.anchor - 1 : 0), 0),
  };
}

/** How many groups, and how old they are in steps. */
function agesOf(name: string, ages: readonly number[]): Record<string, number> {
  const known = ages.length > 0 && { [`${name}/mean`]: mean(ages), [`${name}/max`]: Math.max(...ages) };
  return { [`${name}/groups`]: ages.length, ...known };
}

/** `version` for a trajectory without sampled tokens. */
function oldestVersion({ tokens }: Trajectory, version: number): number {
  const { mask, versions, kvOldest } = tokens;
  let oldest = version;
  // An iterator takes twenty times as long, which counts with a million tokens.
  for (let t = 0; t < mask.length; t++) {
    if (mask[t] === 1) oldest = Math.min(oldest, versions[t] as number, kvOldest[t] as number);
  }
  return oldest;
}
