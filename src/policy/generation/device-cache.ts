/** Key/value caches in the memory of a GPU. */

import { AleError } from "../../core/errors.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { OnnxBuilder } from "../../onnx/builder.ts";
import { allocateFloat32, allocateInt32, allocateInt64 } from "../../runtime/memory.ts";
import { copyTensors, type DeviceValue, type Provider } from "../../runtime/provider.ts";
import { type PreparedCall, Session } from "../../runtime/session.ts";
import { type Bindable, float32Value, int32Value, int64Value } from "../../runtime/value.ts";
import { cacheNames } from "./graphs.ts";
import type { CacheValues, KvCache } from "./kv-block.ts";

/** A cache that graphs append to in place; all its rows are always used together. */
export class DeviceKvBlock implements KvCache {
  readonly rows: number;
  readonly cells: number;
  /** Keys and values of each layer in turn, [rows, kvHeads, cells, headDim]. */
  readonly arrays: readonly DeviceValue[];
  readonly #copier: CellCopier;
  readonly #values: CacheValues;

  constructor(config: DecoderConfig, rows: number, cells: number, copier: CellCopier) {
    const { layers, kvHeads, headDim } = config;
    const shape = [rows, kvHeads, cells, headDim];
    this.rows = rows;
    this.cells = cells;
    this.#copier = copier;
    this.arrays = Array.from({ length: 2 * layers }, () => copier.provider.allocate("float32", shape));
    // Attention multiplies cells not in use by 0, which must not meet a NaN left there by somebody else.
    const zeros = float32Value(allocateFloat32(rows * kvHeads * cells * headDim), shape);
    for (const array of this.arrays) copyTensors([zeros], [array]);
    zeros.release();
    const feeds: Record<string, Bindable> = {};
    const fetches: Record<string, Bindable> = {};
    for (let layer = 0; layer < layers; layer++) {
      const names = cacheNames(layer);
      const [keys, values] = this.arrays.slice(2 * layer) as [DeviceValue, DeviceValue];
      Object.assign(feeds, { [names.pastKeys]: keys, [names.pastValues]: values });
      Object.assign(fetches, { [names.keys]: keys, [names.values]: values });
    }
    this.#values = { feeds, fetches };
  }

  view(first: number, count: number): CacheValues {
    if (first !== 0 || count !== this.rows) {
      throw new AleError("internal", `a cache of ${this.rows} rows on a device cannot be used as ${count} rows`);
    }
    return this.#values;
  }

  copyCells(row: number, source: DeviceKvBlock, sourceRow: number, from: number, to: number): void {
    if (from < to) this.#copier.copy(this, row, source, sourceRow, from, to);
  }

  readCells(row: number, count: number): readonly Float32Array[] {
    return this.arrays.map((array) => {
      const [rows, kvHeads, cells, headDim] = array.shape as [number, number, number, number];
      const data = allocateFloat32(rows * kvHeads * cells * headDim);
      const host = float32Value(data, array.shape);
      copyTensors([array], [host]);
      host.release();
      const found = new Float32Array(kvHeads * count * headDim);
      for (let head = 0; head < kvHeads; head++) {
        const start = (row * kvHeads + head) * cells * headDim;
        found.set(data.subarray(start, start + count * headDim), head * count * headDim);
      }
      return found;
    });
  }

  release(): void {
    this.#copier.forget(this);
    for (const array of this.arrays) array.release();
  }
}

/** Copies cells between blocks without leaving the device: one graph for all layers. */
export class CellCopier {
  readonly provider: Provider;
  readonly #config: DecoderConfig;
  readonly #cells: number;
  readonly #sessions = new Map<string, Session>();
  readonly #calls = new Map<DeviceKvBlock, Map<DeviceKvBlock, PreparedCall>>();
  /** What a copy is told, on the host; target row (twice, as ScatterND wants int64), source row, and cells [from, to). */
  readonly #row = allocateInt64(1);
  readonly #numbers = [1, 2, 3, 4].map(() => allocateInt32(1));
  readonly #feeds: Readonly<Record<string, Bindable>>;

  constructor(provider: Provider, config: DecoderConfig, cells: number) {
    this.provider = provider;
    this.#config = config;
    this.#cells = cells;
    const [row, source, from, to] = this.#numbers as [Int32Array, Int32Array, Int32Array, Int32Array];
    this.#feeds = {
      place: int64Value(this.#row, [1, 1]),
      row: int32Value(row, [1]),
      source_row: int32Value(source, [1]),
      from: int32Value(from, [1, 1, 1, 1]),
      to: int32Value(to, [1, 1, 1, 1]),
    };
  }

  copy(target: DeviceKvBlock, row: number, source: DeviceKvBlock, sourceRow: number, from: number, to: number): void {
    this.#row[0] = BigInt(row);
    for (const [i, number] of [row, sourceRow, from, to].entries()) (this.#numbers[i] as Int32Array)[0] = number;
    const sources = this.#calls.get(target) ?? new Map<DeviceKvBlock, PreparedCall>();
    this.#calls.set(target, sources);
    const call = sources.get(source) ?? this.#prepare(target, source);
    sources.set(source, call);
    call();
  }

  /** Must be called before a block is freed. */
  forget(block: DeviceKvBlock): void {
    this.#calls.delete(block);
    for (const sources of this.#calls.values()) sources.delete(block);
  }

  release(): void {
    for (const session of this.#sessions.values()) session.release();
    this.#sessions.clear();
    this.#calls.clear();
  }

  #prepare(target: DeviceKvBlock, source: DeviceKvBlock): PreparedCall {
    const key = `${target.rows} ${source.rows}`;
    const session =
      this.#sessions.get(key) ??
      new Session(this.#graph(target.rows, source.rows), { threads: 1, provider: this.provider });
    this.#sessions.set(key, session);
    const named = (prefix: string, block: DeviceKvBlock) =>
      Object.fromEntries(block.arrays.map((array, i) => [`${prefix}${i}`, array]));
    return session.prepare(
      { ...this.#feeds, ...named("target", target), ...named("source", source) },
      named("copied", target),
    );
  }

  /** Per array: the target's row with cells [from, to) taken from the source's, written back in place. */
  #graph(targetRows: number, sourceRows: number): Uint8Array {
    const { layers, kvHeads, headDim } = this.#config;
    const graph = new OnnxBuilder("copy-cells");
    graph.input("place", "int64", [1, 1]);
    for (const name of ["row", "source_row"]) graph.input(name, "int32", [1]);
    for (const name of ["from", "to"]) graph.input(name, "int32", [1, 1, 1, 1]);
    const cells = graph.constant(
      "int32",
      [1, 1, this.#cells, 1],
      Int32Array.from({ length: this.#cells }, (_, cell) => cell),
    );
    const wanted = graph.node("And", [
      graph.node("GreaterOrEqual", [cells, "from"]),
      graph.node("Less", [cells, "to"]),
    ]);
    for (let i = 0; i < 2 * layers; i++) {
      const shapeOf = (rows: number) => [rows, kvHeads, this.#cells, headDim];
      const target = graph.input(`target${i}`, "float32", shapeOf(targetRows));
      const source = graph.input(`source${i}`, "float32", shapeOf(sourceRows));
      const theirs = graph.node("Gather", [source, "source_row"]);
      const ours = graph.node("Gather", [target, "row"]);
      const blended = graph.node("Where", [wanted, theirs, ours]);
      graph.node("ScatterND", [target, "place", blended], { outputs: [`copied${i}`] });
      graph.output(`copied${i}`, "float32", shapeOf(targetRows));
    }
    return graph.encode();
  }
}
