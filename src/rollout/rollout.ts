/**
 * The rollout of a run: environments that work on episodes of their own accord, as far ahead of training as the async ratio
 * lets them, and hand over whatever groups are finished when training asks for a batch. With ratio 0 they work on the
 * groups of one step, and stand still while it is trained on.
 *
 * Which episode is next and which group may be trained on is decided in `group-queues.ts`; this file makes it happen: it runs
 * the episodes, cancels those nobody needs any more, and tries those again that failed for a reason of the machine.
 */

import { AleError } from "../core/errors.ts";
import type { Group, Task, Trajectory } from "../core/types.ts";
import { beginWait } from "../core/waits.ts";
import type { CollectKey } from "./collect.ts";
import type { EpisodeContext, EpisodePlan } from "./episode.ts";
import { GroupQueues } from "./group-queues.ts";
import { MachineHealth } from "./health.ts";
import { IdleClock } from "./idle-clock.ts";
import type { Gate } from "./limiter.ts";
import { runPersistently } from "./persistence.ts";
import type { Batch, BatchPolicy, Effects, GroupQueuesState, SlotKey, SlotState } from "./slots.ts";

export interface RolloutSettings {
  /** Groups of a batch; also the number of queues. */
  readonly groups: number;
  readonly groupSize: number;
  /** Episodes of a group beyond `groupSize`; the first to end count, the others are cancelled. */
  readonly redundancy: number;
  readonly ratio: number;
  readonly policy: BatchPolicy;
  /** As in `Persistence`. */
  readonly retries: number;
}

export interface RolloutParts {
  readonly context: EpisodeContext;
  /** Bounds the episodes of a task in flight. */
  limiterOf(task: Task): Gate;
  /** The task of a queue's n-th group. */
  taskOf(slot: SlotName): Task;
  keyOf(slot: SlotName): CollectKey;
  /** Whether a finished group is to be thrown away and replaced. */
  reject?(group: readonly Trajectory[], slot: SlotName): boolean;
  /** Whether training leaves the trajectory out, so that a redundant episode shall stand in for it. */
  isSpoiled?(trajectory: Trajectory): boolean;
  onEpisode?(trajectory: Trajectory): void;
}

/** Groups to train a step on, in canonical order, and the task of each. */
export interface RolloutBatch {
  readonly groups: readonly Group[];
  readonly tasks: readonly Task[];
  /** What rollout has to say about them; absent where they were recorded earlier. */
  readonly lead?: {
    /** Train step − create step of each group. */
    readonly ages: readonly number[];
    /** The same of the groups that are finished and wait for a later batch, and of those that are not finished. */
    readonly queued: readonly number[];
    readonly inFlight: readonly number[];
    /** Share of the time since the last batch in which no episode ran; where rollout runs ahead of training. */
    readonly idle?: number;
    readonly counts: RolloutCounts;
  };
}

/** Where a run's batches come from. */
export interface BatchSource {
  /** The groups to train `step` on, once there are enough. */
  collect(step: number): Promise<RolloutBatch>;
  /** What a run needs to go on from here; nothing where batches follow from the step alone. */
  state(): { readonly state: RolloutState; readonly done: readonly Trajectory[] } | undefined;
  stop(): Promise<void>;
}

/** What happened since the last batch. */
export interface RolloutCounts {
  /** Groups that got too old, and episodes that were stopped because nobody needed them any more. */
  readonly dropped: number;
  readonly cancelled: number;
  /** Groups that the filter replaced. */
  readonly filtered: number;
  /** Episodes that were tried again. */
  readonly retried: number;
}

/** A queue and the number of a slot in it. */
export type SlotName = Omit<SlotKey, "createStep">;

/** Queues whose results are the members that are done; their trajectories are kept elsewhere. */
export type RolloutState = GroupQueuesState<number>;

const NO_COUNTS: RolloutCounts = { dropped: 0, cancelled: 0, filtered: 0, retried: 0 };

export class Rollout implements BatchSource {
  readonly #settings: RolloutSettings;
  readonly #parts: RolloutParts;
  readonly #queues: GroupQueues<Trajectory>;
  readonly #environments: number;
  /** Task of each slot, and its members that are done or in work; by `nameOf` the slot. */
  readonly #slots = new Map<string, { readonly task: Task; readonly members: Set<number> }>();
  /** What stops the episode of each environment that has one. */
  readonly #running = new Map<number, AbortController>();
  /** Environments without a slot. */
  readonly #blocked = new Map<number, (episode: number | undefined) => void>();
  readonly #loops: Promise<void>[] = [];
  #awaited: { resolve(batch: Batch<Trajectory>): void; reject(error: unknown): void } | undefined;
  #health = new MachineHealth(1);
  readonly #idle = new IdleClock();
  #counts = { ...NO_COUNTS };
  #failure: { readonly error: unknown } | undefined;
  #stopped = false;

