/** The gradients of a learner's lanes, and when they have to be set to zero. */

import { tensorValues } from "../models/parameter-values.ts";
import { type ParameterLayout, parameterView } from "../models/parameters.ts";
import { allocateDense } from "../runtime/memory.ts";
import type { PreparedCall } from "../runtime/session.ts";
import type { Lane } from "./embedding-gradient.ts";
import { LaneSum } from "./lane-sum.ts";

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
  /** Default `REPLACE_FROM`. */
  readonly replaceFrom?: number | undefined;
}

function allocateGradients(length: number): Float32Array {
  const { buffer, byteOffset } = allocateDense(length * Float32Array.BYTES_PER_ELEMENT);
  return new Float32Array(buffer, byteOffset, length);
}

export class LaneGradients {
  /** Accumulators per lane by parameter name. */
  readonly values: readonly Lane[];
  readonly #layout: ParameterLayout;
  readonly #flats: readonly Float32Array[];
  readonly #threads: number;
  /** By the lanes that are added up. */
  readonly #sums = new Map<string, LaneSum>();
  /** Whether clearing a lane may wait. */
  readonly #defers: readonly boolean[];
  /** Lanes that count as zero, whatever their memory holds. */
  readonly #stale: boolean[];
  #norm: number | undefined;

  constructor(layout: ParameterLayout, options: LaneGradientsOptions) {
    const { lanes, threads, first, replaces, replaceFrom = REPLACE_FROM } = options;
    const flats = Array.from({ length: lanes }, (_, lane) =>
      lane === 0 && first !== undefined ? first : allocateGradients(layout.length),
    );
    this.#layout = layout;
    this.#flats = flats;
    this.values = flats.map((flat) => tensorValues(layout, flat));
    this.#threads = threads;
    const isLarge = replaces && layout.length >= replaceFrom;
    this.#defers = flats.map((_, lane) => isLarge && (lane > 0 || first === undefined));
    this.#stale = [...this.#defers];
  }

  /** The first lane, which collects the sum, to be read or changed. Ask again after gradients were cleared or added up. */
  get sum(): Float32Array {
    this.settle();
    this.#norm = undefined;
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

  /** Euclidean norm of the sum, where adding it up has told. */
  get norm(): number | undefined {
    return this.#norm;
  }

  /** Calls that add all lanes up in the first one, in their order, and leave the others cleared. */
  collect(): readonly PreparedCall[] {
    this.#norm = undefined;
    const others = [...this.#flats.keys()].filter((lane) => lane > 0 && !this.isStale(lane));
    if (others.length === 0) return [];
    this.settle();
    const sum = this.#sumOf([0, ...others]);
    const finish = () => {
      this.#norm = sum.norm();
      for (const lane of others) this.#clear(lane);
    };
    return [...sum.calls, finish];
  }

  #sumOf(lanes: readonly number[]): LaneSum {
    const key = lanes.join(" ");
    const found = this.#sums.get(key);
    if (found !== undefined) return found;
    const made = new LaneSum(
      lanes.map((lane) => this.#flats[lane] as Float32Array),
      this.#threads,
    );
    this.#sums.set(key, made);
    return made;
  }

  clear(): void {
    this.#norm = undefined;
    for (const lane of this.#flats.keys()) this.#clear(lane);
  }

  release(): void {
    for (const sum of this.#sums.values()) sum.release();
  }

  #clear(lane: number): void {
    if (this.#defers[lane] === true) this.#stale[lane] = true;
    else this.#flats[lane]?.fill(0);
  }
}
