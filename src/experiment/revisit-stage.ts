/** A supervised stage that revisits what the policy fails: it tries tasks, keeps what it solved, and adds demonstrations. */

import type { Experiment, SftStage } from "../config/experiment.ts";
import type { RevisitConfig } from "../config/revisit.ts";
import { hashKey } from "../core/rng.ts";
import type { Task } from "../core/types.ts";
import { collectGroups } from "../rollout/collect.ts";
import type { Suite } from "../tasks/suite.ts";
import { type Attempt, chooseSolutions, judgeAttempts, need, type Revisited, shareOut } from "../trainer/revisiting.ts";
import { maskTurns, type SupervisedRecord, type TurnMaskSettings } from "../trainer/turn-masks.ts";
import { type DemonstrationPlan, planDemonstrations } from "./demonstrations.ts";
import { environmentsOf } from "./evaluation.ts";
import { collectOptions } from "./evaluator.ts";
import { episodeContext, warmUp } from "./resources.ts";
import type { RunParts } from "./run-parts.ts";

/** Seeds of instances fit an int32 column. */
const SEED_LIMIT = 2 ** 31;

/** A stage with `revisit`, and where it stands in the run. */
export interface RevisitingStage {
  readonly stage: SftStage & { readonly revisit: RevisitConfig };
  /** Its number, from 0. */
  readonly number: number;
  /** Steps of the stages before it. */
  readonly offset: number;
}

export interface RevisitingPlan {
  /** The policy's own solutions. */
  readonly own: readonly SupervisedRecord[];
  /** Demonstrations that are still to be recorded. */
  readonly demonstrations: readonly DemonstrationPlan[];
  readonly metrics: Readonly<Record<string, number>>;
}

/**
 * Lets the policy try training tasks. The episodes are rows of the stage's first step; a run that goes on in the middle of the
 * stage reads them, for the policy is another one by then.
 */
export async function planRevisit(
  parts: RunParts,
  revisiting: RevisitingStage,
  masks: TurnMaskSettings,
): Promise<RevisitingPlan> {
  const { options, suite, session } = parts;
  const { experiment } = options;
  const { stage, number, offset } = revisiting;
  const { share, floor } = stage.revisit;
  const isResumed = session.committedStep > offset;
  const attempts = isResumed ? await storedAttempts(parts, offset + 1) : await tryTasks(parts, revisiting);
  const revisited = judgeAttempts(attempts);
  const key = `${experiment.seed}/revisit/${number}`;
  const total = experiment.sft.demonstrations;
  const chosen = chooseSolutions(revisited, Math.floor(share * total), floor, key);
  const own = chosen.map(({ attempt: { tokens, turns } }) => maskTurns(tokens, turns, masks));
  const tasks = tasksToShow(suite, revisited, { count: total - own.length, floor, key });
  return {
    own,
    demonstrations: planDemonstrations(tasks, stage.mistakes, `${key}/demonstrations`),
    metrics: metricsOf(attempts, revisited, own.length, tasks.length),
  };
}

async function tryTasks(parts: RunParts, { stage, number, offset }: RevisitingStage): Promise<readonly Attempt[]> {
  const { options, suite, provider, session } = parts;
  const { experiment } = options;
  const { tasks: count, samples, temperature = experiment.rollout.temperature } = stage.revisit;
  const sampler = suite.sampler(experiment.seed + 2_000_003 * (number + 1), "train");
  const tasks = Array.from({ length: count }, (_, i) => sampler.at(i));
  warmUp(provider, environmentsOf(tasks), experiment.sandbox.warm);
  await session.store.writeTasks(tasks);
  const context = episodeContext(parts, samplingOf(experiment, temperature));
  const name = `revisit/${number}`;
  const keys = { episodes: `${session.runId}/${name}`, noise: `${experiment.seed}/${name}` };
  // A resumed run tries them again, so there is nothing to finish.
  const signal = AbortSignal.any([options.signal, options.stop]);
  const how = collectOptions(parts, () => offset + 1);
  const groups = await collectGroups(keys, tasks, samples, { ...context, signal }, how);
  const trajectories = groups.flatMap((group) => group.trajectories);
  await session.writeEpisodes(offset + 1, "train", trajectories);
  return trajectories;
}

function samplingOf({ rollout }: Experiment, temperature: number) {
  const { topK, topP, minP, repetitionPenalty } = rollout;
  return { temperature, topK, topP, minP, repetitionPenalty, greedy: false };
}

/** In the order of tasks and attempts, whatever the order in which they were written. */
async function storedAttempts({ session }: RunParts, step: number): Promise<readonly Attempt[]> {
  const attempts: Attempt[] = [];
  for await (const episode of session.store.episodes({ runId: session.runId, step, purpose: "train" }))
    attempts.push(episode);
  const place = ({ groupId }: Attempt) => Number(groupId.slice(groupId.lastIndexOf("/") + 1));
  return attempts.sort((a, b) => place(a) - place(b) || a.member - b.member);
}

/** Tasks whose demonstrations are shown: more of the families that fail more, none of those that have no demonstrations. */
function tasksToShow(
  suite: Suite,
  { rates }: Revisited,
  { count, floor, key }: { readonly count: number; readonly floor: number; readonly key: string },
): Task[] {
  const task = (family: string, i: number) => {
    const [base] = hashKey(`${key}/${family}`);
    return suite.render(family, "train", (base + i) % SEED_LIMIT);
  };
  const families = suite.families.filter((family) => task(family, 0).demonstrations.length > 0);
  const weights = families.map((family) => suite.weight(family) * need(rates.get(family) ?? 0, floor));
  const shares = shareOut(count, weights);
  return families.flatMap((family, f) => Array.from({ length: shares[f] as number }, (_, i) => task(family, i)));
}

function metricsOf(
  attempts: readonly Attempt[],
  { rates, solutions }: Revisited,
  own: number,
  demonstrations: number,
): Record<string, number> {
  const tasks = new Set(attempts.map(({ groupId }) => groupId)).size;
  const solved = attempts.filter(({ reward }) => reward >= 1).length;
  return {
    "revisit/success/mean": solved / Math.max(1, attempts.length),
    "revisit/solved_tasks": solutions.length / Math.max(1, tasks),
    "revisit/own": own,
    "revisit/demonstrations": demonstrations,
    ...Object.fromEntries([...rates].map(([family, rate]) => [`revisit/${family}/success`, rate])),
  };
}
