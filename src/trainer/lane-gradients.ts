/** The gradients of a learner's lanes, and when they have to be set to zero. */

import { tensorValues } from "../models/parameter-values.ts";
import { type ParameterLayout, parameterView } from "../models/parameters.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import type { PreparedCall } from "../runtime/session.ts";
import type { Lane } from "./embedding-gradient.ts";
import { GradientSum } from "./optimizer.ts";

/**
 * Elements from which on the first micro-batch replaces what a lane held before instead of adding to zeros. Writing the zeros
 * and reading them again takes longer than compiling a second graph per shape soon; smaller gradients stay in the caches.
 */
const REPLACE_FROM = 1 << 22;

export interface LaneGradientsOptions {
  readonly lanes: number;
  readonly threads: number;
  /** Memory of the first lane, zeros at first; others may look at it, so it is zero whenever it was cleared. */
  readonly first?: Float32Array | undefined;
  /** Whether graphs can replace gradients. */
  readonly replaces: boolean;
}

export class LaneGradients {
  /** Accumulators per lane by parameter name. */
  readonly values: readonly Lane[];
  readonly #layout: ParameterLayout;
  readonly #flats: readonly Float32Array[];
  readonly #sums: readonly GradientSum[];
  /** Whether clearing a lane may wait. */
  readonly #defers: readonly boolean[];
  /** Lanes that count as zero, whatever their memory holds. */
  readonly #stale: boolean[];

  constructor(layout: ParameterLayout, { lanes, threads, first, replaces }: LaneGradientsOptions) {
    const flats = Array.from({ length: lanes }, (_, lane) =>
      lane === 0 && first !== undefined ? first : allocateFloat32(layout.length),
    );
    this.#layout = layout;
    this.#flats = flats;
    this.values = flats.map((flat) => tensorValues(layout, flat));
    this.#sums = flats.slice(1).map((flat) => new GradientSum([flats[0] as Float32Array, flat], threads));
    const isLarge = replaces && layout.length >= REPLACE_FROM;
    this.#defers = flats.map((_, lane) => isLarge && (lane > 0 || first === undefined));
    this.#stale = [...this.#defers];
  }

  /** The first lane, which collects the sum, as it is now. Ask again after gradients were cleared. */
  get sum(): Float32Array {
    this.settle();
    return this.memory;
  }

  /** Makes the first lane's memory zero if it only counts as such. */
  settle(): void {
    if (this.#stale[0] !== true) return;
    this.memory.fill(0);
    this.#stale[0] = false;
  }

  /** The memory of the first lane, whether or not it counts as zero. */
  get memory(): Float32Array {
    return this.#flats[0] as Float32Array;
  }

  /** Whether a run in `lane` may replace gradients: nothing was added since they were cleared. */
  isStale(lane: number): boolean {
    return this.#stale[lane] === true;
  }

  /** To be called before a run in `lane` that replaces the gradients of `written` only. */
  replace(lane: number, written: ReadonlySet<string>): void {
    this.#stale[lane] = false;
    for (const { name } of this.#layout.entries) {
      if (!written.has(name)) parameterView(this.#layout, this.#flats[lane] as Float32Array, name).fill(0);
    }
  }

  /** Calls that add all lanes up in the first one, in their order, and leave the others cleared. */
  collect(): readonly PreparedCall[] {
    return this.#sums.flatMap(({ calls }, index) => {
      const lane = index + 1;
      if (this.isStale(lane)) return [];
      this.settle();
      return [...calls, () => this.#clear(lane)];
    });
  }

  clear(): void {
    for (const lane of this.#flats.keys()) this.#clear(lane);
  }

  release(): void {
    for (const sum of this.#sums) sum.release();
  }

  #clear(lane: number): void {
    if (this.#defers[lane] === true) this.#stale[lane] = true;
    else this.#flats[lane]?.fill(0);
  }
}
