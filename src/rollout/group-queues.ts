/**
 * Which group of episodes an environment works on and which finished groups make a batch, when rollout runs ahead of
 * training by a bounded number of steps (ROLL's asynchronous training, arXiv 2510.11345, section 4).
 *
 * Environments come in groups; each group has a queue of *slots*, oldest first. A slot is one episode index of the group: it
 * collects `groupSize` results and remembers the training step at which it was made. The *async ratio* bounds how old a slot
 * may be when it is trained on: train step − create step ≤ ratio, for every slot of every batch. As there are never more
 * slots than the bound allows, environments that run ahead are blocked until the next step.
 *
 * Differs from ROLL: waits and blocked requests are looked at again after every drop and replacement, so a finished slot
 * behind a dropped one is delivered and ratio 0 cannot deadlock. A state machine without clock or randomness: what it does
 * follows from the order of calls.
 */

import { AleError } from "../core/errors.ts";

/**
 * `greedy`: the batch takes whatever slot was finished first. `rounds`: every queue gives one slot before any gives its second,
 * so that a slow group can hold a batch up but none is over-represented.
 */
export type BatchPolicy = "greedy" | "rounds";

export interface GroupQueueOptions<Result> {
  readonly groups: number;
  readonly environmentsPerGroup: number;
  /** Results that complete a slot. */
  readonly groupSize: number;
  /** Environments that may work on a slot beyond `groupSize`; the first `groupSize` results count. */
  readonly redundancy: number;
  /** Slots each queue gets per training step. */
  readonly slotsPerStep: number;
  /** Async ratio, a whole number; 0 is synchronous. */
  readonly ratio: number;
  readonly policy: BatchPolicy;
  /** Whether a completed slot is to be thrown away and replaced, e.g. because all its rewards are equal. */
  readonly reject?: (results: readonly Result[]) => boolean;
}

/** A slot's place in its queue and the training step it was made at. */
export interface SlotKey {
  readonly group: number;
  readonly episode: number;
  readonly createStep: number;
}

/** An environment that was blocked and now works on an episode. */
export interface Served {
  readonly environment: number;
  readonly episode: number;
}

/** A slot that got too old. */
export interface Dropped extends SlotKey {
  readonly results: number;
  /** Environments that still work on it, for nothing. */
  readonly working: readonly number[];
}

export interface BatchedSlot<Result> extends SlotKey {
  /** Train step − create step. */
  readonly staleness: number;
  /** The first `groupSize` results, in the order they came. */
  readonly results: readonly { readonly environment: number; readonly result: Result }[];
}

export interface Batch<Result> {
  readonly slots: readonly BatchedSlot<Result>[];
  /** Finished slots that were too old by the time they were taken. */
  readonly discarded: readonly (SlotKey & { readonly staleness: number })[];
}

/** What a call changed for others. */
export interface Effects<Result> {
  readonly served: readonly Served[];
  /** The batch that was waited for, if this completed it. */
  readonly batch?: Batch<Result>;
}

/** `ignored`: its slot was dropped or is in a batch; `redundant`: its slot was complete without it. */
export type PutOutcome = "stored" | "completed" | "filtered" | "redundant" | "ignored";

interface Slot<Result> extends SlotKey {
  readonly results: { readonly environment: number; readonly result: Result }[];
  /** Environments it was given to. */
  handed: number;
  /** When it was completed, counted over all slots. */
  completion: number | undefined;
}

interface Wanted<Result> {
  readonly count: number;
  readonly step: number;
  readonly slots: BatchedSlot<Result>[];
  readonly discarded: (SlotKey & { readonly staleness: number })[];
}

export class GroupQueues<Result> {
  readonly #options: GroupQueueOptions<Result>;
  readonly #queues: Slot<Result>[][];
  readonly #nextEpisode: number[];
  /** Environments without a slot, in the order they asked. */
  #blocked: number[] = [];
  /** What each environment works on. */
  readonly #working = new Map<number, Slot<Result>>();
  /** `rounds`: queues that have to give a slot before the round is over, and slots that were given but not used yet. */
  readonly #due = new Set<number>();
  readonly #ready: Slot<Result>[] = [];
  #wanted: Wanted<Result> | undefined;
  #step: number | undefined;
  #completions = 0;