  /** @param done the trajectories that `state` speaks of; those that are missing are collected again. */
  constructor(
    settings: RolloutSettings,
    parts: RolloutParts,
    resumed?: { readonly state: RolloutState; readonly done: readonly Trajectory[] },
  ) {
    const { groups, groupSize, redundancy, ratio, policy } = settings;
    this.#settings = settings;
    this.#parts = parts;
    // Every slot a queue may have can be worked on at once; `limiter` says how much really is.
    const environmentsPerGroup = (2 * Math.ceil(ratio) + 1) * (groupSize + redundancy);
    this.#environments = groups * environmentsPerGroup;
    const reject = parts.reject?.bind(parts);
    const isSpoiled = parts.isSpoiled?.bind(parts);
    const options = {
      ...{ groups, environmentsPerGroup, groupSize, redundancy, ratio, policy, slotsPerStep: 1, replace: true },
      ...(reject === undefined ? {} : { reject }),
      ...(isSpoiled === undefined ? {} : { isSpoiled }),
    };
    this.#queues =
      resumed === undefined ? new GroupQueues(options) : GroupQueues.restore(options, this.#refill(resumed));
    parts.context.signal.addEventListener("abort", () => this.#fail(parts.context.signal.reason), { once: true });
  }

  /**
   * Training goes on to `step`: episodes that are too old for it are stopped, new ones begin, and the groups to train on are
   * returned when there are enough. @throws what ended the run, or the error of a machine on which most episodes fail.
   */
  async collect(step: number): Promise<Required<RolloutBatch>> {
    const { groups, groupSize } = this.#settings;
    this.#watchHealth(groups * groupSize);
    const { dropped, ...effects } = this.#queues.advance(step);
    for (const slot of dropped) this.#forget(slot, slot.working);
    this.#counts.dropped += dropped.length;
    this.#apply(effects);
    this.#start();
    const batch = this.#queues.takeBatch(groups, step) ?? (await this.#waitForBatch(step));
    if (this.#failure !== undefined) throw this.#failure.error;
    const counts = this.#counts;
    this.#counts = { ...NO_COUNTS };
    return this.#inOrder(batch, counts);
  }

  /** What a run needs to go on from here: the queues, and the trajectories that no batch has had yet. */
  state(): { readonly state: RolloutState; readonly done: readonly Trajectory[] } {
    const state = this.#queues.state();
    const done = [...state.slots, ...state.ready].flatMap(({ results }) => results.map(({ result }) => result));
    const plain = (slots: typeof state.slots) =>
      slots.map((slot) => ({ ...slot, results: slot.results.map((one) => ({ ...one, result: one.result.member })) }));
    return { state: { ...state, slots: plain(state.slots), ready: plain(state.ready) }, done };
  }

  /** Stops all episodes and waits until they are gone. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const running of this.#running.values()) running.abort(new AleError("interrupted", "the rollout ended"));
    for (const resume of this.#blocked.values()) resume(undefined);
    this.#blocked.clear();
    await Promise.allSettled(this.#loops);
  }

  #start(): void {
    if (this.#loops.length > 0) return;
    for (let environment = 0; environment < this.#environments; environment++) {
      this.#loops.push(this.#work(environment).catch((error) => this.#fail(error)));
    }
  }

  /** The life of an environment. */
  async #work(environment: number): Promise<void> {
    const group = Math.floor((environment * this.#settings.groups) / this.#environments);
    for (;;) {
      const episode = await this.#next(environment);
      if (episode === undefined) return;
      const slot = { group, episode };
      const running = this.#running.get(environment) ?? new AbortController();
      this.#begin(environment, running);
      let member: number | undefined;
      try {
        running.signal.throwIfAborted();
        member = this.#takeMember(slot);
        const trajectory = await this.#runEpisode(slot, member, running.signal);
        this.#end(environment);
        this.#put(environment, slot, trajectory);
      } catch (error) {
        this.#end(environment);
        if (this.#stopped) return;
        if (!running.signal.aborted) throw error;
        this.#counts.cancelled++;
        if (member !== undefined) this.#slots.get(nameOf(slot))?.members.delete(member);
        this.#apply(this.#queues.release(environment));
      }
    }
  }

  #next(environment: number): Promise<number | undefined> | number | undefined {
    if (this.#stopped) return undefined;
    const episode = this.#queues.request(environment);
    return episode ?? new Promise((resolve) => this.#blocked.set(environment, resolve));
  }

  async #runEpisode(slot: SlotName, member: number, signal: AbortSignal): Promise<Trajectory> {
    const { context, onEpisode } = this.#parts;
    const { episodes, noise } = this.#parts.keyOf(slot);
    const { task } = this.#slot(slot);
    const plan: EpisodePlan = {
      episodeId: `${episodes}/${member}`,
      groupId: episodes,
      member,
      task,
      noiseKey: `${noise}/${member}`,
    };
    const trajectory = await runPersistently(
      plan,
      { ...context, signal },
      {
        limiter: this.#parts.limiterOf(task),
        retries: this.#settings.retries,
        health: this.#health,
        onRetry: () => this.#counts.retried++,
      },
    );
    onEpisode?.(trajectory);
    return trajectory;
  }

  #put(environment: number, slot: SlotName, trajectory: Trajectory): void {
    const { outcome, surplus, ...effects } = this.#queues.put(environment, trajectory);
    if (outcome === "filtered") {
      this.#counts.filtered++;
      this.#forget(slot, surplus);
    }
    if (outcome === "completed") this.#cancel(surplus);
    this.#apply(effects);
  }

  /** Whoever was blocked goes on, and whoever waits for a batch gets it. */
  #apply({ served, batch }: Pick<Effects<Trajectory>, "served" | "batch">): void {
    for (const { environment, episode } of served) {
      const resume = this.#blocked.get(environment);
      this.#blocked.delete(environment);
      // From now on the episode can be cancelled, though it begins only when the promise is looked at.
      this.#begin(environment, new AbortController());
      resume?.(episode);
    }
    if (batch !== undefined) this.#awaited?.resolve(batch);
  }

  #waitForBatch(step: number): Promise<Batch<Trajectory>> {
    const endWait = beginWait("trainer", `finished groups for step ${step}`);
    return new Promise<Batch<Trajectory>>((resolve, reject) => {
      this.#awaited = { resolve, reject };
      if (this.#failure !== undefined) reject(this.#failure.error);
    }).finally(() => {
      this.#awaited = undefined;
      endWait();
    });
  }

  #watchHealth(episodes: number): void {
    const health = new MachineHealth(episodes);
    health.signal.addEventListener("abort", () => this.#fail(health.signal.reason), { once: true });
    this.#health = health;
  }

  /** The run cannot go on: its batch is refused and no episode is finished for nothing. */
  #fail(error: unknown): void {
    if (this.#failure !== undefined || this.#stopped) return;
    this.#failure = { error };
    this.#awaited?.reject(error);
    void this.stop();
  }

  #begin(environment: number, running: AbortController): void {
    this.#running.set(environment, running);
    this.#idle.set(true);
  }

  #end(environment: number): void {
    this.#running.delete(environment);
    this.#idle.set(this.#running.size > 0);
  }

  #forget(slot: SlotName, workers: readonly number[]): void {
    this.#slots.delete(nameOf(slot));
    this.#cancel(workers);
  }

