/** The rollout of a run: what its groups are called, which of them count, and where it goes on after a resume. */

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { FilterConfig } from "../config/async.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import type { Task, Trajectory } from "../core/types.ts";
import { isDropped, trainable } from "../rollout/alerts.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { groupFilter, type KeepGroup } from "../rollout/filter.ts";
import { Rollout, type RolloutState, type SlotName } from "../rollout/rollout.ts";
import { collectOptions } from "./evaluator.ts";
import type { RunParts } from "./run-parts.ts";
import type { TrainingTasks } from "./training-tasks.ts";
import { filterCode, placeTrusted } from "./trusted-code.ts";

/** What was run, beside the results. */
const FILTER_COPY = "filter.ts";

/** Opens the rollout where the last commit left it. `stepOf` is the step that training is at. */
export async function openRollout(
  parts: RunParts,
  tasks: TrainingTasks,
  context: EpisodeContext,
  stepOf: () => number,
): Promise<Rollout> {
  const { options, session } = parts;
  const { experiment } = options;
  const { guards } = experiment;
  const { groups, groupSize, redundancy, retries, filter } = experiment.rollout;
  const reject = filter && groupFilter(filter, await loadFilter(filter, options.outDir));
  const { limiter, onEpisode } = collectOptions(parts, stepOf);
  const rollout = {
    context,
    limiterOf: (task: Task) => tasks.limiterOf(task, limiter),
    onEpisode,
    taskOf: (slot: SlotName) => tasks.of(slot),
    keyOf: (slot: SlotName) => groupKey(parts, slot),
    isSpoiled: (trajectory: Trajectory) => isDropped(trajectory, guards),
    ...(reject && {
      reject: (group: readonly Trajectory[], slot: SlotName) => reject(trainable(group, guards), slot),
    }),
  };
  const state = session.resumedState.rollout as RolloutState | undefined;
  const resumed = state && { state, done: await session.resumedPending() };
  const { ratio, batch } = experiment.async;
  return new Rollout({ groups, groupSize, redundancy, retries, ratio, policy: batch }, rollout, resumed);
}

/** Groups are numbered from 1; without a lead of rollout and without a filter the number is the step's. */
export function groupKey({ options, session }: RunParts, { group, episode }: SlotName) {
  const name = `train/${episode + 1}/${group}`;
  return { episodes: `${session.runId}/${name}`, noise: `${options.experiment.seed}/${name}` };
}

/**
 * The function of a filter's module, if it has one; it runs in this process.
 * @throws AleError("config") when the file cannot be trusted or loaded, or exports no function `keep`
 */
export async function loadFilter(
  { module: path, sha256 }: FilterConfig,
  folder: string,
): Promise<KeepGroup | undefined> {
  if (path === undefined) return undefined;
  const copy = placeTrusted(filterCode({ module: path, sha256 }), folder, FILTER_COPY);
  const problem = (what: string, cause?: unknown) =>
    new AleError("config", `rollout.filter.module: ${path} ${what}`, {
      hint: "it has to export function keep(rewards: number[], family: string): boolean",
      cause,
    });
  let module: { readonly keep?: unknown };
  try {
    module = await import(pathToFileURL(resolve(copy)).href);
  } catch (cause) {
    throw problem(`cannot be loaded: ${errorMessage(cause)}`, cause);
  }
  if (typeof module.keep !== "function") throw problem("exports no function keep");
  return module.keep as KeepGroup;
}
