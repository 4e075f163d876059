/** Evaluation of a policy on instances it never trains on. */

import type { EvaluationSummary } from "../core/events.ts";
import { wilsonInterval } from "../core/statistics.ts";
import type { EnvironmentSpec, Group, Split, Task, Trajectory } from "../core/types.ts";
import { type CollectOptions, collectGroups } from "../rollout/collect.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import type { Suite } from "../tasks/suite.ts";

/** An episode counts as solved when it earned the full reward. */
export function isSolved(trajectory: Trajectory): boolean {
  return trajectory.reward >= 1;
}

/** The first `count` instances of a split: the same ones whenever a suite is evaluated. */
export function evaluationTasks(suite: Suite, split: Split, count: number, seed = 0): Task[] {
  const sampler = suite.sampler(seed, split);
  return Array.from({ length: count }, (_, position) => sampler.at(position));
}

/** Distinct environments of some tasks, for the warm pool. */
export function environmentsOf(tasks: readonly Task[]): EnvironmentSpec[] {
  return [...new Map(tasks.map((task) => [JSON.stringify(task.environment), task.environment])).values()];
}

/** Runs one episode per task and sums up. */
export async function evaluateTasks(
  step: number,
  key: { readonly episodes: string; readonly noise: string },
  tasks: readonly Task[],
  context: EpisodeContext,
  options: CollectOptions,
): Promise<{ readonly row: EvaluationSummary; readonly trajectories: Trajectory[] }> {
  const groups: Group[] = await collectGroups(key, tasks, 1, context, options);
  const trajectories = groups.flatMap((group) => group.trajectories);
  return { row: summarize(step, tasks[0]?.split ?? "heldout", context.sampling.greedy, trajectories), trajectories };
}

function summarize(
  step: number,
  split: Split,
  greedy: boolean,
  trajectories: readonly Trajectory[],
): EvaluationSummary {
  const solved = trajectories.filter(isSolved).length;
  const n = trajectories.length;
  const perFamily: Record<string, { rate: number; n: number }> = {};
  for (const family of [...new Set(trajectories.map((trajectory) => trajectory.family))].sort()) {
    const members = trajectories.filter((trajectory) => trajectory.family === family);
    perFamily[family] = { rate: members.filter(isSolved).length / members.length, n: members.length };
  }
  return { step, split, greedy, rate: n === 0 ? 0 : solved / n, n, ...wilsonInterval(solved, n), perFamily };
}
