/** What happened when in a run: its own phases, its episodes' and what its engines tell; handed over step by step. */

import { clockTime, SpanRecorder, type Spans, type Track } from "../core/timeline.ts";
import type { Trajectory } from "../core/types.ts";
import { beginWait } from "../core/waits.ts";

/** Phases of a run; the `commit` of a step ends after it was handed over, so it is stored with the next. */
const RUN_PHASES = ["record", "collect", "teach", "update", "evaluate", "checkpoint", "commit"] as const;
export type RunPhase = (typeof RUN_PHASES)[number];

const EPISODE_PHASES = ["reset", "generate", "tool", "grade"] as const;
/** Spans of episodes a step may have. */
const EPISODE_SPANS = 1 << 20;

export class RunTimeline {
  readonly #enabled: boolean;
  readonly #phases = new SpanRecorder(RUN_PHASES);
  #episodes = new SpanRecorder(EPISODE_PHASES, EPISODE_SPANS);
  #rows: string[] = [];

  constructor(enabled: boolean) {
    this.#enabled = enabled;
  }

  /** Does `work` as a phase of `step`; it is listed among the waits meanwhile. */
  async time<T>(phase: RunPhase, step: number, work: () => Promise<T>): Promise<T> {
    const endWait = beginWait("run", `${phase}, step ${step}`);
    const began = clockTime();
    try {
      return await work();
    } finally {
      endWait();
      this.#phases.add(phase, began, clockTime(), step);
    }
  }

  addEpisodes(trajectories: readonly Trajectory[]): void {
    if (!this.#enabled) return;
    for (const { episodeId, spans = [] } of trajectories) {
      const row = this.#rows.push(episodeId) - 1;
      for (const { phase, begin, end } of spans) this.#episodes.add(phase, begin, end, row);
    }
  }

  /** Everything since the last call; `engines` is what each engine recorded. None where nothing is recorded. */
  take(engines: readonly (Spans | undefined)[]): Track[] {
    const phases = this.#phases.take();
    const episodes = this.#episodes.take();
    const rows = this.#rows;
    this.#rows = [];
    if (!this.#enabled) return [];
    return [
      { name: "control", spans: phases },
      { name: "episodes", rows, spans: episodes },
      ...engines.flatMap((spans, i) => (spans === undefined ? [] : [{ name: `engine/${i}`, spans }])),
    ];
  }
}
