/** Fills the cache of one row with known tokens, in chunks of a few fixed sizes. */

import type { DecoderConfig } from "../../models/config.ts";
import { SLOTS, type Slot } from "../../models/parameter-store.ts";
import { allocateInt32 } from "../../runtime/memory.ts";
import { type PreparedCall, Session } from "../../runtime/session.ts";
import { int32Value, type Value } from "../../runtime/value.ts";
import { prefillGraph } from "./graphs.ts";
import type { KvCache } from "./kv-block.ts";
import { type GenerationPlace, threadsFor } from "./place.ts";
import type { GraphWeights } from "./weight-values.ts";

const SMALLEST_CHUNK = 8;
const LARGEST_CHUNK = 512;

/** Sizes 8, 12, 16, 24, 32, 48, … up to about half the context, so that at most a third of a chunk is padding. */
export function chunkSizes(context: number): readonly number[] {
  const limit = Math.max(SMALLEST_CHUNK, Math.min(LARGEST_CHUNK, context / 2));
  const sizes: number[] = [];
  for (let size = SMALLEST_CHUNK; size <= limit; size *= 2) {
    sizes.push(size);
    if (size * 1.5 <= limit) sizes.push(size * 1.5);
  }
  return sizes;
}

/** The chunk that takes the next of `count` tokens: the smallest that holds them all, or the largest there is. */
export function nextChunk(sizes: readonly number[], count: number): number {
  return sizes.find((size) => size >= count) ?? (sizes.at(-1) as number);
}

/** Cells a row needs so that a padded chunk never runs past its end. */
export function cellsFor(context: number): number {
  const sizes = chunkSizes(context);
  const widestGap = sizes.reduce((gap, size, i) => Math.max(gap, size - (sizes[i - 1] ?? 0) - 1), 0);
  return context + widestGap;
}

/** A compiled graph that takes chunks. */
interface ChunkGraph {
  readonly session: Session;
  readonly weightNames: readonly string[];
  /** It takes chunks of any size, computes logits where they are wanted, and belongs to somebody else. */
  readonly shared: boolean;
}

/** A chunk size with its inputs; calls are prepared per block and slot when first used. */
class Chunk {
  readonly size: number;
  readonly tokens: Int32Array;
  readonly lengths: Int32Array;
  readonly total: Int32Array;
  readonly #graph: ChunkGraph;
  readonly #weights: GraphWeights;
  readonly #values: Readonly<Record<string, Value>>;
  readonly #calls = new WeakMap<KvCache, (PreparedCall | undefined)[]>();

  constructor(size: number, graph: ChunkGraph, weights: GraphWeights) {
    this.size = size;
    this.tokens = allocateInt32(size);
    this.lengths = allocateInt32(1);
    this.total = allocateInt32(1);
    this.#graph = graph;
    this.#weights = weights;
    this.#values = {
      ...(graph.shared ? { wanted: int32Value(allocateInt32(0), [0]) } : {}),
      tokens: int32Value(this.tokens, [size]),
      lengths: int32Value(this.lengths, [1]),
      total: int32Value(this.total, []),
    };
  }

  run(block: KvCache, slot: Slot): void {
    let calls = this.#calls.get(block);
    if (calls === undefined) {
      calls = new Array(SLOTS.length).fill(undefined) as (PreparedCall | undefined)[];
      this.#calls.set(block, calls);
    }
    this.#weights.use(slot);
    let call = calls[slot];
    if (call === undefined) {
      const cache = block.view(0, 1);
      const weights = this.#weights.of(slot, this.#graph.weightNames);
      call = this.#graph.session.prepare({ ...this.#values, ...weights, ...cache.feeds }, cache.fetches);
      calls[slot] = call;
    }
    call();
  }

  release(): void {
    if (!this.#graph.shared) this.#graph.session.release();
    for (const value of Object.values(this.#values)) value.release();
  }
}

export class Prefiller {
  readonly #config: DecoderConfig;
  readonly #place: GenerationPlace;
  readonly #threads: number;
  readonly #cells: number;
  readonly #sizes: readonly number[];
  readonly #chunks = new Map<number, Chunk>();

  constructor(
    config: DecoderConfig,
    place: GenerationPlace,
    shape: { readonly context: number; readonly cells: number; readonly threads: number },
  ) {
    this.#config = config;
    this.#place = place;
    this.#threads = shape.threads;
    this.#cells = shape.cells;
    this.#sizes = chunkSizes(shape.context);
  }

  /**
   * Writes the keys and values of the next chunk of `tokens[start … end)` into a block of one row whose first `start` cells are
   * filled, and returns how many tokens it took. Cells after them may hold padding, which later tokens overwrite.
   */
  run(block: KvCache, slot: Slot, tokens: Int32Array, start: number, end: number): number {
    const chunk = this.#chunk(nextChunk(this.#sizes, end - start));
    const taken = Math.min(chunk.size, end - start);
    chunk.tokens.fill(0, taken);
    chunk.tokens.set(tokens.subarray(start, start + taken));
    chunk.total[0] = start + chunk.size;
    chunk.lengths[0] = start + chunk.size - 1;
    chunk.run(block, slot);
    return taken;
  }

  release(): void {
    for (const chunk of this.#chunks.values()) chunk.release();
    this.#chunks.clear();
  }

  #chunk(size: number): Chunk {
    const known = this.#chunks.get(size);
    if (known !== undefined) return known;
    const chunk = new Chunk(size, this.#graph(size), this.#place.weights);
    this.#chunks.set(size, chunk);
    return chunk;
  }

  #graph(size: number): ChunkGraph {
    const { weights, provider, shared } = this.#place;
    if (shared !== undefined) return { ...shared, shared: true };
    const { model, weightNames } = prefillGraph(this.#config, weights, size, this.#cells);
    const threads = threadsFor(weights.layout, size, this.#threads);
    return { session: new Session(model, { threads, provider }), weightNames, shared: false };
  }
}