  #cancel(environments: readonly number[]): void {
    for (const environment of environments) {
      this.#running.get(environment)?.abort(new AleError("interrupted", "nobody needs this episode any more"));
    }
  }

  #takeMember(slot: SlotName): number {
    const { members } = this.#slot(slot);
    let member = 0;
    while (members.has(member)) member++;
    members.add(member);
    return member;
  }

  #slot(slot: SlotName): { readonly task: Task; readonly members: Set<number> } {
    const name = nameOf(slot);
    const known = this.#slots.get(name) ?? { task: this.#parts.taskOf(slot), members: new Set() };
    this.#slots.set(name, known);
    return known;
  }

  /** Groups by round and queue, members by number: what follows must not depend on who was first. */
  #inOrder({ slots }: Batch<Trajectory>, counts: RolloutCounts): Required<RolloutBatch> {
    const sorted = slots.toSorted((a, b) => a.episode - b.episode || a.group - b.group);
    const tasks = sorted.map((slot) => this.#slot(slot).task);
    for (const slot of sorted) this.#slots.delete(nameOf(slot));
    const groups = sorted.map((slot, i) => ({
      groupId: this.#parts.keyOf(slot).episodes,
      taskId: (tasks[i] as Task).id,
      trajectories: slot.results.map(({ result }) => result).sort((a, b) => a.member - b.member),
    }));
    return { groups, tasks, lead: { ages: sorted.map(({ staleness }) => staleness), counts, ...this.#ahead() } };
  }

  /** What rollout has beyond a batch. */
  #ahead() {
    const { step, slots, ready } = this.#queues.state();
    const ages = (some: typeof slots) => some.map(({ createStep }) => step - createStep);
    const isDone = ({ completion }: (typeof slots)[number]) => completion !== null;
    const idle = this.#idle.take();
    return {
      queued: ages([...ready, ...slots.filter(isDone)]),
      inFlight: ages(slots.filter((slot) => !isDone(slot))),
      ...(this.#settings.ratio > 0 && { idle }),
    };
  }

  /** Puts trajectories back where `state` says they were; a slot of which some are gone is not complete. */
  #refill({ state, done }: { readonly state: RolloutState; readonly done: readonly Trajectory[] }) {
    const byId = new Map(done.map((trajectory) => [trajectory.episodeId, trajectory]));
    const refill = (slot: RolloutState["slots"][number]): SlotState<Trajectory> => {
      const { episodes } = this.#parts.keyOf(slot);
      const results = slot.results.flatMap(({ environment, result }) => {
        const trajectory = byId.get(`${episodes}/${result}`);
        return trajectory === undefined ? [] : [{ environment, result: trajectory }];
      });
      for (const { result } of results) this.#slot(slot).members.add(result.member);
      const isWhole = results.length === slot.results.length;
      return { ...slot, results, completion: isWhole ? slot.completion : null };
    };
    const given = state.ready.map(refill);
    const ready = given.filter(({ completion }) => completion !== null);
    return { ...state, slots: [...state.slots.map(refill), ...given.filter((slot) => !ready.includes(slot))], ready };
  }
}

function nameOf({ group, episode }: SlotName): string {
  return `${group}/${episode}`;
}
