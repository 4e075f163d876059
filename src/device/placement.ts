/** Which engine a new sequence goes to. */

import { AleError } from "../core/errors.ts";

/** A sequence's place on an engine; `release` may be called twice. */
export interface Place {
  readonly rank: number;
  release(): void;
}

/**
 * Sequences beyond its fair share that an engine takes because it has computed their beginning: a usual group. More would
 * let other engines wait for longer than the beginning takes.
 */
const LEAD = 8;

/** Sequences with equal beginnings go where the first of them went, others to the engine with the fewest. */
export class Placement {
  readonly #capacity: number;
  readonly #rows: number;
  readonly #open: number[];
  /** Where the open sequences that begin alike are, by a hash of their first context. */
  readonly #groups = new Map<bigint, { readonly rank: number; members: number }>();

  /** @param capacity sequences an engine can hold. @param rows of a decode batch. */
  constructor(engines: number, capacity: number, rows: number) {
    this.#capacity = capacity;
    this.#rows = rows;
    this.#open = new Array<number>(engines).fill(0);
  }

  /** What each of some engines must hold so that together they always have a place for one of `sequences`. */
  static capacity(sequences: number, engines: number): number {
    return engines === 1 ? sequences : Math.min(sequences, Math.ceil(sequences / engines) + LEAD);
  }

  /**
   * @param context first tokens of the sequence. @param live whether an engine is there; one that is being started again
   * gets sequences only when the others are full. @param slowness how much longer than another an engine takes for the same.
   * @throws AleError("engine") when every engine is full.
   */
  take(context: Int32Array, live: (rank: number) => boolean, slowness: (rank: number) => number = () => 1): Place {
    const key = hashOf(context);
    const rank = this.#choose(this.#groups.get(key)?.rank, live, slowness);
    this.#open[rank] = this.openOn(rank) + 1;
    const known = this.#groups.get(key);
    const group = known?.rank === rank ? known : { rank, members: 0 };
    group.members++;
    this.#groups.set(key, group);
    let held = true;
    const release = () => {
      if (!held) return;
      held = false;
      this.#open[rank] = this.openOn(rank) - 1;
      if (--group.members === 0 && this.#groups.get(key) === group) this.#groups.delete(key);
    };
    return { rank, release };
  }

  /** Sequences that are open on an engine. */
  openOn(rank: number): number {
    return this.#open[rank] as number;
  }

  #choose(preferred: number | undefined, live: (rank: number) => boolean, slowness: (rank: number) => number): number {
    const free = [...this.#open.keys()].filter((rank) => this.openOn(rank) < this.#capacity);
    const candidates = free.some(live) ? free.filter(live) : free;
    const [first, ...others] = candidates;
    if (first === undefined) {
      throw new AleError("engine", `every engine has its ${this.#capacity} sequences open`, {
        hint: "close sequences before opening others, or raise rollout.concurrency",
      });
    }
    const load = (rank: number) => (this.openOn(rank) + 1) * slowness(rank);
    const least = others.reduce((best, rank) => (load(rank) < load(best) ? rank : best), first);
    if (preferred === undefined || !candidates.includes(preferred)) return least;
    // it would queue there while a batch has room here
    const queues = this.openOn(preferred) >= this.#rows && this.openOn(least) < this.#rows;
    return !queues && load(preferred) < load(least) + LEAD ? preferred : least;
  }
}

function hashOf(context: Int32Array): bigint {
  return Bun.hash.xxHash64(new Uint8Array(context.buffer, context.byteOffset, context.byteLength));
}
