/** `ale run`: wires suite, sandboxes, policy, engine, store, service and results around the training loop. */

import { AleError, errorMessage } from "../core/errors.ts";
import type { EvaluationSummary } from "../core/events.ts";
import type { SandboxProvider } from "../core/ports.ts";
import type { Group, Task, Trajectory } from "../core/types.ts";
import type { EngineClient } from "../device/engine-client.ts";
import { collectGroups } from "../rollout/collect.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { loadSuite, type Suite } from "../tasks/suite.ts";
import { evaluationDue, train } from "../trainer/loop.ts";
import type { RunExperiment, RunOptions, RunResult } from "./api.ts";
import { environmentsOf, evaluateTasks, evaluationTasks } from "./evaluation.ts";
import { type PolicySource, startingPolicy } from "./policy-source.ts";
import { episodeContext, openSandboxes, startEngine, warmUp } from "./resources.ts";
import { bestStep, writeResults } from "./results.ts";
import { RunSession } from "./run-session.ts";
import { startService } from "./service.ts";

/** Runs or resumes a reinforcement-learning experiment; always leaves the run directory with what was reached. */
export const runExperiment: RunExperiment = async (options) => {
  const { experiment, hub, signal } = options;
  const suite = loadSuite(experiment.tasks.suite, familiesOf(options));
  const source = startingPolicy(experiment);
  await using provider = await openSandboxes(experiment.tasks.suite);
  await using session = await RunSession.open(options, {
    algorithm: experiment.algorithm.type,
    steps: experiment.trainer.steps,
    isolation: provider.isolation,
    extras: new Map([["tokenizer.json", source.tokenizerText]]),
  });
  await using _service = await startService(options, session.store);
  try {
    const weights = weightsOf(session, source);
    const engine = await startEngine(experiment, source.modelConfig, weights, options.outDir, hub);
    try {
      await new ReinforcementRun(options, suite, source, provider, session, engine).execute();
    } finally {
      await engine.stop();
    }
    return await conclude(options, session, "finished");
  } catch (error) {
    if (signal.aborted) return await conclude(options, session, "interrupted");
    await conclude(options, session, "failed", errorMessage(error));
    throw error;
  }
};

/** Where the engine's weights come from: the checkpoint of a resumed run, or the policy the experiment names. */
export function weightsOf(session: RunSession, source: PolicySource) {
  const { resumedFrom } = session;
  if (resumedFrom === undefined) return source.weights;
  return { kind: "checkpoint", folder: resumedFrom.folder, version: resumedFrom.step } as const;
}

/** Writes the results, whatever was reached, and ends the run in the store. */
export async function conclude(
  options: RunOptions,
  session: RunSession,
  status: RunResult["status"],
  reason?: string,
): Promise<RunResult> {
  const summaryPath = await writeResults(options, session, status);
  await session.end(status, reason);
  return { runId: session.runId, outDir: options.outDir, status, summaryPath };
}

function familiesOf(options: RunOptions): { readonly families?: readonly string[] } {
  const { families } = options.experiment.tasks;
  return families === undefined ? {} : { families };
}

/** The parts of one run that the training loop drives. */
class ReinforcementRun {
  readonly #options: RunOptions;
  readonly #suite: Suite;
  readonly #session: RunSession;
  readonly #engine: EngineClient;
  readonly #provider: SandboxProvider;
  readonly #sampled: EpisodeContext;
  readonly #evaluated: EpisodeContext;
  readonly #greedy: EpisodeContext;
  #pending: EvaluationSummary[] = [];

  constructor(
    options: RunOptions,
    suite: Suite,
    source: PolicySource,
    provider: SandboxProvider,
    session: RunSession,
    engine: EngineClient,
  ) {
    this.#options = options;
    this.#suite = suite;
    this.#session = session;
    this.#engine = engine;
    this.#provider = provider;
    const { experiment, hub, signal } = options;
    const parts = { policy: engine, provider, tokenizer: source.tokenizer, hub, signal };
    this.#sampled = episodeContext(experiment, parts, { temperature: experiment.rollout.temperature, greedy: false });
    this.#evaluated = episodeContext(experiment, parts, { temperature: 1, greedy: false });
    this.#greedy = episodeContext(experiment, parts, { temperature: 1, greedy: true });
  }

  async execute(): Promise<void> {
    const { experiment, signal } = this.#options;
    if (this.#session.committedStep < 0) {
      const metrics = await this.#evaluate(0);
      await this.#commit(0, metrics);
    }
    const first = this.#session.committedStep + 1;
    await train(
      experiment,
      first,
      {
        collect: (step) => this.#collect(step),
        update: (job, step) => this.#engine.update(job, step),
        evaluate: (step) => this.#evaluate(step),
        commit: (step, metrics) => this.#commit(step, metrics),
      },
      signal,
    );
  }

