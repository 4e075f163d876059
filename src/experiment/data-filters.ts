/** `ale data filter` and `ale data select`: models and sandboxes around `data/filter.ts` and `data/select.ts`. */

import { resolve } from "node:path";
import type { Experiment } from "../config/experiment.ts";
import type { EventHub } from "../core/events.ts";
import { openDataSet } from "../data/data-set.ts";
import { type FilterResult, filterData, type JudgeFilter } from "../data/filter.ts";
import type { HeuristicLimits } from "../data/heuristics.ts";
import { type SelectResult, selectTasks } from "../data/select.ts";
import { Limiter } from "../rollout/limiter.ts";
import { grade } from "../sandbox/grading.ts";
import { openLanguageModel } from "./language-model.ts";
import { episodeContext } from "./resources.ts";
import { openSandboxes } from "./sandboxes.ts";
import { loadRunnableSuite } from "./suites.ts";

export interface FilterOptions {
  readonly data: string;
  readonly outDir: string;
  readonly heuristic?: HeuristicLimits | undefined;
  readonly execution?: number | undefined;
  readonly judge?:
    | (Omit<JudgeFilter, "model" | "settings"> & { readonly policy: string; readonly votes: number })
    | undefined;
  readonly experiment: Experiment;
  readonly concurrency: number;
  readonly hub: EventHub;
  readonly signal: AbortSignal;
}

const JUDGE_TOKENS = 2048;

/** @throws AleError as `openDataSet`, and when the judge or the sandboxes failed */
export async function filterDataSet(options: FilterOptions): Promise<FilterResult> {
  const { data: path, outDir, heuristic, execution, experiment, concurrency, hub, signal } = options;
  const data = openDataSet(path);
  loadRunnableSuite(path, {}, experiment.sandbox);
  await using model = options.judge && (await openLanguageModel(options.judge.policy, { experiment, hub }));
  await using provider = await openSandboxes(path, [outDir, ...(model?.hidden ?? [])]);
  const judge = options.judge && model && judgeOf(options.judge, model.chat, signal);
  const settings = { folder: resolve(outDir), heuristic, execution, judge, concurrency };
  return await filterData(data, settings, { provider, grade, hub, signal });
}

function judgeOf(
  { threshold, rubric, votes }: NonNullable<FilterOptions["judge"]>,
  model: JudgeFilter["model"],
  signal: AbortSignal,
): JudgeFilter {
  // Several votes are worth asking for only where they can differ.
  const temperature = votes > 1 ? 0.7 : 0;
  return { model, threshold, rubric, settings: { votes, temperature, maxTokens: JUDGE_TOKENS, signal } };
}

export interface SelectOptions {
  readonly data: string;
  readonly outDir: string;
  readonly policy: string;
  readonly samples: number;
  readonly low: number;
  readonly high: number;
  readonly temperature: number;
  readonly seed: number;
  readonly experiment: Experiment;
  readonly hub: EventHub;
  readonly signal: AbortSignal;
}

/** @throws AleError as `openDataSet`, and when the policy or the sandboxes failed */
export async function selectDataSet(options: SelectOptions): Promise<SelectResult> {
  const { data: path, outDir, policy, samples, low, high, seed, temperature, experiment, hub, signal } = options;
  const data = openDataSet(path);
  loadRunnableSuite(path, {}, experiment.sandbox);
  await using model = await openLanguageModel(policy, { experiment, hub });
  await using provider = await openSandboxes(path, [outDir, ...model.hidden]);
  const source = { format: model.format() };
  const parts = { options: { experiment, hub, signal }, source, provider, engine: model.policy };
  const context = episodeContext(parts, { temperature, greedy: false });
  const settings = { folder: resolve(outDir), policy: model.name, samples, low, high, seed };
  const { concurrency, retries } = experiment.rollout;
  return await selectTasks(data, settings, context, { limiter: new Limiter(concurrency), retries });
}
