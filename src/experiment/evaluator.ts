/** Evaluates the published weights of a run on its development and held-out instances, and probes the engine's parity. */

import { AleError } from "../core/errors.ts";
import type { EvaluationSummary } from "../core/events.ts";
import type { Trajectory } from "../core/types.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { environmentsOf, evaluateTasks, evaluationTasks } from "./evaluation.ts";
import { episodeContext, warmUp } from "./resources.ts";
import type { RunParts } from "./run-parts.ts";

/** Sequences of an evaluation that the parity probe replays. */
const PROBE_SEQUENCES = 16;

export class Evaluator {
  readonly #parts: RunParts;
  readonly #sampled: EpisodeContext;
  readonly #greedy: EpisodeContext;
  #sequences: readonly Int32Array[] = [];

  constructor(parts: RunParts) {
    this.#parts = parts;
    this.#sampled = episodeContext(parts, { temperature: 1, greedy: false });
    this.#greedy = episodeContext(parts, { temperature: 1, greedy: true });
  }

  /** Stores the episodes and returns the rows; they become part of the commit of `step`. */
  async evaluate(step: number): Promise<EvaluationSummary[]> {
    const { dev, heldout, greedy } = this.#parts.options.experiment.evaluation;
    const rows: EvaluationSummary[] = [];
    if (dev > 0) rows.push(await this.#evaluateOn(step, "dev", dev, this.#sampled));
    if (heldout > 0) rows.push(await this.#evaluateOn(step, "heldout", heldout, this.#sampled));
    if (heldout > 0 && greedy) rows.push(await this.#evaluateOn(step, "heldout", heldout, this.#greedy));
    return rows;
  }

  /**
   * Teacher-forces sequences of the last evaluation through the generation graphs in every layout (padded batch, chunked
   * prefill, swapped rows, another finishing order) and compares with training (DESIGN D4). Returns the largest |Δ log p|.
   * Throws `AleError("engine")` above `trainer.parityLimit`.
   */
  async probeParity(): Promise<number> {
    const { options, engine } = this.#parts;
    if (this.#sequences.length === 0) return 0;
    const difference = await engine.probeParity(this.#sequences);
    const { parityLimit } = options.experiment.trainer;
    if (parityLimit > 0 && !(difference <= parityLimit)) {
      throw new AleError(
        "engine",
        `the parity probe found max |Δ log p| = ${difference.toExponential(2)} > ${parityLimit}`,
        {
          hint: "this is a fault of the engine, not of the run; report it, or raise trainer.parityLimit to go on",
        },
      );
    }
    return difference;
  }

  async #evaluateOn(
    step: number,
    split: "dev" | "heldout",
    count: number,
    context: EpisodeContext,
  ): Promise<EvaluationSummary> {
    const { options, suite, provider, session } = this.#parts;
    const { experiment, hub } = options;
    const { greedy } = context.sampling;
    const tasks = evaluationTasks(suite, split, count);
    hub.emit({ type: "evaluation.started", step, split, greedy, episodes: tasks.length });
    warmUp(provider, environmentsOf(tasks), experiment.sandbox.warm);
    await session.store.writeTasks(tasks);
    const name = `${split}/${greedy ? "greedy" : "sampled"}`;
    const key = {
      episodes: `${session.runId}/eval/${step}/${name}`,
      noise: `${experiment.seed}/eval/${step}/${name}`,
    };
    const { row, trajectories } = await evaluateTasks(step, key, tasks, context, collectOptions(this.#parts, step));
    await session.writeEpisodes(step, greedy ? "greedy" : "eval", trajectories);
    const sequences = trajectories.map(({ tokens }) => tokens.ids).filter(({ length }) => length > 1);
    this.#sequences = sequences.slice(0, PROBE_SEQUENCES);
    hub.emit({ type: "evaluation.finished", ...row });
    return row;
  }
}

/** Concurrency of a run's episodes, and the event each of them ends with. */
export function collectOptions({ options }: RunParts, step: number) {
  return {
    concurrency: options.experiment.rollout.concurrency,
    onEpisode: (trajectory: Trajectory) =>
      options.hub.emit({
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

/** `val/heldout/sampled/mean` and its siblings, for the step's metrics. */
export function evaluationMetrics(rows: readonly EvaluationSummary[]): Record<string, number> {
  return Object.fromEntries(
    rows.map(({ split, greedy, rate }) => [`val/${split}/${greedy ? "greedy" : "sampled"}/mean`, rate]),
  );
}
