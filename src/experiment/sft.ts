/** `ale sft`: records demonstrations in sandboxes, or takes the solved episodes of a run, and trains a policy on them. */

import { compactFormat } from "../agent/compact-format.ts";
import { countOnes } from "../algorithms/levels.ts";
import type { Experiment } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import { engineMetrics } from "../device/engine-metrics.ts";
import { bestStep } from "../export/summary.ts";
import { loadSuite, type Suite } from "../tasks/suite.ts";
import { DemonstrationOrder, stageRate, supervisedJob } from "../trainer/supervised.ts";
import type { SupervisedRecord, TurnMaskSettings } from "../trainer/turn-masks.ts";
import type { RunExperiment, RunOptions } from "./api.ts";
import {
  type DemonstrationPlan,
  encodeDemonstrations,
  learnTokenizer,
  planDemonstrations,
  recordDemonstrations,
} from "./demonstrations.ts";
import { environmentsOf } from "./evaluation.ts";
import { Evaluator, evaluationMetrics } from "./evaluator.ts";
import { type PolicySource, presetConfig, startingPolicy } from "./policy-source.ts";
import { agentLimits, suiteOptions, warmUp } from "./resources.ts";
import { executeRun, type RunParts } from "./run-parts.ts";
import { readSolvedEpisodes } from "./solved-episodes.ts";

/** Steps whose mean is one row of metrics. */
const STEPS_PER_COMMIT = 20;

/** Runs or resumes a supervised experiment. The demonstrations are functions of the seed, so a resumed run records the same. */
export const runSft: RunExperiment = async (options) => {
  const { experiment } = options;
  const suite = loadSuite(experiment.tasks.suite, suiteOptions(experiment));
  const stages = planStages(options, suite);
  const plan = {
    algorithm: "sft",
    steps: totalSteps(experiment),
    suite,
    source: startingPoint(options, stages.flat()),
  };
  return executeRun(options, plan, (parts) => new SupervisedRun(parts, stages).execute());
};

function totalSteps({ sft }: Experiment): number {
  return sft.stages.reduce((sum, stage) => sum + stage.steps, 0);
}

/** The demonstrations of every stage: tasks of the training pool that reinforcement learning with the same seed does not use. */
function planStages(options: RunOptions, suite: Suite): DemonstrationPlan[][] {
  const { seed, sft } = options.experiment;
  return sft.stages.map((stage, s) => {
    if (stage.trajectories !== undefined) return [];
    const sampler = suite.sampler(seed + 1_000_003 * (s + 1), "train");
    const tasks = Array.from({ length: sft.demonstrations }, (_, i) => sampler.at(i));
    const without = tasks.find((task) => task.demonstrations.length === 0);
    if (without !== undefined) {
      throw new AleError("task", `family ${without.family} has no demonstrations`, {
        hint: "leave it out with tasks.families, or add demonstrations to its task.toml",
      });
    }
    return planDemonstrations(tasks, stage.mistakes, `${seed}/demonstrations/${s}`);
  });
}

/** A policy folder to go on from, or random weights of a preset with a tokenizer learned on the demonstrations. */
function startingPoint(options: RunOptions, plans: readonly DemonstrationPlan[]): PolicySource {
  const { model, lora, sft, seed } = options.experiment;
  if (lora !== undefined && model.path === undefined) {
    throw new AleError("config", "lora: adapters need a model to belong to", { hint: "set model.path" });
  }
  if (model.path !== undefined) return startingPolicy(options.experiment);
  if (plans.length === 0) {
    throw new AleError(
      "config",
      "sft.stages: episodes of a run can only be imitated by a policy that reads their tokens",
      {
        hint: "set model.path to the policy that run started from or made",
      },
    );
  }
  const { tokenizer, text } = learnTokenizer(plans, sft.vocabulary);
  return {
    modelConfig: presetConfig(model.preset, sft.vocabulary),
    tokenizer,
    format: compactFormat(tokenizer),
    textFiles: new Map([["tokenizer.json", text]]),
    weights: { kind: "random", seed },
  };
}

/** Is the policy evaluated after `step`, counted over all stages? */
function evaluationDue(experiment: Experiment, step: number): boolean {
  const { every } = experiment.sft;
  return step === totalSteps(experiment) || (every > 0 && step > 0 && step % every === 0);
}

class SupervisedRun {
  readonly #parts: RunParts;
  readonly #evaluator: Evaluator;
  readonly #stages: readonly (readonly DemonstrationPlan[])[];

  constructor(parts: RunParts, stages: readonly (readonly DemonstrationPlan[])[]) {
    this.#parts = parts;
    this.#evaluator = new Evaluator(parts);
    this.#stages = stages;
  }

