/** `ale run`: the training loop on a suite, with everything it needs around it. */

import { AleError } from "../core/errors.ts";
import type { EvaluationSummary } from "../core/events.ts";
import { engineMetrics } from "../device/engine-metrics.ts";
import { bestStep } from "../export/summary.ts";
import { configFromHuggingFace } from "../models/config.ts";
import { trainingFlops } from "../models/flops.ts";
import { alertMetrics, trainableGroups } from "../rollout/alerts.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { batchMetrics, environmentMetrics } from "../rollout/metrics.ts";
import { Resampler, type ResamplingState } from "../rollout/resampling.ts";
import type { BatchSource, RolloutBatch } from "../rollout/rollout.ts";
import type { Collected } from "../trainer/batch.ts";
import { evaluationDue, type TrainingState, train } from "../trainer/loop.ts";
import type { PolicyJob, UpdateJob } from "../trainer/update.ts";
import type { RunExperiment } from "./api.ts";
import { environmentsOf } from "./evaluation.ts";
import { collectOptions, Evaluator, evaluationMetrics } from "./evaluator.ts";
import { OnPolicyTeacher } from "./on-policy-teacher.ts";
import { startingPolicy } from "./policy-source.ts";
import { RecordedRollout } from "./recorded-rollout.ts";
import { episodeContext, warmUp } from "./resources.ts";
import { executeRun, type RunParts } from "./run-parts.ts";
import { RunReward } from "./run-reward.ts";
import { openRollout } from "./run-rollout.ts";
import { loadTasks } from "./suites.ts";
import { TrainingTasks } from "./training-tasks.ts";
import { WarmMeter } from "./warm-meter.ts";

/** Runs or resumes a reinforcement-learning experiment. */
export const runExperiment: RunExperiment = async (options) => {
  const { experiment } = options;
  const plan = {
    algorithm: experiment.algorithm.type,
    steps: experiment.trainer.steps,
    suite: loadTasks(experiment),
    source: startingPolicy(experiment),
  };
  return executeRun(options, plan, (parts) => new ReinforcementRun(parts).execute());
};

/** What the training loop drives, on the parts of one run. */
class ReinforcementRun {
  readonly #parts: RunParts;
  readonly #evaluator: Evaluator;
  readonly #context: EpisodeContext;
  readonly #resampler: Resampler | undefined;
  readonly #tasks: TrainingTasks;
  readonly #warm: WarmMeter;
  /** Run whose recorded batches are trained on; a resumed run goes on with the same. */
  readonly #replay: string | undefined;
  #rollout: BatchSource | undefined;
  /** Step that is collected for, trained or evaluated. */
  #step = 0;
  /** Rows that become permanent with the step they belong to. */
  #evaluations: EvaluationSummary[] = [];

  constructor(parts: RunParts) {
    this.#parts = parts;
    this.#evaluator = new Evaluator(parts);
    const { temperature, topK, topP, minP, repetitionPenalty } = parts.options.experiment.rollout;
    const sampling = { temperature, topK, topP, minP, repetitionPenalty, greedy: false };
    this.#context = episodeContext(parts, sampling);
    const { resampling, seed } = parts.options.experiment;
    const state = parts.session.resumedState.resampling as ResamplingState | undefined;
    this.#tasks = TrainingTasks.open(parts);
    this.#warm = new WarmMeter(parts.provider);
    this.#replay = parts.options.replay ?? (parts.session.resumedState.replay as string | undefined);
    this.#resampler = resampling && new Resampler(resampling, String(seed), state);
  }

  async execute(): Promise<void> {
    const { options, source } = this.#parts;
    const { distillation } = options.experiment;
    // First of all: a teacher that does not fit is said before anything is collected.
    const teacher = distillation && (await OnPolicyTeacher.open(distillation, source, options));
    try {
      await this.#train(teacher);
    } finally {
      await teacher?.stop();
    }
  }

