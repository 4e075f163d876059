/** Evaluates the published weights of a run on its development and held-out instances, and probes the engine's parity. */

import type { EvaluationSummary } from "../core/events.ts";
import type { Trajectory } from "../core/types.ts";
import type { EpisodeContext } from "../rollout/episode.ts";
import { parityLimits } from "../trainer/batch.ts";
import { checkParity } from "../trainer/mismatch.ts";
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
   * Teacher-forces sequences of the last evaluation through the generation graphs in every layout of the work and compares
   * with training (DESIGN D4). Returns metrics. Throws `AleError("engine")` above one of the parity limits.
   */
  async probeParity(): Promise<Record<string, number>> {
    const { options, engine } = this.#parts;
    if (this.#sequences.length === 0) return {};
    const report = await engine.probeParity(this.#sequences);
    for (const [layout, summary] of Object.entries(report.layouts)) {
      checkParity(summary, parityLimits(options.experiment), `parity probe, ${layout}`);
    }
    const layouts = Object.entries(report.layouts).map(([name, { max }]) => [
      `rollout_corr/probe/${name}/abs_diff_max`,
      max,
    ]);
    return {
      "rollout_corr/probe_abs_diff_max": report.max,
      "rollout_corr/probe_abs_diff_mean": report.mean,
      "rollout_corr/probe_kl": report.kl,
      ...Object.fromEntries(layouts),
    };
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
    const how = collectOptions(this.#parts, () => step);
    const { row, trajectories } = await evaluateTasks(step, key, tasks, context, how);
    await session.writeEpisodes(step, greedy ? "greedy" : "eval", trajectories);
    const sequences = trajectories.map(({ tokens }) => tokens.ids).filter(({ length }) => length > 1);
    this.#sequences = sequences.slice(0, PROBE_SEQUENCES);
    hub.emit({ type: "evaluation.finished", ...row });
    return row;
  }
}

/** Concurrency of a run's episodes, and the event each of them ends with; `stepOf` is the step it happens at. */
export function collectOptions({ options, limiter }: RunParts, stepOf: () => number) {
  return {
    limiter,
    retries: options.experiment.rollout.retries,
    onEpisode: (trajectory: Trajectory) => {
      const { episodeId, alerts = [] } = trajectory;
      for (const { kind, action, turn, evidence } of alerts) {
        options.hub.emit({ type: "guard.alert", step: stepOf(), episodeId, kind, action, turn, evidence });
      }
      options.hub.emit({
        type: "episode.finished",
        episodeId: trajectory.episodeId,
        step: stepOf(),
        family: trajectory.family,
        split: trajectory.split,
        reward: trajectory.reward,
        stopReason: trajectory.stopReason,
        turns: trajectory.turns.length,
        tokens: trajectory.tokens.ids.length,
        ms: Date.now() - trajectory.startedAt,
      });
    },
  };
}

/** `val/heldout/sampled/mean` and its siblings, for the step's metrics. */
export function evaluationMetrics(rows: readonly EvaluationSummary[]): Record<string, number> {
  return Object.fromEntries(
    rows.map(({ split, greedy, rate }) => [`val/${split}/${greedy ? "greedy" : "sampled"}/mean`, rate]),
  );
}