  async execute(): Promise<void> {
    const { sft } = this.#parts.options.experiment;
    const { session } = this.#parts;
    if (session.committedStep < 0) await this.#commit(0, {});
    let offset = 0;
    for (const [s, stage] of sft.stages.entries()) {
      if (session.committedStep < offset + stage.steps) {
        const records = await session.timeline.time("record", offset, () => this.#collect(s));
        await this.#train(s, offset, records);
      }
      offset += stage.steps;
    }
  }

  /** What a stage imitates. */
  async #collect(stage: number): Promise<SupervisedRecord[]> {
    const { options, session, source } = this.#parts;
    const { sft } = options.experiment;
    const { maskErrors = false, maskIrrelevant = false } = sft;
    const masks = { maskErrors, maskIrrelevant };
    const { trajectories: run, perGroup } = sft.stages[stage] as (typeof sft.stages)[number];
    const records =
      run === undefined
        ? await this.#record(stage, masks)
        : await readSolvedEpisodes(session.store, source.format, { run, perGroup, masks });
    return this.#fitting(records);
  }

  async #record(stage: number, masks: TurnMaskSettings): Promise<SupervisedRecord[]> {
    const { options, provider, source } = this.#parts;
    const { experiment, hub, signal } = options;
    const plans = this.#stages[stage] as readonly DemonstrationPlan[];
    warmUp(provider, environmentsOf(plans.map(({ task }) => task)), experiment.sandbox.warm);
    const limits = agentLimits(experiment);
    const { concurrency } = experiment.sandbox;
    const recorded = await recordDemonstrations(plans, provider, source.format, limits, concurrency, hub, signal);
    return encodeDemonstrations(recorded, source.format, masks);
  }

  #fitting(records: readonly SupervisedRecord[]): SupervisedRecord[] {
    const { experiment, hub } = this.#parts.options;
    const limit = experiment.rollout.maxEpisodeTokens;
    const fitting = records.filter(({ tokens }) => tokens.ids.length <= limit);
    if (fitting.length === 0) {
      const shortest = Math.min(...records.map(({ tokens }) => tokens.ids.length));
      throw new AleError("config", `no demonstration fits into rollout.maxEpisodeTokens = ${limit}`, {
        hint: `the shortest has ${shortest} tokens; set rollout.maxEpisodeTokens higher`,
      });
    }
    if (fitting.length < records.length) {
      const message = `${records.length - fitting.length} demonstrations are longer than ${limit} tokens and are left out`;
      hub.emit({ type: "log", level: "warn", message });
    }
    return fitting;
  }

  async #train(stageIndex: number, offset: number, records: readonly SupervisedRecord[]): Promise<void> {
    const { session, engine } = this.#parts;
    const { experiment, signal, hub } = this.#parts.options;
    const stage = experiment.sft.stages[stageIndex] as (typeof experiment.sft.stages)[number];
    const order = new DemonstrationOrder(
      records.map(({ tokens }) => tokens.ids.length),
      experiment.sft.batch,
      `${experiment.seed}/batches/${stageIndex}`,
    );
    const sums = { loss: 0, gradNorm: 0, ms: 0, steps: 0 };
    const from = Math.max(1, session.committedStep - offset + 1);
    for (let step = from; step <= stage.steps; step++) {
      signal.throwIfAborted();
      const lr = stageRate(stage, offset === 0 ? experiment.optimizer.warmupSteps : 0, step);
      const batch = order.at(step - 1).map((i) => records[i] as SupervisedRecord);
      const job = supervisedJob(experiment, batch, lr);
      const update = await session.timeline.time("update", offset + step, () => engine.update(job, offset + step));
      sums.loss += update.loss;
      sums.gradNorm += update.gradNorm;
      sums.ms += update.ms;
      sums.steps++;
      hub.emit({
        type: "progress",
        stage: `supervised stage ${stageIndex + 1}`,
        done: step,
        total: stage.steps,
        unit: "steps",
      });
      const due = step % STEPS_PER_COMMIT === 0 || step === stage.steps || evaluationDue(experiment, offset + step);
      if (!due) continue;
      await this.#commit(offset + step, {
        "sft/trained_share": trainedShare(records),
        "sft/loss": sums.loss / sums.steps,
        "actor/grad_norm": sums.gradNorm / sums.steps,
        "actor/lr": lr,
        "timing_s/update_actor": sums.ms / sums.steps / 1000,
      });
      Object.assign(sums, { loss: 0, gradNorm: 0, ms: 0, steps: 0 });
    }
  }

  /** Evaluates when due, saves and commits. */
  async #commit(step: number, metrics: Readonly<Record<string, number>>): Promise<void> {
    const { options, session, engine } = this.#parts;
    const evaluate = () => session.timeline.time("evaluate", step, () => this.#evaluator.evaluate(step));
    const evaluations = evaluationDue(options.experiment, step) ? await evaluate() : [];
    const best = bestStep([...session.evaluations, ...evaluations]);
    const engines = await engine.stats();
    await session.commit(step, engine, {
      metrics: { ...metrics, ...evaluationMetrics(evaluations), ...engineMetrics(engines) },
      engines,
      evaluations,
      keep: best === null ? [] : [best],
      checkpoint: true,
    });
  }
}

/** Share of the policy's tokens that are imitated. */
function trainedShare(records: readonly SupervisedRecord[]): number {
  const sum = (pick: (record: SupervisedRecord) => Uint8Array) =>
    records.reduce((total, record) => total + countOnes(pick(record)), 0);
  return (
    sum(({ trained_T }) => trained_T) /
    Math.max(
      1,
      sum(({ tokens }) => tokens.mask),
    )
  );
}
