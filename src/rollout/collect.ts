/** Collects the episodes of one training step or of one evaluation. */

import { AleError } from "../core/errors.ts";
import type { Group, StopReason, Task, Trajectory } from "../core/types.ts";
import { EngineLost } from "../device/engine-client.ts";
import { type EpisodeContext, type EpisodePlan, type EpisodeStart, runEpisode } from "./episode.ts";
import type { Limiter } from "./limiter.ts";

/** Times an episode is started again after the engine died under it. */
const MAX_ATTEMPTS = 4;

export interface CollectOptions {
  /** Bounds the episodes in flight. */
  readonly limiter: Limiter;
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
  const onEpisode = (trajectory: Trajectory) => {
    health.record(trajectory);
    options.onEpisode?.(trajectory);
  };
  const groups = tasks.map((task, g) => {
    const own = { episodes: `${key.episodes}/${g}`, noise: `${key.noise}/${g}` };
    return collectEpisodes(own, task, groupSize, watched, { ...options, onEpisode });
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
  options: CollectOptions & { readonly start?: EpisodeStart },
): Promise<Group> {
  const { limiter, start, onEpisode } = options;
  const members = Array.from({ length: count }, (_, member) => {
    const plan: EpisodePlan = {
      episodeId: `${key.episodes}/${member}`,
      groupId: key.episodes,
      member,
      task,
      noiseKey: `${key.noise}/${member}`,
      ...(start === undefined ? {} : { start }),
    };
    return limiter.run(async () => {
      const trajectory = await withRestarts(plan, context);
      onEpisode?.(trajectory);
      return trajectory;
    });
  });
  return { groupId: key.episodes, taskId: task.id, trajectories: await settle(members) };
}

/** Stop reasons that say nothing about the policy. */
export const MACHINE_FAULTS: ReadonlySet<StopReason> = new Set(["sandbox_error", "engine_error", "grader_error"]);

/** So many failures before the first episode that could be judged are enough to know. */
const FIRST_FAILURES = 16;

/**
 * Single failures are data; when most episodes fail for a reason of ours, going on would train on noise. The others are
 * then stopped at once, as soon as that is certain or no episode has worked at all.
 */
export class MachineHealth {
  readonly #episodes: number;
  readonly #giveUp = new AbortController();
  #failed = 0;
  #judged = 0;
  #firstError: string | undefined;

  constructor(episodes: number) {
    this.#episodes = episodes;
  }

  /** Aborted, with the error that ends the collection, when going on makes no sense. */
  get signal(): AbortSignal {
    return this.#giveUp.signal;
  }

  record({ stopReason, error }: Pick<Trajectory, "stopReason" | "error">): void {
    if (!MACHINE_FAULTS.has(stopReason)) {
      this.#judged++;
      return;
    }
    this.#failed++;
    this.#firstError ??= error ?? stopReason;
    const hopeless = this.#judged === 0 && this.#failed >= FIRST_FAILURES;
    if (this.#giveUp.signal.aborted || (this.#failed * 2 <= this.#episodes && !hopeless)) return;
    this.#giveUp.abort(
      new AleError(
        "sandbox",
        `${this.#failed} of ${this.#episodes} episodes failed before they could be judged: ${this.#firstError}`,
        {
          hint:
            stopReason === "grader_error"
              ? "ale tasks check SUITE tries the verifiers of the tasks, ale doctor this machine; then ale resume"
              : "run `ale doctor`, then `ale resume`",
        },
      ),
    );
  }
}

async function withRestarts(plan: EpisodePlan, context: EpisodeContext): Promise<Trajectory> {
  for (let attempt = 1; ; attempt++) {
    context.signal.throwIfAborted();
    try {
      return await runEpisode(plan, context);
    } catch (error) {
      if (!(error instanceof EngineLost) || attempt >= MAX_ATTEMPTS) throw error;
    }
  }
}

/** Like `Promise.all`, but waits for all of them before it fails: no episode goes on after its step was given up. */
async function settle<T>(work: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(work);
  const failed = results.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  return results.map((result) => (result as PromiseFulfilledResult<T>).value);
}
