/**
 * Which group of episodes an environment works on and which finished groups make a batch, when rollout runs ahead of
 * training by a bounded number of steps (ROLL's asynchronous training, arXiv 2510.11345, section 4).
 *
 * Environments come in groups; each group has a queue of *slots*, oldest first. A slot is one episode index of the group: it
 * collects `groupSize` results and remembers the training step at which it was made. The *async ratio* bounds how old a slot
 * may be when it is trained on: train step − create step ≤ ratio, for every slot of every batch. As there are never more
 * slots than the bound allows, environments that run ahead are blocked until the next step.
 *
 * A fractional ratio k + f admits at most f · batch slots of the oldest step that k + 1 would admit.
 *
 * Differs from ROLL: waits and blocked requests are looked at again after every drop and replacement, so a finished slot
 * behind a dropped one is delivered and ratio 0 cannot deadlock; with `replace`, what is dropped does not shrink the lead of
 * rollout over training for the rest of the run; without `inOrder`, a straggler does not hold up what its queue finished
 * after it. A state machine without clock or randomness: what it does follows from the order of calls.
 */

import { AleError } from "../core/errors.ts";
import type {
  Batch,
  BatchedSlot,
  Dropped,
  Effects,
  GroupQueueOptions,
  GroupQueuesState,
  PutOutcome,
  Served,
  SlotKey,
  SlotResult,
  SlotState,
} from "./slots.ts";

interface Slot<Result> extends SlotKey {
  readonly results: SlotResult<Result>[];
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

/** Shares of whole numbers must not fall below them by rounding: 0.29 · 100. */
const ROUNDING = 1e-9;

export class GroupQueues<Result> {
  readonly #options: GroupQueueOptions<Result>;
  /** Oldest age, in steps, that a batch admits; of that age only `#share` of its slots where the ratio has a fraction. */
  readonly #bound: number;
  readonly #share: number;
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
    const sound = Number.isInteger(redundancy) && redundancy >= 0 && Number.isFinite(ratio) && ratio >= 0;
    const refused = options.inOrder && !Number.isInteger(ratio);
    if (!sound || refused || [groups, groupSize, slotsPerStep].some((n) => !Number.isInteger(n) || n < 1)) {
      throw new AleError("internal", `group queues cannot work with ${JSON.stringify(options)}`);
    }
    this.#options = options;
    this.#bound = Math.ceil(ratio);
    this.#share = ratio - Math.floor(ratio);
    this.#queues = Array.from({ length: groups }, () => []);
    this.#nextEpisode = new Array<number>(groups).fill(0);
  }

  /** Queues as they were when `state` was taken; what was being worked on is to be done again. */
  static restore<Result>(options: GroupQueueOptions<Result>, state: GroupQueuesState<Result>): GroupQueues<Result> {
    const queues = new GroupQueues(options);
    const slotOf = ({ results, completion, ...key }: SlotState<Result>): Slot<Result> => ({
      ...key,
      results: [...results],
      handed: results.length,
      completion: completion ?? undefined,
    });
    queues.#step = state.step;
    queues.#completions = state.completions;
    for (const [group, episode] of state.nextEpisode.entries()) queues.#nextEpisode[group] = episode;
    for (const slot of state.slots) queues.#queue(slot.group).push(slotOf(slot));
    for (const group of state.due) queues.#due.add(group);
    queues.#ready.push(...state.ready.map(slotOf));
    return queues;
  }

