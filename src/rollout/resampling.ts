/**
 * Chunk-level initialised resampling: hard tasks are tried again from states along an expert's trajectory, so that the part
 * that fails is met often (IPA, arXiv 2512.24873, section 3.2.4). Sandboxes are forked at the expert's turns; the schedule is
 * `algorithms/initialised-resampling.ts`.
 */

import {
  chooseAnchors,
  isHardTask,
  type RollbackState,
  reportAnchors,
  rollBack,
  startRollback,
} from "../algorithms/initialised-resampling.ts";
import { mean } from "../algorithms/statistics.ts";
import type { ResamplingConfig } from "../config/resampling.ts";
import { AleError } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";
import type { Group, Task, TokenRecord } from "../core/types.ts";
import { type CollectKey, type CollectOptions, collectEpisodes } from "./collect.ts";
import type { EpisodeContext } from "./episode.ts";
import { chooseExpert, type ReplayedExpert, releaseSnapshots, replayExpert, tokensBefore } from "./expert.ts";

/** What has to survive the process for a resumed run to go on in the same way; plain JSON. */
export interface ResamplingState {
  /** Per family: outcomes of the last episodes from scratch. */
  readonly outcomes: Readonly<Record<string, readonly number[]>>;
  /** Per family, in sequential mode: where the anchor is. */
  readonly rollbacks: Readonly<Record<string, RollbackState & { readonly chunks: number }>>;
}

export interface Resampled {
  /** One group per task and anchor. */
  readonly groups: readonly Group[];
  /** What to imitate: an expert's tokens, and how many of its chunks from the first. */
  readonly imitations: readonly { readonly tokens: TokenRecord; readonly chunks: number }[];
  /** Commands executed to reach the experts' states. */
  readonly replayed: number;
  readonly metrics: Readonly<Record<string, number>>;
}

/** Share of successes at an anchor below which sequential rollback goes back towards the end. */
const RETREAT_BELOW = 0.1;

/** A success for the purpose of scheduling. */
const succeeded = (reward: number): number => (reward >= 1 ? 1 : 0);

export class Resampler {
  readonly #settings: ResamplingConfig;
  readonly #seed: string;
  readonly #outcomes: Map<string, readonly number[]>;
  readonly #rollbacks: Map<string, RollbackState & { readonly chunks: number }>;

  constructor(settings: ResamplingConfig, seed: string, state?: ResamplingState) {
    this.#settings = settings;
    this.#seed = seed;
    this.#outcomes = new Map(Object.entries(state?.outcomes ?? {}));
    this.#rollbacks = new Map(Object.entries(state?.rollbacks ?? {}));
  }