  async #collect(step: number): Promise<Group[]> {
    const { experiment, hub } = this.#options;
    const { groups, groupSize } = experiment.rollout;
    const sampler = this.#suite.sampler(experiment.seed, "train");
    const tasks = Array.from({ length: groups }, (_, g) => sampler.at((step - 1) * groups + g));
    hub.emit({ type: "step.started", step, episodes: groups * groupSize });
    await this.#prepare(tasks);
    const key = {
      episodes: `${this.#session.runId}/train/${step}`,
      noise: `${experiment.seed}/train/${step}`,
    };
    const collected = await collectGroups(key, tasks, groupSize, this.#sampled, this.#collectOptions(step));
    await this.#session.writeEpisodes(
      step,
      "train",
      collected.flatMap((group) => group.trajectories),
    );
    return collected;
  }

  /** Development and held-out success of the published weights; kept until the step is committed. */
  async #evaluate(step: number): Promise<Record<string, number>> {
    const { dev, heldout, greedy } = this.#options.experiment.evaluation;
    const started = performance.now();
    const heldoutTasks = evaluationTasks(this.#suite, "heldout", heldout);
    const rows = [
      await this.#evaluateOn(step, evaluationTasks(this.#suite, "dev", dev), this.#evaluated),
      await this.#evaluateOn(step, heldoutTasks, this.#evaluated),
      greedy ? await this.#evaluateOn(step, heldoutTasks, this.#greedy) : undefined,
    ];
    this.#pending = rows.filter((row) => row !== undefined);
    const metrics: Record<string, number> = { "timing_s/testing": (performance.now() - started) / 1000 };
    for (const row of this.#pending) metrics[`val/${row.split}/${row.greedy ? "greedy" : "sampled"}/mean`] = row.rate;
    return metrics;
  }

  async #evaluateOn(
    step: number,
    tasks: readonly Task[],
    context: EpisodeContext,
  ): Promise<EvaluationSummary | undefined> {
    const split = tasks[0]?.split;
    if (split === undefined) return undefined;
    const { experiment, hub } = this.#options;
    const { greedy } = context.sampling;
    hub.emit({ type: "evaluation.started", step, split, greedy, episodes: tasks.length });
    await this.#prepare(tasks);
    const name = `${split}/${greedy ? "greedy" : "sampled"}`;
    const { row, trajectories } = await evaluateTasks(
      step,
      {
        episodes: `${this.#session.runId}/eval/${step}/${name}`,
        noise: `${experiment.seed}/eval/${step}/${name}`,
      },
      tasks,
      context,
      this.#collectOptions(step),
    );
    await this.#session.writeEpisodes(step, greedy ? "greedy" : "eval", trajectories);
    hub.emit({ type: "evaluation.finished", ...row });
    return row;
  }

  /** Records the tasks and asks for warm sandboxes of their environments. */
  async #prepare(tasks: readonly Task[]): Promise<void> {
    warmUp(this.#provider, environmentsOf(tasks), this.#options.experiment.sandbox.warm);
    await this.#session.store.writeTasks(tasks);
  }

  #collectOptions(step: number) {
    const { hub, experiment } = this.#options;
    return {
      concurrency: experiment.rollout.concurrency,
      onEpisode: (trajectory: Trajectory) =>
        hub.emit({
          type: "episode.finished",
          episodeId: trajectory.episodeId,
          step,
          family: trajectory.family,
          split: trajectory.split,
          reward: trajectory.reward,
          stopReason: trajectory.stopReason,
          turns: trajectory.turns.length,
          tokens: trajectory.tokens.ids.length,
          ms: Date.now() - trajectory.startedAt,
        }),
    };
  }

  async #commit(step: number, metrics: Readonly<Record<string, number>>): Promise<void> {
    const { experiment } = this.#options;
    const evaluations = this.#pending;
    this.#pending = [];
    const best = bestStep([...this.#session.evaluations, ...evaluations]);
    const due = step % experiment.checkpoint.every === 0 || evaluationDue(experiment, step);
    if (this.#engine.version !== step && step > 0 && metrics["actor/updates"] !== 0) {
      throw new AleError(
        "internal",
        `step ${step} is about to be committed with weight version ${this.#engine.version}`,
      );
    }
    await this.#session.commit(step, this.#engine, metrics, evaluations, best === undefined ? [] : [best], due);
  }
}