  async #train(teacher: OnPolicyTeacher | undefined): Promise<void> {
    const { options, session, engine, source } = this.#parts;
    const rollout =
      this.#replay === undefined
        ? await openRollout(this.#parts, this.#tasks, this.#context, () => this.#step)
        : await RecordedRollout.open(this.#parts, this.#replay);
    this.#rollout = rollout;
    await using reward = await RunReward.open(this.#parts, this.#replay !== undefined);
    if (session.committedStep < 0) await this.#commit(0, await this.#evaluate(0));
    const { committedStep } = session;
    const rows = await session.store.readMetrics(session.runId, { sinceStep: committedStep - 1 });
    const { timeline } = session;
    const model = configFromHuggingFace(source.modelConfig, "the model");
    const loop = {
      lastMetrics: rows.at(-1)?.metrics,
      lastState: session.resumedState.training as TrainingState | undefined,
      collect: (step: number) =>
        timeline.time("collect", step, async () => reward.shape(await this.#collect(rollout, step))),
      teach: teacher && ((job: PolicyJob, step: number) => timeline.time("teach", step, () => teacher.teach(job))),
      update: (job: UpdateJob, step: number) => timeline.time("update", step, () => engine.update(job, step)),
      flops: (lengths: readonly number[]) => trainingFlops(model, lengths, source.lora !== undefined),
      evaluate: (step: number) => this.#evaluate(step),
      commit: (step: number, metrics: Readonly<Record<string, number>>, training: TrainingState) =>
        this.#commit(step, metrics, training),
    };
    try {
      await train(options.experiment, session.committedStep + 1, loop, AbortSignal.any([options.signal, options.stop]));
    } finally {
      await rollout.stop();
    }
  }

  async #collect(rollout: BatchSource, step: number): Promise<Collected> {
    const { options, provider, session, engine } = this.#parts;
    const { experiment, hub } = options;
    const { groups, groupSize } = experiment.rollout;
    this.#step = step;
    hub.emit({ type: "step.started", step, episodes: groups * groupSize });
    const next = Array.from({ length: groups }, (_, group) => this.#tasks.of({ group, episode: step - 1 }));
    warmUp(provider, environmentsOf(next), experiment.sandbox.warm);
    const batch = await rollout.collect(step);
    const trained = { ...batch, groups: trainableGroups(batch.groups, experiment.guards) };
    const resampled = await this.#resample(step, trained);
    this.#tasks.note(trained);
    await session.store.writeTasks(batch.tasks);
    const all = [...batch.groups, ...resampled.forks];
    const trajectories = all.flatMap((group) => group.trajectories);
    await session.writeEpisodes(step, "train", trajectories);
    const metrics = {
      ...batchMetrics(batch, engine.version),
      ...environmentMetrics(trajectories, resampled.replayed),
      ...resampled.metrics,
      ...this.#tasks.metrics(),
      ...alertMetrics(all, experiment.guards),
    };
    return {
      ...resampled,
      groups: trained.groups,
      forks: trainableGroups(resampled.forks, experiment.guards),
      metrics,
    };
  }

  /** Tries the hard tasks of the step again from states along experts' trajectories. */
  async #resample(step: number, { tasks, groups }: RolloutBatch) {
    if (this.#resampler === undefined) return { forks: [], imitations: [], replayed: 0, metrics: {} };
    const { options, session } = this.#parts;
    const key = { episodes: `${session.runId}/train/${step}`, noise: `${options.experiment.seed}/train/${step}` };
    const how = collectOptions(this.#parts, () => step);
    const { groups: forks, ...rest } = await this.#resampler.resample(key, tasks, groups, this.#context, how);
    return { forks, ...rest };
  }

  #evaluate(step: number): Promise<Record<string, number>> {
    const started = performance.now();
    this.#step = step;
    return this.#parts.session.timeline.time("evaluate", step, async () => {
      this.#evaluations = await this.#evaluator.evaluate(step);
      return {
        ...evaluationMetrics(this.#evaluations),
        ...(await this.#evaluator.probeParity()),
        "timing_s/testing": (performance.now() - started) / 1000,
      };
    });
  }

  async #commit(step: number, metrics: Readonly<Record<string, number>>, training: TrainingState = {}): Promise<void> {
    const { options, session, engine } = this.#parts;
    const { experiment } = options;
    if (step > 0 && metrics["actor/updates"] !== 0 && engine.version !== step) {
      throw new AleError("internal", `step ${step} was about to be committed with weight version ${engine.version}`);
    }
    const evaluations = this.#evaluations;
    this.#evaluations = [];
    const best = bestStep([...session.evaluations, ...evaluations]);
    const engines = await engine.stats();
    const ahead = this.#rollout?.state();
    await session.commit(step, engine, {
      metrics: { ...metrics, ...engineMetrics(engines, metrics["perf/throughput"]), ...this.#warm.read() },
      engines,
      evaluations,
      keep: best === null ? [] : [best],
      state: {
        training,
        ...(this.#replay !== undefined && { replay: this.#replay }),
        ...(this.#resampler && { resampling: this.#resampler.state }),
        ...(ahead && { rollout: ahead.state, tasks: this.#tasks.state(ahead.state) }),
      },
      ...(ahead && { pending: ahead.done }),
      checkpoint: step % experiment.checkpoint.every === 0 || evaluationDue(experiment, step),
    });
  }
}
