/** `ale eval`: success of a policy on a suite. */

import { cpus } from "node:os";
import type { TranscriptFormat } from "../agent/format.ts";
import { AleError } from "../core/errors.ts";
import type { Policy } from "../core/ports.ts";
import { wilsonInterval } from "../core/statistics.ts";
import { MACHINE_FAULTS, type Trajectory } from "../core/types.ts";
import { RandomPolicy } from "../policy/scripted.ts";
import { collectGroups } from "../rollout/collect.ts";
import { Limiter } from "../rollout/limiter.ts";
import { grade } from "../sandbox/grading.ts";
import { checkSuite } from "../tasks/check.ts";
import type { EvaluateOptions, EvaluatePolicy, EvaluationResult } from "./api.ts";
import { openBackend } from "./backends.ts";
import { environmentsOf, evaluationTasks, isSolved } from "./evaluation.ts";
import { isElsewhere, openLanguageModel } from "./language-model.ts";
import { assertRoom, policyFromFolder } from "./policy-source.ts";
import { episodeContext, warmUp } from "./resources.ts";
import { loadRunnableSuite } from "./suites.ts";

/** What an episode left that counts here. */
interface Outcome {
  readonly family: string;
  readonly solved: boolean;
  readonly stopReason: string;
  readonly error?: string | undefined;
}

/** Evaluates a policy folder, or one of `oracle`, `noop` and `random`. */
export const evaluatePolicy: EvaluatePolicy = async (options) => {
  const hasNoFolder = ["oracle", "noop", "random"].includes(options.policy) || isElsewhere(options.policy);
  if (options.adapter !== undefined && hasNoFolder) {
    throw new AleError("usage", `--adapter needs a policy's folder, and ${options.policy} is none`);
  }
  const started = performance.now();
  const { outcomes, isolation } =
    options.policy === "oracle" || options.policy === "noop"
      ? await checkReference(options, options.policy)
      : await playEpisodes(options);
  return { ...summarize(options, outcomes), isolation, ms: performance.now() - started };
};

function summarize(options: EvaluateOptions, outcomes: readonly Outcome[]): Omit<EvaluationResult, "isolation" | "ms"> {
  const rate = (some: readonly Outcome[]) => some.filter(({ solved }) => solved).length / Math.max(1, some.length);
  const families = [...new Set(outcomes.map(({ family }) => family))].sort();
  const stopReasons: Record<string, number> = {};
  for (const { stopReason } of outcomes) stopReasons[stopReason] = (stopReasons[stopReason] ?? 0) + 1;
  const { policy, suite, split, greedy } = options;
  const error = outcomes.find((outcome) => outcome.error !== undefined)?.error;
  return {
    policy,
    suite,
    split,
    greedy,
    rate: rate(outcomes),
    n: outcomes.length,
    ...wilsonInterval(outcomes.filter(({ solved }) => solved).length, outcomes.length),
    perFamily: Object.fromEntries(
      families.map((family) => {
        const members = outcomes.filter((outcome) => outcome.family === family);
        return [family, { rate: rate(members), n: members.length }];
      }),
    ),
    stopReasons,
    ...(error === undefined ? {} : { error }),
  };
}

function loadOptions({ families }: EvaluateOptions) {
  return families === undefined ? {} : { families };
}

/** Runs every instance's own solution, or nothing. */
async function checkReference(options: EvaluateOptions, agent: "oracle" | "noop") {
  const { hub, signal, samples, split, seed } = options;
  const suite = loadRunnableSuite(options.suite, loadOptions(options), options.experiment.sandbox);
  await using provider = await openBackend(options.experiment.sandbox, options.suite);
  const concurrency = cpus().length * 4;
  let done = 0;
  const rows = await checkSuite(suite, provider, grade, { samples, splits: [split], concurrency, seed, signal }, () =>
    hub.emit({ type: "progress", stage: `running the ${agent}`, done: ++done, total: samples, unit: "instances" }),
  );
  const outcomes = rows.map((row): Outcome => {
    const family = row.task.split("/")[1] ?? row.task;
    const error = agent === "oracle" ? row.error : row.noopError;
    return { family, solved: row[agent] >= 1, stopReason: error === undefined ? "done" : "grader_error", error };
  });
  return { outcomes, isolation: provider.isolation };
}

/** Runs one episode per instance with a model, or with uniformly random tokens. */
async function playEpisodes(options: EvaluateOptions) {
  const { hub, signal } = options;
  const suite = loadRunnableSuite(options.suite, loadOptions(options), options.experiment.sandbox);
  const { experiment } = options;
  await using model = await openPolicy(options);
  await using provider = await openBackend(experiment.sandbox, options.suite, model.hidden);
  provider.onRestart?.((reason, restarts) => hub.emit({ type: "launcher.restarted", reason, restarts }));
  const { temperature, greedy, split } = options;
  const context = episodeContext(
    { options: { experiment, hub, signal }, source: model, provider, engine: model.policy },
    { temperature, greedy },
  );
  const tasks = evaluationTasks(suite, split, options.samples, options.seed);
  warmUp(provider, environmentsOf(tasks), experiment.sandbox.warm);
  let done = 0;
  const key = { episodes: "eval", noise: `${options.seed}/eval/${split}` };
  const groups = await collectGroups(key, tasks, 1, context, {
    limiter: new Limiter(experiment.rollout.concurrency),
    retries: experiment.rollout.retries,
    onEpisode: () =>
      hub.emit({ type: "progress", stage: "evaluating", done: ++done, total: tasks.length, unit: "episodes" }),
  });
  const trajectories: Trajectory[] = groups.flatMap((group) => group.trajectories);
  const outcomes = trajectories.map((trajectory): Outcome => {
    const { family, stopReason, error } = trajectory;
    return { family, solved: isSolved(trajectory), stopReason, ...(MACHINE_FAULTS.has(stopReason) && { error }) };
  });
  return { outcomes, isolation: provider.isolation };
}

/** What answers, and how episodes are written for it. */
async function openPolicy(
  options: EvaluateOptions,
): Promise<
  AsyncDisposable & { readonly policy: Policy; readonly format: TranscriptFormat; readonly hidden: readonly string[] }
> {
  const { policy, experiment } = options;
  if (policy === "random") {
    const source = policyFromFolder("models/shell-start", { systemPrompt: experiment.rollout.systemPrompt });
    assertRoom(source, experiment);
    const random = new RandomPolicy(source.tokenizer.vocabularySize);
    return { policy: random, format: source.format, hidden: [], [Symbol.asyncDispose]: async () => {} };
  }
  const model = await openLanguageModel(policy, options);
  return { ...model, format: model.format(experiment.rollout.systemPrompt) };
}