  get state(): ResamplingState {
    return { outcomes: Object.fromEntries(this.#outcomes), rollbacks: Object.fromEntries(this.#rollbacks) };
  }

  /** Notes what the step's episodes from scratch gave, and tries its hard tasks again from experts' states. */
  async resample(
    key: CollectKey,
    tasks: readonly Task[],
    groups: readonly Group[],
    context: EpisodeContext,
    options: CollectOptions,
  ): Promise<Resampled> {
    for (const [i, task] of tasks.entries()) this.#note(task.family, groups[i] as Group);
    const { window, passAtMost, tasks: atMost } = this.#settings;
    const hard = tasks
      .map((task, index) => ({ task, group: groups[index] as Group, index }))
      .filter(({ task }) => isHardTask(this.#outcomes.get(task.family) ?? [], window, passAtMost))
      .slice(0, atMost);
    const results = await Promise.all(
      hard.map(({ task, group, index }) => {
        const forked = { episodes: `${key.episodes}/${index}`, noise: `${key.noise}/${index}` };
        return this.#resampleTask(forked, task, group, context, options);
      }),
    );
    const done = results.filter((result) => result !== undefined);
    const without = hard.length - done.length;
    const outcomes = done.flatMap((result) => result.groups.flatMap(outcomesOf));
    const prefixes = done.flatMap(({ anchors }) => anchors.map((anchor) => anchor - 1));
    return {
      groups: done.flatMap((result) => result.groups),
      imitations: done.flatMap((result) => result.imitation ?? []),
      replayed: done.reduce((sum, { replayed }) => sum + replayed, 0),
      metrics: {
        "resampling/tasks": done.length,
        "resampling/without_expert": without,
        "resampling/episodes": outcomes.length,
        "resampling/score/mean": mean(outcomes),
        // 0 once no task needs an expert any more
        "resampling/expert_chunks": prefixes.length === 0 ? 0 : mean(prefixes),
        "resampling/crucial_chunks": done.reduce((sum, result) => sum + result.crucial, 0),
      },
    };
  }

  #note(family: string, group: Group): void {
    const all = [...(this.#outcomes.get(family) ?? []), ...outcomesOf(group)];
    this.#outcomes.set(family, all.slice(-this.#settings.window));
  }

  async #resampleTask(key: CollectKey, task: Task, group: Group, context: EpisodeContext, options: CollectOptions) {
    const expert = chooseExpert(task, group);
    if (expert === undefined) return undefined;
    const anchors = this.#anchorsFor(task, expert.commands.length + 1, key.noise);
    if (anchors.length === 0) return undefined;
    const replayed = await replayExpert(task, expert, anchors, context).catch((error) => {
      context.signal.throwIfAborted();
      if (error instanceof AleError && error.code === "sandbox") return undefined; // one task less, as an episode would be
      throw error;
    });
    if (replayed === undefined) return undefined;
    try {
      const forked = await Promise.all(
        anchors.map((anchor) => this.#episodesFrom(key, task, replayed, anchor, context, options)),
      );
      const crucial = this.#judge(task, group, anchors, forked, replayed.chunks);
      const last = Math.max(0, ...crucial);
      const imitation =
        last > 0 && this.#settings.imitation > 0 ? { tokens: replayed.tokens, chunks: last } : undefined;
      return { groups: forked, imitation, crucial: crucial.length, anchors, replayed: replayed.chunks - 1 };
    } finally {
      await releaseSnapshots(replayed.snapshots);
    }
  }

  /** Anchor 1, an episode from scratch, is what the step's own group is, so it is never among them. */
  #anchorsFor(task: Task, chunks: number, noise: string): number[] {
    const { mode, anchors, spacing } = this.#settings;
    if (mode === "sequential") {
      const state = this.#rollbacks.get(task.family);
      // Instances differ in length; the distance from the end is what they share.
      const fromEnd = state === undefined ? 0 : state.chunks - state.anchor;
      const anchor = chunks - fromEnd;
      return anchor > 1 ? [anchor] : [];
    }
    const rng = new Rng(`${this.#seed}/anchors/${noise}`);
    const uniforms = spacing === "random" ? Array.from({ length: anchors }, () => rng.next()) : undefined;
    return chooseAnchors(chunks, anchors + 1, uniforms && [...uniforms, rng.next()])
      .filter((anchor) => anchor > 1)
      .slice(-anchors);
  }

  async #episodesFrom(
    key: CollectKey,
    task: Task,
    expert: ReplayedExpert,
    anchor: number,
    context: EpisodeContext,
    options: CollectOptions,
  ): Promise<Group> {
    const snapshot = expert.snapshots.get(anchor);
    if (snapshot === undefined) throw new AleError("internal", `there is no snapshot before chunk ${anchor}`);
    const fork = { anchor, chunks: expert.chunks, expert: expert.source };
    const start = { snapshot, context: tokensBefore(expert.tokens, anchor), fork };
    const forked = { episodes: `${key.episodes}/anchor-${anchor}`, noise: `${key.noise}/anchor-${anchor}` };
    return collectEpisodes(forked, task, this.#settings.episodes, context, { ...options, start });
  }

  /** Chunks found to be crucial; in sequential mode the anchor moves as well. */
  #judge(task: Task, scratch: Group, anchors: readonly number[], forked: readonly Group[], chunks: number): number[] {
    const { mode, window, advanceAt, drop, retreatAfter } = this.#settings;
    const outcomes = forked.map(outcomesOf);
    if (mode === "parallel") {
      const all = reportAnchors([1, ...anchors], [outcomesOf(scratch), ...outcomes], chunks, drop);
      return all.crucialIntervals.map(([, last]) => last);
    }
    const before = this.#rollbacks.get(task.family) ?? { ...startRollback(chunks), chunks };
    const retreat = { after: retreatAfter, below: RETREAT_BELOW, chunks: before.chunks };
    const { state, step } = rollBack(before, outcomes[0] ?? [], { window, advanceAt, drop, retreat });
    this.#rollbacks.set(task.family, { ...state, anchor: Math.max(1, state.anchor), chunks: before.chunks });
    if (step.action !== "crucial" && step.action !== "retreat") return [];
    return [Math.max(1, chunks - (before.chunks - step.anchor))];
  }
}

function outcomesOf(group: Group): number[] {
  return group.trajectories.map(({ reward }) => succeeded(reward));
}
