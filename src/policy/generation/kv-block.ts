/** The key/value cache of one decode block: `rows` sequences of up to `cells` positions, appended to in place. */

import type { DecoderConfig } from "../../models/config.ts";
import { allocateFloat32 } from "../../runtime/memory.ts";
import { float32Value, type Value } from "../../runtime/value.ts";
import { cacheNames } from "./graphs.ts";

/** Feeds and fetches of one graph that name the same memory: reading the past and appending to it. */
export interface CacheValues {
  readonly feeds: Readonly<Record<string, Value>>;
  readonly fetches: Readonly<Record<string, Value>>;
}

export class KvBlock {
  readonly rows: number;
  readonly cells: number;
  readonly #config: DecoderConfig;
  /** Keys and values of each layer in turn, [rows, kvHeads, cells, headDim]. */
  readonly #arrays: readonly Float32Array[];
  readonly #whole: CacheValues;
  readonly #byRow: (CacheValues | undefined)[];

  constructor(config: DecoderConfig, rows: number, cells: number) {
    this.rows = rows;
    this.cells = cells;
    this.#config = config;
    const size = rows * this.#rowSize;
    this.#arrays = Array.from({ length: 2 * config.layers }, () => allocateFloat32(size));
    this.#whole = this.#bind(0, rows);
    this.#byRow = new Array(rows).fill(undefined);
  }

  /** Bytes of a block of this shape. */
  static bytes(config: DecoderConfig, rows: number, cells: number): number {
    return 4 * 2 * config.layers * rows * config.kvHeads * cells * config.headDim;
  }

  get #rowSize(): number {
    return this.#config.kvHeads * this.cells * this.#config.headDim;
  }

  /** The cache of all rows. */
  get whole(): CacheValues {
    return this.#whole;
  }

  /** The cache of one row, as a batch of one. */
  row(row: number): CacheValues {
    const known = this.#byRow[row];
    if (known !== undefined) return known;
    const values = this.#bind(row, 1);
    this.#byRow[row] = values;
    return values;
  }

  /** Copies the first `count` cells of `source`'s row into `row`. */
  copyCells(row: number, source: KvBlock, sourceRow: number, count: number): void {
    const { headDim, kvHeads } = this.#config;
    const length = count * headDim;
    this.#arrays.forEach((target, i) => {
      const from = source.#arrays[i] as Float32Array;
      for (let head = 0; head < kvHeads; head++) {
        const start = sourceRow * source.#rowSize + head * source.cells * headDim;
        target.set(from.subarray(start, start + length), row * this.#rowSize + head * this.cells * headDim);
      }
    });
  }

  /** A copy of the first `count` cells of a row: keys and values of each layer in turn, [kvHeads, count, headDim]. */
  readCells(row: number, count: number): readonly Float32Array[] {
    const { headDim, kvHeads } = this.#config;
    return this.#arrays.map((array) => {
      const cells = new Float32Array(kvHeads * count * headDim);
      for (let head = 0; head < kvHeads; head++) {
        const start = row * this.#rowSize + head * this.cells * headDim;
        cells.set(array.subarray(start, start + count * headDim), head * count * headDim);
      }
      return cells;
    });
  }

  /** Frees the native views; calls prepared with them must not run afterwards. */
  release(): void {
    for (const values of [this.#whole, ...this.#byRow]) {
      for (const value of Object.values(values?.feeds ?? {})) value.release();
    }
  }

  #bind(first: number, count: number): CacheValues {
    const { kvHeads, headDim, layers } = this.#config;
    const shape = [count, kvHeads, this.cells, headDim];
    const feeds: Record<string, Value> = {};
    const fetches: Record<string, Value> = {};
    const view = (array: Float32Array | undefined) =>
      float32Value((array as Float32Array).subarray(first * this.#rowSize, (first + count) * this.#rowSize), shape);
    for (let layer = 0; layer < layers; layer++) {
      const names = cacheNames(layer);
      const keys = view(this.#arrays[2 * layer]);
      const values = view(this.#arrays[2 * layer + 1]);
      feeds[names.pastKeys] = keys;
      fetches[names.keys] = keys;
      feeds[names.pastValues] = values;
      fetches[names.values] = values;
    }
    return { feeds, fetches };
  }
}
