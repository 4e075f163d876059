/** Chooses tasks by how often a policy solves them: those that are always or never solved teach nothing. */

import { AleError } from "../core/errors.ts";
import { MACHINE_FAULTS, type Task } from "../core/types.ts";
import { type CollectOptions, collectEpisodes } from "../rollout/collect.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { copyTask, type DataSet, prepareFolder } from "./data-set.ts";
import { type Attempt, attemptOf, isSolution, type Rejection } from "./records.ts";
import { type Kept, writeKept } from "./write-kept.ts";

export interface SelectSettings {
  readonly folder: string;
  readonly policy: string;
  /** Attempts at each task. */
  readonly samples: number;
  /** Pass rates that are wanted, both ends included. */
  readonly low: number;
  readonly high: number;
  readonly seed: number;
}

export interface SelectResult {
  readonly folder: string;
  readonly tasks: number;
  readonly passRates: Readonly<Record<string, number>>;
  readonly rejected: readonly Rejection[];
}

/** Runs `samples` attempts at each task; a family is tried on as many of its training instances. */
export async function selectTasks(
  data: DataSet,
  settings: SelectSettings,
  context: EpisodeContext,
  options: CollectOptions,
): Promise<SelectResult> {
  const { folder, policy, samples, low, high } = settings;
  prepareFolder(folder);
  const { families } = data.suite;
  let done = 0;
  const progress = () =>
    context.hub.emit({
      type: "progress",
      stage: "measuring tasks",
      done: ++done,
      total: families.length * samples,
      unit: "episodes",
    });
  const tried = await settleAll(
    families.map((name) => tryTask(data, name, settings, context, { ...options, onEpisode: progress })),
  );
  const kept: Kept[] = [];
  const rejected: Rejection[] = [];
  const passRates: Record<string, number> = {};
  for (const [i, name] of families.entries()) {
    const attempts = tried[i] as readonly Attempt[];
    const solved = attempts.filter(isSolution).length;
    const rate = solved / attempts.length;
    passRates[name] = rate;
    if (rate < low || rate > high) {
      const reason = `${solved} of ${attempts.length} attempts solved it; wanted ${low} to ${high}`;
      rejected.push({ kind: "task", name, stage: "pass-rate", reason });
      continue;
    }
    copyTask(data, name, folder);
    const all = renumber([...data.attempts(name), ...attempts]);
    kept.push({ name, attempts: all, passRates: { [policy]: { attempts: attempts.length, solved } } });
  }
  await writeKept(data, folder, kept, rejected, { step: "select", settings: { policy, samples, low, high } });
  return { folder, tasks: kept.length, passRates, rejected };
}

async function tryTask(
  data: DataSet,
  name: string,
  { policy, samples, seed }: SelectSettings,
  context: EpisodeContext,
  options: CollectOptions,
): Promise<Attempt[]> {
  const { parametric } = data.suite.family(name);
  const instances: Task[] = Array.from({ length: parametric ? samples : 1 }, (_, i) =>
    data.suite.render(name, "train", seed + i),
  );
  const each = parametric ? 1 : samples;
  const groups = await settleAll(
    instances.map((task, i) => {
      const key = `select/${seed}/${name}/${i}`;
      return collectEpisodes({ episodes: key, noise: key }, task, each, context, options);
    }),
  );
  const trajectories = groups.flatMap((group) => group.trajectories);
  const failed = trajectories.find(({ stopReason }) => MACHINE_FAULTS.has(stopReason));
  if (failed !== undefined) {
    throw new AleError(
      "engine",
      `an attempt at ${name} could not be judged (${failed.stopReason}): ${failed.error ?? ""}`,
    );
  }
  return renumber(trajectories.map((trajectory) => attemptOf(name, policy, trajectory)));
}

function renumber(attempts: readonly Attempt[]): Attempt[] {
  return attempts.map((attempt, member) => ({ ...attempt, member }));
}

/** As `Promise.all`, but fails only once all have ended. */
async function settleAll<T>(work: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(work);
  const failed = results.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  return results.map((result) => (result as PromiseFulfilledResult<T>).value);
}
