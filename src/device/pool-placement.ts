/** Which of a pool's engines train and which generate (docs/adr/0014). */

import { AleError } from "../core/errors.ts";

/**
 * `shared`: every engine does both, and all take part in every update. `split`: the first `trainers` engines only train, the
 * others only generate. `elastic`: every engine can do both; by how many an update is made follows from how much time
 * training and generation took lately.
 */
export type PoolPlacement =
  | { readonly kind: "shared" | "elastic" }
  | { readonly kind: "split"; readonly trainers: number };

/** What an engine is for; its memory plan follows from it. Those that score belong to no pool: they are teachers. */
export type EngineWork = "both" | "train" | "generate" | "score";

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

/** Time an engine has spent on either kind of work since its process began, in ms. */
export interface WorkTimes {
  readonly trainMs: number;
  readonly generateMs: number;
}

/** What became known before the latest decision counts half as much as what is new. */
const MEMORY = 0.5;
/** A little more training than engines take is no reason to take another. */
const TOLERANCE = 0.1;
/** Engines that train get next to nothing to generate when training takes all of their time. */
const MOST_SLOWNESS = 1000;

/** Who trains in an elastic pool: as few engines as the work allows, so that the others generate undisturbed. */
export class ElasticPlacement {
  readonly #engines: number;
  readonly #seen = new Map<number, WorkTimes>();
  #trainMs = 0;
  #generateMs = 0;
  #trainers: number;

  constructor(engines: number) {
    this.#engines = engines;
    this.#trainers = engines;
  }

  /**
   * How many engines make the next update: as many as the share of training in all work, rounded up; all of them when
   * nothing is being generated, or nothing is known yet.
   * @param open sequences that are open. @param times of each engine by rank; one that is not there says nothing.
   */
  decide(open: number, times: ReadonlyMap<number, WorkTimes>): number {
    this.#trainMs *= MEMORY;
    this.#generateMs *= MEMORY;
    for (const [rank, now] of times) {
      const before = this.#seen.get(rank);
      // A process that was started again begins at 0.
      const isSame = before !== undefined && now.trainMs >= before.trainMs && now.generateMs >= before.generateMs;
      this.#trainMs += now.trainMs - (isSame ? before.trainMs : 0);
      this.#generateMs += now.generateMs - (isSame ? before.generateMs : 0);
      this.#seen.set(rank, now);
    }
    const isKnown = this.#trainMs > 0 && this.#generateMs > 0;
    this.#trainers = open > 0 && isKnown ? Math.max(1, Math.ceil(this.#needed - TOLERANCE)) : this.#engines;
    return this.#trainers;
  }

  /** How much longer than the others an engine that trains takes to generate: together all end at once. */
  get slowness(): number {
    if (this.#trainers === this.#engines) return 1;
    return 1 / Math.max(1 / MOST_SLOWNESS, 1 - this.#needed / this.#trainers);
  }

  /** Engines that training keeps busy. */
  get #needed(): number {
    return (this.#engines * this.#trainMs) / (this.#trainMs + this.#generateMs);
  }
}
