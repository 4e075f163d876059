/**
 * `ale sft`: stages that imitate demonstrations recorded in sandboxes, the solved episodes of a run or the policy's own, that
 * prefer solved episodes to failures, or that learn from a teacher.
 */

import { compactFormat } from "../agent/compact-format.ts";
import { mean } from "../algorithms/statistics.ts";
import { isAddress } from "../config/distillation.ts";
import type { Experiment, SftStage } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import { engineMetrics } from "../device/engine-metrics.ts";
import { bestStep } from "../export/summary.ts";
import { configFromHuggingFace } from "../models/config.ts";
import type { Suite } from "../tasks/suite.ts";
import { DemonstrationOrder, stageRate } from "../trainer/supervised.ts";
import type { SupervisedRecord, TurnMaskSettings } from "../trainer/turn-masks.ts";
import type { UpdateResult } from "../trainer/update.ts";
import type { RunExperiment, RunOptions } from "./api.ts";
import {
  type DemonstrationPlan,
  encodeDemonstrations,
  learnTokenizer,
  planDemonstrations,
  recordDemonstrations,
} from "./demonstrations.ts";
import { distillationExamples } from "./distill-stage.ts";
import { environmentsOf } from "./evaluation.ts";
import { Evaluator, evaluationMetrics } from "./evaluator.ts";
import { type PolicySource, policyFromFolder, presetConfig, startingPolicy } from "./policy-source.ts";
import { agentLimits, warmUp } from "./resources.ts";
import { planRevisit } from "./revisit-stage.ts";
import { executeRun, type RunParts } from "./run-parts.ts";
import { imitationExamples, preferenceExamples, type StageExamples } from "./stage-examples.ts";
import { readAllEpisodes, readPreferencePairs, readSolvedEpisodes } from "./stored-episodes.ts";
import { loadTasks } from "./suites.ts";

/** Steps whose mean is one row of metrics. */
const STEPS_PER_COMMIT = 20;

