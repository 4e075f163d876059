/**
 * What a training step reports, under the names verl uses (`timing_s/*` and `perf/*` are measured times; everything else
 * is a function of the seed in a deterministic run).
 */

import { mean, standardDeviation, ZERO_SPREAD } from "../algorithms/statistics.ts";
import type { Group, Trajectory } from "../core/types.ts";
import { mismatchMetrics } from "./mismatch.ts";
import type { UpdateResult } from "./update.ts";

/** Seconds of a training step, by phase. */
export interface StepTimes {
  readonly gen: number;
  readonly update: number;
  readonly step: number;
}

/** `name/mean`, `name/max` and `name/min`; nothing where there are no values. */
export function summaryOf(name: string, values: readonly number[]): Record<string, number> {
  if (values.length === 0) return {};
  let [max, min] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  for (const value of values) [max, min] = [Math.max(max, value), Math.min(min, value)];
  return { [`${name}/mean`]: mean(values), [`${name}/max`]: max, [`${name}/min`]: min };
}

/** Metrics of the collected groups. */
export function rolloutMetrics(groups: readonly Group[]): Record<string, number> {
  const all = groups.flatMap((group) => group.trajectories);
  const rewards = all.map((trajectory) => trajectory.reward);
  const spreads = groups.map((group) => standardDeviation(group.trajectories.map((t) => t.reward)));
  const phase = (name: "reset" | "generate" | "tool" | "grade") =>
    all.reduce((sum, trajectory) => sum + trajectory.phases[name], 0) / 1000;
  return {
    ...summaryOf("critic/rewards", rewards),
    reward_std: mean(spreads),
    frac_reward_zero_std: spreads.filter((spread) => spread <= ZERO_SPREAD).length / Math.max(1, groups.length),
    ...summaryOf("response_length", all.map(sampledTokens)),
    "response_length/clip_ratio": mean(all.map(({ stopReason }) => (stopReason === "length" ? 1 : 0))),
    ...terminatedLengths(all),
    ...summaryOf("prompt_length", all.map(promptTokens)),
    "sequence_length/mean": mean(all.map((trajectory) => trajectory.tokens.ids.length)),
    ...summaryOf(
      "num_turns",
      all.map(({ turns }) => turns.length),
    ),
    ...shares("stop", all, (trajectory) => trajectory.stopReason),
    ...familyRewards(all),
    // Sums over episodes that run side by side; they exceed the wall time.
    "timing_s/episodes/reset": phase("reset"),
    "timing_s/episodes/generate": phase("generate"),
    "timing_s/episodes/tool": phase("tool"),
    "timing_s/episodes/grade": phase("grade"),
  };
}

/** Metrics of the update; `undefined` when there was nothing to learn from. */
export function updateMetrics(update: UpdateResult | undefined, lr: number): Record<string, number> {
  if (update === undefined) return { "actor/lr": 0, "actor/updates": 0 };
  return {
    "actor/pg_loss": update.loss,
    "actor/entropy": update.entropy,
    "actor/grad_norm": update.gradNorm,
    "actor/pg_clipfrac": update.clipFraction,
    "actor/ppo_kl": update.approxKl,
    "actor/lr": lr,
    "actor/updates": update.updates,
    ...mismatchMetrics(update.mismatch),
    ...update.metrics,
  };
}

/** Tokens of all episodes. */
export function tokensOf(groups: readonly Group[]): number {
  return groups.flatMap(({ trajectories }) => trajectories).reduce((sum, { tokens }) => sum + tokens.ids.length, 0);
}

export function timeMetrics(groups: readonly Group[], times: StepTimes): Record<string, number> {
  const tokens = tokensOf(groups);
  return {
    "timing_s/gen": times.gen,
    "timing_s/update_actor": times.update,
    "timing_s/step": times.step,
    "perf/total_num_tokens": tokens,
    "perf/throughput": tokens / times.step,
    "perf/actor_train_tok_per_s": times.update > 0 ? tokens / times.update : 0,
    "perf/episodes_per_second": groups.flatMap(({ trajectories }) => trajectories).length / times.step,
    "perf/wait_time_ratio": times.gen / times.step,
  };
}

/**
 * Measured times under names beyond `timing_s/` and `perf/`, where others have them: milliseconds of a phase per token (of
 * generation, per sampled token), seconds of the step, its tokens per second. Not for deterministic runs, whose other metrics are
 * a function of the seed.
 */
export function otherTimeMetrics(groups: readonly Group[], times: StepTimes): Record<string, number> {
  const tokens = tokensOf(groups);
  const all = groups.flatMap((group) => group.trajectories);
  const sampled = all.reduce((sum, trajectory) => sum + sampledTokens(trajectory), 0);
  const perToken = (seconds: number, count: number) => (1000 * seconds) / Math.max(1, count);
  return {
    "timing_per_token_ms/gen": perToken(times.gen, sampled),
    "timing_per_token_ms/update_actor": perToken(times.update, tokens),
    "timing_per_token_ms/step": perToken(times.step, tokens),
    step_time: times.step,
    "time/wait_for_batch": times.gen,
    "system/tps": tokens / times.step,
  };
}

/** Lengths of the episodes that no limit on tokens cut off (TRL); nothing where there are none. */
function terminatedLengths(all: readonly Trajectory[]): Record<string, number> {
  const ended = all.filter(({ stopReason }) => stopReason !== "length").map(sampledTokens);
  const summary = summaryOf("terminated", ended);
  return Object.fromEntries(
    Object.entries(summary).map(([name, value]) => [`completions/${name.split("/")[1]}_terminated_length`, value]),
  );
}

/** Tokens before the first sampled one; all, where none was. */
function promptTokens({ tokens }: Trajectory): number {
  const first = tokens.mask.indexOf(1);
  return first < 0 ? tokens.mask.length : first;
}

function sampledTokens(trajectory: Trajectory): number {
  return trajectory.tokens.mask.reduce((sum, bit) => sum + bit, 0);
}

/** `prefix/value` → share of the trajectories with that value. */
function shares(prefix: string, all: readonly Trajectory[], key: (t: Trajectory) => string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const trajectory of all)
    counts[`${prefix}/${key(trajectory)}`] = (counts[`${prefix}/${key(trajectory)}`] ?? 0) + 1;
  return Object.fromEntries(Object.entries(counts).map(([name, n]) => [name, n / all.length]));
}

function familyRewards(all: readonly Trajectory[]): Record<string, number> {
  const families = [...new Set(all.map((trajectory) => trajectory.family))].sort();
  return Object.fromEntries(
    families.map((family) => [
      `reward/${family}/mean`,
      mean(all.filter((trajectory) => trajectory.family === family).map((trajectory) => trajectory.reward)),
    ]),
  );
}
