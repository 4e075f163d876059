/** Three of the four filters of a data set (the fourth is a person: `review-sheet.ts`), with a reason for whatever they drop. */

import type { EventHub } from "../core/events.ts";
import type { ChatModel } from "../policy/chat-model.ts";
import { type JudgeSettings, judge } from "../policy/judge.ts";
import { copyTask, type DataSet, prepareFolder } from "./data-set.ts";
import { type ExecutionParts, executionFault } from "./execution.ts";
import { attemptFaults, type HeuristicLimits, taskFaults } from "./heuristics.ts";
import { attemptMaterial, taskMaterial } from "./material.ts";
import { type Attempt, isSolution, type Rejection } from "./records.ts";
import { type Kept, writeKept } from "./write-kept.ts";

/** What tasks are judged by where the user gives no rubric. */
export const TASK_RUBRIC = `Judge a task for agents at a shell. Its instruction is all that an agent is told; environment/files is its working directory; the tests decide. Is it well-posed (the instruction says all that the tests ask for, and nothing that they do not check matters), free of leaks, worth doing, and would its tests accept every right solution and refuse every wrong one?`;
/** As `TASK_RUBRIC`, for attempts. */
export const ATTEMPT_RUBRIC = `Judge an agent's attempt at a task, as an example to learn from. Did it do what was asked, by its own work, without tricks that aim at the checks, and without aimless repetition?`;

export interface JudgeFilter {
  readonly model: ChatModel;
  readonly settings: Omit<JudgeSettings, "rubric">;
  /** Smallest mean score that passes. */
  readonly threshold: number;
  /** In place of both rubrics. */
  readonly rubric?: string | undefined;
}

export interface FilterSettings {
  readonly folder: string;
  /** Off when omitted, like the two below. */
  readonly heuristic?: HeuristicLimits | undefined;
  /** Runs that must agree. */
  readonly execution?: number | undefined;
  readonly judge?: JudgeFilter | undefined;
  /** Tasks looked at at once. */
  readonly concurrency: number;
}

export interface FilterResult {
  readonly folder: string;
  readonly tasks: number;
  readonly attempts: number;
  readonly rejected: readonly Rejection[];
}

/** Parts that only the filters need that run something. */
export interface FilterParts extends ExecutionParts {
  readonly hub: EventHub;
}

/** Copies what passes into a new data set. A task is asked for its first fault; attempts without their task are dropped. */
export async function filterData(data: DataSet, settings: FilterSettings, parts: FilterParts): Promise<FilterResult> {
  prepareFolder(settings.folder);
  const names = [...data.suite.families];
  const rejected = new Map<string, Rejection[]>();
  const kept = new Map<string, Kept>();
  let done = 0;
  let next = 0;
  const work = async () => {
    for (let name = names[next++]; name !== undefined; name = names[next++]) {
      const faults: Rejection[] = [];
      const attempts = await filterOne(data, name, settings, parts, faults);
      rejected.set(name, faults);
      if (attempts !== undefined) {
        copyTask(data, name, settings.folder);
        kept.set(name, { name, attempts });
      }
      parts.hub.emit({ type: "progress", stage: "filtering", done: ++done, total: names.length, unit: "tasks" });
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: Math.min(settings.concurrency, names.length) }, work));
  const failed = ended.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  const inOrder = names.flatMap((name) => kept.get(name) ?? []);
  const all = names.flatMap((name) => rejected.get(name) ?? []);
  await writeKept(data, settings.folder, inOrder, all, { step: "filter", settings: described(settings) });
  const attempts = inOrder.reduce((sum, one) => sum + one.attempts.length, 0);
  return { folder: settings.folder, tasks: inOrder.length, attempts, rejected: all };
}

function described({ heuristic, execution, judge: judging }: FilterSettings): Record<string, unknown> {
  return {
    ...(heuristic && { heuristic }),
    ...(execution !== undefined && { execution }),
    ...(judging && { judge: judging.model.name, votes: judging.settings.votes, threshold: judging.threshold }),
  };
}

/** The attempts that stay; `undefined` where the task does not. */
async function filterOne(
  data: DataSet,
  name: string,
  { heuristic, execution, judge: judging }: FilterSettings,
  parts: FilterParts,
  faults: Rejection[],
): Promise<readonly Attempt[] | undefined> {
  const task = data.suite.render(name, "train", 0);
  const reject = (stage: string, reason: string) => void faults.push({ kind: "task", name, stage, reason });
  const seen = heuristic && taskFaults(task, heuristic)[0];
  if (seen !== undefined) return void reject("heuristic", seen);
  const ran = execution === undefined ? undefined : await executionFault(task, execution, parts);
  if (ran !== undefined) return void reject("execution", ran);
  const judged = judging && (await judgedFault(judging, `task/${name}`, taskMaterial(task), TASK_RUBRIC));
  if (judged !== undefined) return void reject("judge", judged);
  const kept: Attempt[] = [];
  for (const attempt of data.attempts(name)) {
    const fault = await attemptFault(attempt, task.instruction, heuristic, judging);
    if (fault === undefined) kept.push(attempt);
    else faults.push({ kind: "trajectory", name, member: attempt.member, ...fault });
  }
  return kept;
}

/** Failures are data as well: only what solved its task is held up as an example, and judged as one. */
async function attemptFault(
  attempt: Attempt,
  instruction: string,
  heuristic: HeuristicLimits | undefined,
  judging: JudgeFilter | undefined,
): Promise<Pick<Rejection, "stage" | "reason"> | undefined> {
  const [seen] = heuristic === undefined ? [] : attemptFaults(attempt, heuristic);
  if (seen !== undefined) return { stage: "heuristic", reason: seen };
  if (judging === undefined || !isSolution(attempt)) return undefined;
  const key = `attempt/${attempt.task}/${attempt.policy}/${attempt.member}`;
  const reason = await judgedFault(judging, key, attemptMaterial(instruction, attempt.turns), ATTEMPT_RUBRIC);
  return reason === undefined ? undefined : { stage: "judge", reason };
}

async function judgedFault(
  { model, settings, threshold, rubric }: JudgeFilter,
  key: string,
  material: string,
  own: string,
): Promise<string | undefined> {
  const { score, reasons } = await judge(model, key, material, { ...settings, rubric: rubric ?? own });
  if (score === undefined) return "the judge gave no score that could be read";
  return score >= threshold ? undefined : `${score.toFixed(2)}, below ${threshold}: ${reasons.join(" / ")}`;
}