/** Runs or resumes a supervised experiment. The demonstrations are functions of the seed, so a resumed run records the same. */
export const runSft: RunExperiment = async (options) => {
  const { experiment } = options;
  const suite = loadTasks(experiment);
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
    if (stage.trajectories !== undefined || stage.revisit !== undefined) return [];
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
  const teacher = sft.stages.find((stage) => stage.teacher !== undefined && !isAddress(stage.teacher))?.teacher;
  if (teacher !== undefined) return studentOf(teacher, options.experiment);
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

/** Random weights of a preset, with the tokenizer of the teacher. */
function studentOf(teacher: string, { model, seed }: Experiment): PolicySource {
  const { modelConfig, tokenizer, format, textFiles } = policyFromFolder(teacher);
  const { vocabularySize } = configFromHuggingFace(modelConfig, `${teacher}/config.json`);
  const weights = { kind: "random", seed } as const;
  return { modelConfig: presetConfig(model.preset, vocabularySize), tokenizer, format, textFiles, weights };
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
        const examples = await session.timeline.time("record", offset, () => this.#collect(s, offset));
        await this.#train(s, offset, examples);
      }
      offset += stage.steps;
    }
  }

  /** What a stage learns from. */
  async #collect(number: number, offset: number): Promise<StageExamples> {
    const { options, session, source } = this.#parts;
    const { experiment, hub } = options;
    const stage = experiment.sft.stages[number] as SftStage;
    const { trajectories: run, perGroup, objective = "sft" } = stage;
    if (run !== undefined && (objective === "dpo" || objective === "ipo")) {
      const pairs = await readPreferencePairs(session.store, source.format, { run, perGroup });
      return preferenceExamples(experiment, stage, pairs, hub);
    }
    const { records, metrics } = await this.#records(number, offset);
    const examples =
      objective === "distill"
        ? await distillationExamples(this.#parts, stage, records)
        : imitationExamples(experiment, records, hub);
    return { ...examples, metrics: { ...examples.metrics, ...metrics } };
  }

  /** Sequences to imitate, or to ask a teacher about. */
  async #records(
    number: number,
    offset: number,
  ): Promise<{ readonly records: readonly SupervisedRecord[]; readonly metrics?: Readonly<Record<string, number>> }> {
    const { options, session, source } = this.#parts;
    const { maskErrors = false, maskIrrelevant = false, stages } = options.experiment.sft;
    const masks = { maskErrors, maskIrrelevant };
    const stage = stages[number] as SftStage;
    const { trajectories: run, perGroup, episodes = "solved", revisit } = stage;
    if (run !== undefined) {
      const read = episodes === "all" ? readAllEpisodes : readSolvedEpisodes;
      return { records: await read(session.store, source.format, { run, perGroup, masks }) };
    }
    if (revisit === undefined) {
      return { records: await this.#record(this.#stages[number] as readonly DemonstrationPlan[], masks) };
    }
    const plan = await planRevisit(this.#parts, { stage: { ...stage, revisit }, number, offset }, masks);
    return { records: [...plan.own, ...(await this.#record(plan.demonstrations, masks))], metrics: plan.metrics };
  }

  async #record(plans: readonly DemonstrationPlan[], masks: TurnMaskSettings): Promise<SupervisedRecord[]> {
    if (plans.length === 0) return [];
    const { options, provider, source } = this.#parts;
    const { experiment, hub } = options;
    // a resumed run records them again, so there is nothing to finish
    const signal = AbortSignal.any([options.signal, options.stop]);
    warmUp(provider, environmentsOf(plans.map(({ task }) => task)), experiment.sandbox.warm);
    const limits = agentLimits(experiment);
    const { concurrency } = experiment.sandbox;
    const recorded = await recordDemonstrations(plans, provider, source.format, limits, concurrency, hub, signal);
    return encodeDemonstrations(recorded, source.format, masks);
  }

  async #train(stageIndex: number, offset: number, examples: StageExamples): Promise<void> {
    const { session, engine } = this.#parts;
    const { experiment, signal, stop, hub } = this.#parts.options;
    const stage = experiment.sft.stages[stageIndex] as SftStage;
    const order = new DemonstrationOrder(
      examples.lengths,
      experiment.sft.batch,
      `${experiment.seed}/batches/${stageIndex}`,
    );
    let updates: UpdateResult[] = [];
    const from = Math.max(1, session.committedStep - offset + 1);
    for (let step = from; step <= stage.steps; step++) {
      signal.throwIfAborted();
      const lr = stageRate(stage, offset === 0 ? experiment.optimizer.warmupSteps : 0, step);
      const job = examples.job(order.at(step - 1), lr);
      updates.push(await session.timeline.time("update", offset + step, () => engine.update(job, offset + step)));
      hub.emit({
        type: "progress",
        stage: `supervised stage ${stageIndex + 1}`,
        done: step,
        total: stage.steps,
        unit: "steps",
      });
      const due = step % STEPS_PER_COMMIT === 0 || step === stage.steps || evaluationDue(experiment, offset + step);
      if (!due) continue;
      const metrics = { ...examples.metrics, ...meanMetrics(updates, stage.objective ?? "sft"), "actor/lr": lr };
      await this.#commit(offset + step, metrics);
      updates = [];
      stop.throwIfAborted();
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

/** Means over some steps. */
function meanMetrics(updates: readonly UpdateResult[], objective: string): Record<string, number> {
  const over = (pick: (update: UpdateResult) => number | undefined) => mean(updates.map((update) => pick(update) ?? 0));
  const names = Object.keys(updates[0]?.metrics ?? {});
  return {
    [`${objective}/loss`]: over(({ loss }) => loss),
    ...Object.fromEntries(names.map((name) => [name, over(({ metrics }) => metrics[name])])),
    "actor/grad_norm": over(({ gradNorm }) => gradNorm),
    "timing_s/update_actor": over(({ ms }) => ms / 1000),
  };
}