  constructor(options: GroupQueueOptions<Result>) {
    const { ratio, groups, groupSize, slotsPerStep, redundancy } = options;
    const whole = [ratio, redundancy].every((n) => Number.isInteger(n) && n >= 0);
    if (!whole || [groups, groupSize, slotsPerStep].some((n) => !Number.isInteger(n) || n < 1)) {
      throw new AleError("internal", `group queues cannot work with ${JSON.stringify(options)}`);
    }
    this.#options = options;
    this.#queues = Array.from({ length: groups }, () => []);
    this.#nextEpisode = new Array<number>(groups).fill(0);
  }

  /** Slots in the queues: at most (2 · ratio + 1) · slotsPerStep per group, unless `reject` replaces some. */
  get outstanding(): readonly number[] {
    return this.#queues.map((queue) => queue.length);
  }

  /** Slots that the batch which is waited for has so far. */
  get collected(): number {
    return this.#wanted?.slots.length ?? 0;
  }

  /** Training goes on to `step`: slots that are too old for it are dropped, new ones made, and blocked environments served. */
  advance(step: number): Effects<Result> & { readonly dropped: readonly Dropped[] } {
    const { ratio, slotsPerStep } = this.#options;
    const isFirst = this.#step === undefined;
    if (step <= (this.#step ?? -1))
      throw new AleError("internal", `training was at step ${this.#step}, not before ${step}`);
    const dropped = this.#drop(step);
    this.#step = step;
    for (const group of this.#queues.keys()) {
      for (let i = 0; i < slotsPerStep * (isFirst ? ratio + 1 : 1); i++) this.#addSlot(group);
    }
    return { dropped, ...this.#effects() };
  }

  /** Gives an environment that has nothing to do the oldest episode of its group that needs one; `undefined`: blocked. */
  request(environment: number): number | undefined {
    if (this.#working.has(environment) || this.#blocked.includes(environment)) {
      throw new AleError("internal", `environment ${environment} asked for an episode twice`);
    }
    const episode = this.#assign(environment);
    if (episode === undefined) this.#blocked.push(environment);
    return episode;
  }

  /** An environment is done with its episode. */
  put(
    environment: number,
    result: Result,
  ): Effects<Result> & { readonly episode: number; readonly outcome: PutOutcome } {
    const slot = this.#finish(environment);
    const { episode, group } = slot;
    if (!this.#isQueued(slot)) return { episode, outcome: "ignored", served: [] };
    slot.results.push({ environment, result });
    const { groupSize, reject } = this.#options;
    if (slot.results.length < groupSize) return { episode, outcome: "stored", served: [] };
    if (slot.results.length > groupSize) return { episode, outcome: "redundant", served: [] };
    if (reject?.(slot.results.map((each) => each.result))) {
      this.#remove(slot);
      this.#addSlot(group);
      return { episode, outcome: "filtered", ...this.#effects() };
    }
    slot.completion = ++this.#completions;
    return { episode, outcome: "completed", ...this.#effects() };
  }

  /** An environment gives its episode up without a result, or stops waiting for one; another may have its place. */
  release(environment: number): Effects<Result> {
    if (this.#blocked.includes(environment)) {
      this.#blocked = this.#blocked.filter((waiting) => waiting !== environment);
      return { served: [] };
    }
    const slot = this.#finish(environment);
    // nobody needs to finish what is finished
    if (slot.completion === undefined) slot.handed--;
    return this.#effects();
  }

  /** Asks for `count` slots to train `step` on. When they are not there yet, a later call's effects bring them. */
  takeBatch(count: number, step: number): Batch<Result> | undefined {
    if (this.#wanted !== undefined) throw new AleError("internal", "a batch was asked for while another is waited for");
    this.#wanted = { count, step, slots: [], discarded: [] };
    return this.#fillBatch();
  }

  #drop(step: number): Dropped[] {
    const dropped = this.#queues.flatMap((queue) =>
      queue.filter((slot) => step - slot.createStep > this.#options.ratio),
    );
    for (const slot of dropped) this.#remove(slot);
    return dropped.map((slot) => ({
      ...keyOf(slot),
      results: slot.results.length,
      working: [...this.#working].flatMap(([environment, own]) => (own === slot ? [environment] : [])),
    }));
  }

  #addSlot(group: number): void {
    const episode = this.#nextEpisode[group] as number;
    this.#nextEpisode[group] = episode + 1;
    const createStep = this.#step as number;
    this.#queue(group).push({ group, episode, createStep, results: [], handed: 0, completion: undefined });
  }

  #assign(environment: number): number | undefined {
    const { environmentsPerGroup, groupSize, redundancy, groups } = this.#options;
    const group = Math.floor(environment / environmentsPerGroup);
    if (group >= groups) throw new AleError("internal", `there is no environment ${environment}`);
    const slot = this.#queue(group).find(({ handed }) => handed < groupSize + redundancy);
    if (slot === undefined) return undefined;
    slot.handed++;
    this.#working.set(environment, slot);
    return slot.episode;
  }

  #finish(environment: number): Slot<Result> {
    const slot = this.#working.get(environment);
    if (slot === undefined) throw new AleError("internal", `environment ${environment} works on nothing`);
    this.#working.delete(environment);
    return slot;
  }

  /** After every change: who was blocked may go on, and what is waited for may be there. */
  #effects(): Effects<Result> {
    const served: Served[] = [];
    this.#blocked = this.#blocked.filter((environment) => {
      const episode = this.#assign(environment);
      if (episode !== undefined) served.push({ environment, episode });
      return episode === undefined;
    });
    const batch = this.#fillBatch();
    return batch === undefined ? { served } : { served, batch };
  }

  #fillBatch(): Batch<Result> | undefined {
    this.#deliver();
    const wanted = this.#wanted;
    if (wanted === undefined) return undefined;
    while (wanted.slots.length < wanted.count) {
      const slot = this.#options.policy === "rounds" ? this.#nextOfRound() : this.#nextGreedy();
      if (slot === undefined) return undefined;
      const staleness = wanted.step - slot.createStep;
      if (staleness > this.#options.ratio) {
        wanted.discarded.push({ ...keyOf(slot), staleness });
      } else {
        const results = slot.results.slice(0, this.#options.groupSize);
        wanted.slots.push({ ...keyOf(slot), staleness, results });
      }
    }
    this.#wanted = undefined;
    return { slots: wanted.slots, discarded: wanted.discarded };
  }

  #nextOfRound(): Slot<Result> | undefined {
    if (this.#due.size === 0 && this.#ready.length === 0) {
      for (const group of this.#queues.keys()) this.#due.add(group);
      this.#deliver();
    }
    return this.#ready.shift();
  }

  #nextGreedy(): Slot<Result> | undefined {
    const [first] = this.#finishedHeads([...this.#queues.keys()]);
    if (first !== undefined) this.#remove(first);
    return first;
  }

  /** Queues that are due give their oldest slot as soon as it is complete. */
  #deliver(): void {
    for (const slot of this.#finishedHeads([...this.#due])) {
      this.#remove(slot);
      this.#due.delete(slot.group);
      this.#ready.push(slot);
    }
  }

  /** The oldest slots of these groups, as far as they are complete, in the order of completion. */
  #finishedHeads(groups: readonly number[]): Slot<Result>[] {
    const heads = groups
      .flatMap((group) => this.#queue(group)[0] ?? [])
      .filter((slot) => slot.completion !== undefined);
    return heads.sort((a, b) => (a.completion as number) - (b.completion as number));
  }

  #isQueued(slot: Slot<Result>): boolean {
    return this.#queue(slot.group).includes(slot);
  }

  #remove(slot: Slot<Result>): void {
    const queue = this.#queue(slot.group);
    queue.splice(queue.indexOf(slot), 1);
  }

  #queue(group: number): Slot<Result>[] {
    return this.#queues[group] as Slot<Result>[];
  }
}

function keyOf({ group, episode, createStep }: SlotKey): SlotKey {
  return { group, episode, createStep };
}