  state(): GroupQueuesState<Result> {
    const stateOf = ({ results, completion, ...slot }: Slot<Result>): SlotState<Result> => ({
      ...keyOf(slot),
      results: [...results],
      completion: completion ?? null,
    });
    return {
      step: this.#step ?? 0,
      completions: this.#completions,
      nextEpisode: [...this.#nextEpisode],
      slots: this.#queues.flat().map(stateOf),
      due: [...this.#due],
      ready: this.#ready.map(stateOf),
    };
  }

  /** Slots in the queues: at most (2 · ⌈ratio⌉ + 1) · slotsPerStep per group, unless `reject` replaces some. */
  get outstanding(): readonly number[] {
    return this.#queues.map((queue) => queue.length);
  }

  /** Slots that the batch which is waited for has so far. */
  get collected(): number {
    return this.#wanted?.slots.length ?? 0;
  }

  /** Training goes on to `step`: slots that are too old for it are dropped, new ones made, and blocked environments served. */
  advance(step: number): Effects<Result> & { readonly dropped: readonly Dropped[] } {
    const isFirst = this.#step === undefined;
    if (step <= (this.#step ?? -1))
      throw new AleError("internal", `training was at step ${this.#step}, not before ${step}`);
    const dropped = this.#drop(step);
    this.#step = step;
    for (const group of this.#queues.keys()) {
      for (let i = 0; i < this.#options.slotsPerStep; i++) this.#addSlot(group);
    }
    if (isFirst || this.#options.replace) this.#fillUp();
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

  /** An environment is done with its episode. `surplus`: environments whose work on the same slot is no longer needed. */
  put(
    environment: number,
    result: Result,
  ): Effects<Result> & {
    readonly episode: number;
    readonly outcome: PutOutcome;
    readonly surplus: readonly number[];
  } {
    const slot = this.#finish(environment);
    const { episode, group } = slot;
    const nothing = { episode, served: [], surplus: [] };
    if (!this.#isQueued(slot)) return { ...nothing, outcome: "ignored" };
    slot.results.push({ environment, result });
    if (slot.completion !== undefined) return { ...nothing, outcome: "redundant" };
    const counting = this.#counting(slot);
    if (counting === undefined) return { ...nothing, outcome: "stored" };
    const { reject } = this.#options;
    const surplus = this.#workersOf(slot);
    const results = counting.map((each) => each.result);
    if (reject?.(results, keyOf(slot))) {
      this.#remove(slot);
      this.#addSlot(group);
      return { episode, outcome: "filtered", surplus, ...this.#effects() };
    }
    slot.completion = ++this.#completions;
    return { episode, outcome: "completed", surplus, ...this.#effects() };
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

  /** Makes slots, in the shortest queues first, until there are those of one step and `ratio` times as many ahead of it. */
  #fillUp(): void {
    const { ratio, groups, slotsPerStep } = this.#options;
    const wanted = Math.floor((1 + ratio) * groups * slotsPerStep + ROUNDING);
    for (let missing = wanted - this.#queues.flat().length; missing > 0; missing--) {
      const shortest = Math.min(...this.outstanding);
      this.#addSlot(this.#queues.findIndex(({ length }) => length === shortest));
    }
  }

  #drop(step: number): Dropped[] {
    const isOld = (slot: SlotKey) => step - slot.createStep > this.#bound;
    const dropped = this.#queues.flatMap((queue) => queue.filter(isOld));
    for (const slot of dropped) this.#remove(slot);
    if (!this.#options.inOrder) {
      const given = this.#ready.splice(0);
      dropped.push(...given.filter(isOld));
      this.#ready.push(...given.filter((slot) => !isOld(slot)));
    }
    return dropped.map((slot) => ({
      ...keyOf(slot),
      results: slot.results.length,
      working: this.#workersOf(slot),
    }));
  }

  #workersOf(slot: Slot<Result>): number[] {
    return [...this.#working].flatMap(([environment, own]) => (own === slot ? [environment] : []));
  }

  #addSlot(group: number): void {
    const episode = this.#nextEpisode[group] as number;
    this.#nextEpisode[group] = episode + 1;
    const createStep = this.#step as number;
    this.#queue(group).push({ group, episode, createStep, results: [], handed: 0, completion: undefined });
  }

  #assign(environment: number): number | undefined {
    const { environmentsPerGroup, groupSize, redundancy, groups, inOrder } = this.#options;
    const group = Math.floor(environment / environmentsPerGroup);
    if (group >= groups) throw new AleError("internal", `there is no environment ${environment}`);
    const needsOne = ({ handed, completion }: Slot<Result>) =>
      handed < groupSize + redundancy && (inOrder || completion === undefined);
    const slot = this.#queue(group).find(needsOne);
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
      if (this.#admits(wanted, staleness)) {
        const results = this.#counting(slot) ?? [];
        wanted.slots.push({ ...keyOf(slot), staleness, results });
      } else {
        wanted.discarded.push({ ...keyOf(slot), staleness });
      }
    }
    this.#wanted = undefined;
    return { slots: wanted.slots, discarded: wanted.discarded };
  }

  /** The first results of which `groupSize` are of use, or all that the slot may have; `undefined`: they are not there yet. */
  #counting({ results }: Slot<Result>): SlotResult<Result>[] | undefined {
    const { groupSize, redundancy, isSpoiled } = this.#options;
    let useful = 0;
    const last = results.findIndex(({ result }, i) => {
      if (!isSpoiled?.(result)) useful++;
      return useful === groupSize || i + 1 === groupSize + redundancy;
    });
    return last < 0 ? undefined : results.slice(0, last + 1);
  }

  #admits({ slots, count }: Wanted<Result>, staleness: number): boolean {
    if (staleness !== this.#bound || this.#share === 0) return staleness <= this.#bound;
    const oldest = slots.filter((slot) => slot.staleness === staleness).length;
    return oldest < Math.floor(this.#share * count + ROUNDING);
  }

  /** May the slot be taken as far as its age goes? In order, it is taken and then discarded. */
  readonly #isUsable = ({ createStep }: SlotKey): boolean => {
    const wanted = this.#wanted;
    return this.#options.inOrder || wanted === undefined || this.#admits(wanted, wanted.step - createStep);
  };

  #nextOfRound(): Slot<Result> | undefined {
    const owes = (group: number) => this.#options.inOrder || this.#queue(group).some(this.#isUsable);
    if (!this.#ready.some(this.#isUsable) && ![...this.#due].some(owes)) {
      for (const group of this.#queues.keys()) this.#due.add(group);
      this.#deliver();
    }
    const index = this.#ready.findIndex(this.#isUsable);
    return index < 0 ? undefined : this.#ready.splice(index, 1)[0];
  }

  #nextGreedy(): Slot<Result> | undefined {
    const [first] = this.#finished([...this.#queues.keys()]);
    if (first !== undefined) this.#remove(first);
    return first;
  }

  /** Queues that are due give a slot as soon as one is complete. */
  #deliver(): void {
    for (const slot of this.#finished([...this.#due])) {
      this.#remove(slot);
      this.#due.delete(slot.group);
      this.#ready.push(slot);
    }
  }

  /** The slot each of these groups would give now, if any, in the order in which they are given. */
  #finished(groups: readonly number[]): Slot<Result>[] {
    const given = groups.flatMap((group) => {
      const queue = this.#queue(group);
      const eligible = this.#options.inOrder ? queue.slice(0, 1) : queue.filter(this.#isUsable);
      return eligible.filter(({ completion }) => completion !== undefined).sort(this.#order)[0] ?? [];
    });
    return given.sort(this.#order);
  }

  /** By completion; where it is ours to choose, the older first, which would be dropped sooner. */
  readonly #order = (a: Slot<Result>, b: Slot<Result>): number => {
    const younger = this.#options.inOrder ? 0 : a.createStep - b.createStep;
    return younger || (a.completion as number) - (b.completion as number);
  };

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
