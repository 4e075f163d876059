/** Key/value caches of `rows` sequences with up to `cells` positions each, appended to in place by the graphs. */

import type { DecoderConfig } from "../../models/config.ts";
import { allocateFloat32 } from "../../runtime/memory.ts";
import type { Values } from "../../runtime/session.ts";
import { float32Value, type Value } from "../../runtime/value.ts";
import { cacheNames } from "./graphs.ts";

/** Feeds and fetches of one graph that name the same memory: reading the past and appending to it. */
export interface CacheValues {
  readonly feeds: Values;
  readonly fetches: Values;
}

/** Caches of `rows` sequences with up to `cells` positions each, in the memory of the processor or of a device. */
export interface KvCache {
  readonly rows: number;
  readonly cells: number;
  /** `count` rows from `first` on, as the cache of a graph with that many rows. */
  view(first: number, count: number): CacheValues;
  /** Copies cells [from, to) of a row of `source`, a cache of the same kind, into the same cells of `row`. */
  copyCells(row: number, source: KvCache, sourceRow: number, from: number, to: number): void;
  /** A copy of the first `count` cells of a row: keys and values of each layer in turn, [kvHeads, count, headDim]. */
  readCells(row: number, count: number): readonly Float32Array[];
  /** Frees the memory, or the native views of it; calls prepared with them must not run afterwards. */
  release(): void;
}

/** Bytes of a block of `rows` rows. */
export function kvBytes({ layers, kvHeads, headDim }: DecoderConfig, rows: number, cells: number): number {
  return 2 * layers * rows * kvHeads * cells * headDim * Float32Array.BYTES_PER_ELEMENT;
}

/** A cache in the processor's memory. */
export class KvBlock implements KvCache {
  readonly rows: number;
  readonly cells: number;
  readonly #config: DecoderConfig;
  /** Keys and values of each layer in turn, [rows, kvHeads, cells, headDim]. */
  readonly #arrays: readonly Float32Array[];
  readonly #views = new Map<string, CacheValues>();

  constructor(config: DecoderConfig, rows: number, cells: number) {
    this.rows = rows;
    this.cells = cells;
    this.#config = config;
    this.#arrays = Array.from({ length: 2 * config.layers }, () => allocateFloat32(rows * this.#rowSize));
  }

  view(first: number, count: number): CacheValues {
    const key = `${first} ${count}`;
    const known = this.#views.get(key);
    if (known !== undefined) return known;
    const values = this.#bind(first, count);
    this.#views.set(key, values);
    return values;
  }

  copyCells(row: number, source: KvBlock, sourceRow: number, from: number, to: number): void {
    if (from >= to) return;
    const { headDim, kvHeads } = this.#config;
    for (let i = 0; i < this.#arrays.length; i++) {
      const target = this.#arrays[i] as Float32Array;
      const origin = source.#arrays[i] as Float32Array;
      for (let head = 0; head < kvHeads; head++) {
        const begin = sourceRow * source.#rowSize + (head * source.cells + from) * headDim;
        const end = begin + (to - from) * headDim;
        target.set(origin.subarray(begin, end), row * this.#rowSize + (head * this.cells + from) * headDim);
      }
    }
  }

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

  release(): void {
    for (const { feeds } of this.#views.values()) for (const value of Object.values(feeds)) value.release();
    this.#views.clear();
  }

  get #rowSize(): number {
    return this.#config.kvHeads * this.cells * this.#config.headDim;
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
