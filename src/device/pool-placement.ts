/** Which of a pool's engines train and which generate (docs/adr/0014). */

import { AleError } from "../core/errors.ts";

/**
 * `shared`: every engine does both, and all take part in every update. `split`: the first `trainers` engines only train, the
 * others only generate. `elastic`: every engine can do both; of how many an update is made follows from what is to be
 * generated.
 */
export type PoolPlacement =
  | { readonly kind: "shared" | "elastic" }
  | { readonly kind: "split"; readonly trainers: number };

/** What an engine is for; its memory plan follows from it. */
export type EngineWork = "both" | "train" | "generate";

/** What each of `engines` engines is for. @throws AleError("config") when a split leaves nobody to generate. */
export function assignWork(placement: PoolPlacement, engines: number): readonly EngineWork[] {
  if (placement.kind !== "split") return new Array<EngineWork>(engines).fill("both");
  const { trainers } = placement;
  if (trainers >= engines) {
    throw new AleError(
      "config",
      `engine.placement is "split" with ${trainers} of ${engines} ${engines === 1 ? "engine" : "engines"} training: nobody would generate`,
      {
        hint:
          engines === 1
            ? 'add a second entry to engine.devices, or set engine.placement = "shared"'
            : `set engine.trainers to at most ${engines - 1}, or add entries to engine.devices`,
      },
    );
  }
  return Array.from({ length: engines }, (_, rank) => (rank < trainers ? "train" : "generate"));
}

/** What the decision of `elastic` rests on. */
export interface PoolLoad {
  readonly engines: number;
  /** Rows of an engine's decode batch. */
  readonly slots: number;
  /** Sequences that are open now. */
  readonly open: number;
  /** Answers awaited at a time, on average since the last update. */
  readonly awaited: number;
}

/**
 * How many engines make an update: those that are not needed to give every awaited answer a row of a decode batch, at least
 * one; all of them when nothing is being generated.
 */
export function elasticTrainers({ engines, slots, open, awaited }: PoolLoad): number {
  if (open === 0) return engines;
  return Math.max(1, engines - Math.ceil(awaited / slots));
}

/** The mean over time of a number that goes up and down. */
export class MeanMeter {
  readonly #now: () => number;
  #value = 0;
  #area = 0;
  #began: number;
  #since: number;

  /** @param now a clock, in any unit. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#began = now();
    this.#since = this.#began;
  }

  add(change: number): void {
    this.#count();
    this.#value += change;
  }

  /** The mean since the last call. */
  take(): number {
    this.#count();
    const mean = this.#since > this.#began ? this.#area / (this.#since - this.#began) : this.#value;
    this.#area = 0;
    this.#began = this.#since;
    return mean;
  }

  #count(): void {
    const now = this.#now();
    this.#area += this.#value * (now - this.#since);
    this.#since = now;
  }
}
