/** The parts of a reward that follow from an episode itself. Pure functions; `shaping.ts` adds them up. */

import type { RewardConfig } from "../config/reward.ts";
import type { TokenRecord, Trajectory } from "../core/types.ts";

/** The outcome as it is trained on. Without a count of tests, the pass rate is the outcome in two steps. */
export function outcomeReward({ reward, tests, stopReason }: Trajectory, kind: RewardConfig["outcome"]): number {
  if (kind === "score") return reward;
  if (kind === "pass-rate" && tests !== undefined && stopReason === "done") return tests.passed / tests.total;
  return reward >= 1 ? 1 : 0;
}

/** −1 for an episode that ended by a malformed answer, else minus the share of its answers that were none. */
export function formatReward({ stopReason, turns }: Trajectory): number {
  if (stopReason === "format") return -1;
  const malformed = turns.filter(({ command }) => command === "").length;
  return malformed === 0 ? 0 : -malformed / turns.length;
}

/**
 * Soft overlong punishment (DAPO, arXiv 2503.14476, equation 13): 0 up to `maxTokens − buffer` sampled tokens, −1 from
 * `maxTokens` on, a line in between.
 */
export function lengthReward(
  { tokens }: Trajectory,
  { maxTokens, buffer }: Pick<NonNullable<RewardConfig["length"]>, "maxTokens" | "buffer">,
): number {
  const over = sampledTokens(tokens) - (maxTokens - buffer);
  return over <= 0 ? 0 : -Math.min(1, over / buffer);
}

export function sampledTokens({ mask }: TokenRecord): number {
  let count = 0;
  for (let t = 0; t < mask.length; t++) count += mask[t] as number;
  return count;
}

/** What fewer of is better; seconds count generation and commands, not the wait for a sandbox. */
export function effort(trajectory: Trajectory, by: "tokens" | "turns" | "time"): number {
  if (by === "tokens") return sampledTokens(trajectory.tokens);
  if (by === "turns") return trajectory.turns.length;
  return trajectory.phases.generate + trajectory.phases.tool;
}

/**
 * Places from 0.5 (largest value) to −0.5 (smallest), evenly spaced, so that they sum to zero; equal values share theirs. One
 * alone gets 0.
 */
export function places(values: readonly number[]): number[] {
  const last = values.length - 1;
  if (last <= 0) return values.map(() => 0);
  return values.map((value) => {
    const better = values.filter((other) => other > value).length;
    const equal = values.filter((other) => other === value).length;
    return 0.5 - (better + (equal - 1) / 2) / last;
  });
}

/** Pairs of a ring in which each of `count` meets `opponents` others (all of them where there are no more). */
export function ringPairs(count: number, opponents: number): [number, number][] {
  const pairs = new Map<string, [number, number]>();
  const steps = Math.min(Math.ceil(opponents / 2), Math.floor(count / 2));
  for (let step = 1; step <= steps; step++) {
    for (let a = 0; a < count; a++) {
      const b = (a + step) % count;
      const pair: [number, number] = a < b ? [a, b] : [b, a];
      pairs.set(pair.join("/"), pair);
    }
  }
  return [...pairs.values()];
}
