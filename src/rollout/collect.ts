/** Collects the episodes of one training step or of one evaluation. */

import type { Group, Task, Trajectory } from "../core/types.ts";
import type { EpisodeContext, EpisodePlan, EpisodeStart } from "./episode.ts";
import { MachineHealth } from "./health.ts";
import type { Limiter } from "./limiter.ts";
import { runPersistently } from "./persistence.ts";

export interface CollectOptions {
  /** Bounds the episodes in flight. */
  readonly limiter: Limiter;
  /** As in `Persistence`. */
  readonly retries: number;
  readonly onEpisode?: (trajectory: Trajectory) => void;
}

/** Names a collection, e.g. `run/train/12`; ids and sampling noise follow from it. */
export interface CollectKey {
  readonly episodes: string;
  readonly noise: string;
}

/**
 * Runs `groupSize` episodes of each task. Results come in canonical order (task, then member) whatever the order in which
 * episodes finished, so that what follows does not depend on timing.
 */
export async function collectGroups(
  key: CollectKey,
  tasks: readonly Task[],
  groupSize: number,
  context: EpisodeContext,
  options: CollectOptions,
): Promise<Group[]> {
  const health = new MachineHealth(tasks.length * groupSize);
  const watched = { ...context, signal: AbortSignal.any([context.signal, health.signal]) };
  const groups = tasks.map((task, g) => {
    const own = { episodes: `${key.episodes}/${g}`, noise: `${key.noise}/${g}` };
    return collectEpisodes(own, task, groupSize, watched, { ...options, health });
  });
  const collected = await settle(groups);
  health.signal.throwIfAborted();
  return collected;
}

/** One group: `count` episodes of one task, all from its start or all from `options.start`. */
export async function collectEpisodes(
  key: CollectKey,
  task: Task,
  count: number,
  context: EpisodeContext,
  options: CollectOptions & { readonly start?: EpisodeStart; readonly health?: MachineHealth },
): Promise<Group> {
  const { start, onEpisode } = options;
  const members = Array.from({ length: count }, async (_, member) => {
    const plan: EpisodePlan = {
      episodeId: `${key.episodes}/${member}`,
      groupId: key.episodes,
      member,
      task,
      noiseKey: `${key.noise}/${member}`,
      ...(start === undefined ? {} : { start }),
    };
    const trajectory = await runPersistently(plan, context, options);
    onEpisode?.(trajectory);
    return trajectory;
  });
  return { groupId: key.episodes, taskId: task.id, trajectories: await settle(members) };
}

/** Like `Promise.all`, but waits for all of them before it fails: no episode goes on after its step was given up. */
async function settle<T>(work: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(work);
  const failed = results.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  return results.map((result) => (result as PromiseFulfilledResult<T>).value);
}
