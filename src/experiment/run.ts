/** `ale run`: the training loop on a suite, with everything it needs around it. */

import { AleError } from "../core/errors.ts";
import type { EvaluationSummary } from "../core/events.ts";
import type { Group, Task } from "../core/types.ts";
import { engineMetrics } from "../device/engine-metrics.ts";
import { bestStep } from "../export/summary.ts";
import { type CollectKey, collectGroups } from "../rollout/collect.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { Resampler, type ResamplingState } from "../rollout/resampling.ts";
import { loadSuite } from "../tasks/suite.ts";
import type { Collected } from "../trainer/batch.ts";
import { evaluationDue, type TrainingState, train } from "../trainer/loop.ts";
import type { PolicyJob } from "../trainer/update.ts";
import type { RunExperiment } from "./api.ts";
import { environmentsOf } from "./evaluation.ts";
import { collectOptions, Evaluator, evaluationMetrics } from "./evaluator.ts";
import { startingPolicy } from "./policy-source.ts";
import { episodeContext, suiteOptions, warmUp } from "./resources.ts";
import { executeRun, type RunParts } from "./run-parts.ts";

/** Runs or resumes a reinforcement-learning experiment. */
export const runExperiment: RunExperiment = async (options) => {
  const { experiment } = options;
  const plan = {
    algorithm: experiment.algorithm.type,
    steps: experiment.trainer.steps,
    suite: loadSuite(experiment.tasks.suite, suiteOptions(experiment)),
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
    this.#resampler = resampling && new Resampler(resampling, String(seed), state);
  }

  async execute(): Promise<void> {
    const { options, session, engine } = this.#parts;
    if (session.committedStep < 0) await this.#commit(0, await this.#evaluate(0));
    const { committedStep } = session;
    const rows = await session.store.readMetrics(session.runId, { sinceStep: committedStep - 1 });
    const { timeline } = session;
    const loop = {
      lastMetrics: rows.at(-1)?.metrics,
      lastState: session.resumedState.training as TrainingState | undefined,
      collect: (step: number) => timeline.time("collect", step, () => this.#collect(step)),
      update: (job: PolicyJob, step: number) => timeline.time("update", step, () => engine.update(job, step)),
      evaluate: (step: number) => this.#evaluate(step),
      commit: (step: number, metrics: Readonly<Record<string, number>>, training: TrainingState) =>
        this.#commit(step, metrics, training),
    };
    await train(options.experiment, session.committedStep + 1, loop, options.signal);
  }

  async #collect(step: number): Promise<Collected> {
    const { options, suite, provider, session } = this.#parts;
    const { experiment, hub } = options;
    const { groups, groupSize } = experiment.rollout;
    const sampler = suite.sampler(experiment.seed, "train");
    const tasks = Array.from({ length: groups }, (_, g) => sampler.at((step - 1) * groups + g));
    hub.emit({ type: "step.started", step, episodes: groups * groupSize });
    warmUp(provider, environmentsOf(tasks), experiment.sandbox.warm);
    await session.store.writeTasks(tasks);
    const key = { episodes: `${session.runId}/train/${step}`, noise: `${experiment.seed}/train/${step}` };
    const collected = await collectGroups(key, tasks, groupSize, this.#context, collectOptions(this.#parts, step));
    const resampled = await this.#resample(step, key, tasks, collected);
    const trajectories = [...collected, ...resampled.forks].flatMap((group) => group.trajectories);
    await session.writeEpisodes(step, "train", trajectories);
    return { groups: collected, ...resampled };
  }

  /** Tries the hard tasks of the step again from states along experts' trajectories. */
  async #resample(step: number, key: CollectKey, tasks: readonly Task[], groups: readonly Group[]) {
    if (this.#resampler === undefined) return { forks: [], imitations: [], metrics: {} };
    const options = collectOptions(this.#parts, step);
    const { groups: forks, ...rest } = await this.#resampler.resample(key, tasks, groups, this.#context, options);
    return { forks, ...rest };
  }

  #evaluate(step: number): Promise<Record<string, number>> {
    const started = performance.now();
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
    await session.commit(step, engine, {
      metrics: { ...metrics, ...engineMetrics(engines) },
      engines,
      evaluations,
      keep: best === null ? [] : [best],
      state: { training, ...(this.#resampler && { resampling: this.#resampler.state }) },
      checkpoint: step % experiment.checkpoint.every === 0 || evaluationDue(experiment, step),
    });
  }
}
