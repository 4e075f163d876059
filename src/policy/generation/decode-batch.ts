/**
 * The batch that decode steps run on. A sequence takes a seat in it for the time of one answer: its cache is copied in
 * and, afterwards, what was added to it is copied out (about 5 µs each way for 50 tokens of the shell model). So the
 * rows in work always lie together at the start of the batch, and a step costs what they need, whatever the number of
 * sequences that wait for their tools: a step of 4 rows takes 0.37 ms where one of 32 takes 1.6 ms (one thread).
 */

import type { DecoderConfig } from "../../models/config.ts";
import { SLOTS, type Slot } from "../../models/parameter-store.ts";
import { allocateFloat32, allocateInt32 } from "../../runtime/memory.ts";
import type { Provider } from "../../runtime/provider.ts";
import { type PreparedCall, Session } from "../../runtime/session.ts";
import { float32Value, int32Value, type Value } from "../../runtime/value.ts";
import { fusedLayers } from "./fused-layer.ts";
import { decodeGraph, samplingGraph } from "./graphs.ts";
import type { KvCache } from "./kv-block.ts";
import { type GenerationPlace, threadsFor } from "./place.ts";
import { SAMPLING_VARIANTS, type SamplingVariant } from "./sampling-graph.ts";
import { SamplingRows, type SamplingValues } from "./sampling-rows.ts";
import type { Sequence } from "./sequence.ts";
import type { SharedForward } from "./shared-forward.ts";

/**
 * Batch sizes a step may have: 4, 8, 12, 16, 24, 32, 48, … and `slots`; with `small` also 1 and 2. Products with one row are
 * up to three times as fast as padded ones, but summed in another order.
 */
export function batchSizes(slots: number, small = false): readonly number[] {
  const sizes = small ? [1, 2].filter((size) => size < slots) : [];
  for (let size = 4; size < slots; size *= 2) {
    sizes.push(size);
    if (size > 4 && size * 1.5 < slots) sizes.push(size * 1.5);
  }
  return [...sizes, slots];
}

/** With fewer rows, weights on the left are no faster. */
const FEWEST_WEIGHTS_FIRST = 4;
/** Turning a product's result round would be undone by turning its operands round. */
const KEEP_WEIGHTS_FIRST = { "optimization.disable_specified_optimizers": "GemmTransposeFusion" };

/** A session for one size and variant of sampling, and calls of a whole step per slot of the parameter store. */
interface Compiled {
  readonly session: Session;
  readonly calls: readonly PreparedCall[];
  /** What else was made for these calls. */
  readonly own: readonly { release(): void }[];
}

/** What a step of one size and variant reads and writes. */
interface Step {
  readonly size: number;
  readonly variant: SamplingVariant;
  readonly positions: Readonly<Record<string, Value>>;
  readonly logits: Value;
  readonly sampling: SamplingValues;
}

export interface DecodeBatchOptions {
  readonly slots: number;
  readonly cells: number;
  readonly threads: number;
  /** See `GenerationOptions.bitEqual`. */
  readonly bitEqual: boolean;
}

export class DecodeBatch {
  readonly cache: KvCache;
  /** What the latest step sampled, per seat. */
  readonly sampling: SamplingRows;
  /** Sequences by seat. */
  readonly seats: (Sequence | undefined)[];
  readonly #config: DecoderConfig;
  readonly #place: GenerationPlace;
  readonly #options: DecodeBatchOptions;
  readonly #shapes = new Map<string, Compiled>();
  readonly #total: Value;
  readonly #logits: Float32Array;
  readonly #tokens: Int32Array;
  readonly #lengths: Int32Array;
  #sizes: readonly number[];
  #taken = 0;

  constructor(config: DecoderConfig, place: GenerationPlace, options: DecodeBatchOptions) {
    const { slots, cells, bitEqual } = options;
    this.#config = config;
    this.#place = place;
    this.#options = options;
    // A cache on a device cannot be used in parts.
    this.#sizes = place.provider === undefined ? batchSizes(slots, !bitEqual) : [slots];
    this.cache = place.makeCache(slots);
    this.seats = new Array(slots).fill(undefined);
    this.#tokens = allocateInt32(slots);
    this.#lengths = allocateInt32(slots);
    this.sampling = new SamplingRows(slots, config.vocabularySize);
    this.#logits = allocateFloat32(slots * config.vocabularySize);
    const total = allocateInt32(1);
    total[0] = cells;
    this.#total = int32Value(total, []);
  }

  get taken(): number {
    return this.#taken;
  }

  get full(): boolean {
    return this.#taken === this.seats.length;
  }

  /** Always runs the whole batch, for machines where the size of a batch changes its rows' last bits. */
  fixSize(): void {
    this.#sizes = [this.#options.slots];
  }

  /** Gives a sequence the first free seat and copies its cache in. The caller has checked that there is one. */
  seat(sequence: Sequence): void {
    const seat = this.seats.indexOf(undefined);
    this.seats[seat] = sequence;
    this.#taken++;
    sequence.seat = seat;
    sequence.cellsAtHome = sequence.cached;
    if (sequence.home !== undefined) this.cache.copyCells(seat, sequence.home.block, 0, 0, sequence.cached);
  }

  /** Takes a sequence's seat back. With `keep`, cells added since it sat down are copied to its home row. */
  unseat(sequence: Sequence, keep: boolean): void {
    const { seat, home, cellsAtHome, cached } = sequence;
    if (keep) home?.block.copyCells(0, this.cache, seat, cellsAtHome, cached);
    this.seats[seat] = undefined;
    this.#taken--;
    sequence.seat = -1;
  }

  /** Runs every seated sequence by one token under the weights of `slot`; returns them, in the order of their seats. */
  run(slot: Slot): Sequence[] {
    const size = this.#sizes.find((candidate) => candidate >= this.#taken) as number;
    this.#closeRanks(size);
    const variant = this.#variant();
    const active: Sequence[] = [];
    for (let seat = 0; seat < size; seat++) {
      const sequence = this.seats[seat];
      if (sequence !== undefined) {
        sequence.lastSeat = seat;
        active.push(sequence);
      }
      // An empty seat gets padding in its first cell, where nobody's cache is.
      this.#tokens[seat] = sequence?.tokens[sequence.length - 1] ?? 0;
      this.#lengths[seat] = sequence?.cached ?? 0;
      this.sampling.fill(seat, sequence, variant);
    }
    this.#place.weights.use(slot);
    (this.#shape(size, variant).calls[slot] as PreparedCall)();
    if (variant !== "plain") {
      for (const { seat, answer } of active) {
        if (answer !== undefined) this.sampling.settle(seat, answer.plan, this.logits(seat));
      }
    }
    return active;
  }

  /** Logits [vocabulary] of a seat after the latest step. */
  logits(seat: number): Float32Array {
    const { vocabularySize } = this.#config;
    return this.#logits.subarray(seat * vocabularySize, (seat + 1) * vocabularySize);
  }

  release(): void {
    for (const { session, own } of this.#shapes.values()) {
      session.release();
      for (const value of own) value.release();
    }
    this.#shapes.clear();
    this.#total.release();
    this.cache.release();
  }

  /** Moves sequences from seats past `size` into free ones before it. */
  #closeRanks(size: number): void {
    for (let seat = size; seat < this.seats.length; seat++) {
      const sequence = this.seats[seat];
      if (sequence === undefined) continue;
      const free = this.seats.indexOf(undefined);
      this.cache.copyCells(free, this.cache, seat, 0, sequence.cached);
      this.seats[free] = sequence;
      this.seats[seat] = undefined;
      sequence.seat = free;
    }
  }

  /** The least that serves every seated sequence. */
  #variant(): SamplingVariant {
    let most = 0;
    for (const sequence of this.seats) {
      if (sequence?.answer !== undefined)
        most = Math.max(most, SAMPLING_VARIANTS.indexOf(sequence.answer.plan.variant));
    }
    return SAMPLING_VARIANTS[most] as SamplingVariant;
  }

  #shape(size: number, variant: SamplingVariant): Compiled {
    const key = `${size} ${variant}`;
    const known = this.#shapes.get(key);
    if (known !== undefined) return known;
    const { vocabularySize } = this.#config;
    const positions = {
      tokens: int32Value(this.#tokens.subarray(0, size), [size]),
      lengths: int32Value(this.#lengths.subarray(0, size), [size]),
    };
    const logits = float32Value(this.#logits.subarray(0, size * vocabularySize), [size, vocabularySize]);
    const sampling = this.sampling.values(size, variant);
    const step = { size, variant, positions, logits, sampling };
    const { shared, provider } = this.#place;
    const compiled =
      shared !== undefined
        ? this.#share(step, shared)
        : provider !== undefined
          ? this.#compileForDevice(step, provider)
          : this.#compile(step);
    const values = [positions, { logits }, sampling.feeds, sampling.fetches].flatMap((group) => Object.values(group));
    const shape = { ...compiled, own: [...compiled.own, ...values] };
    this.#shapes.set(key, shape);
    return shape;
  }

  /** A graph of this size for the whole step. */
  #compile({ size, variant, positions, logits, sampling }: Step): Compiled {
    const { cells, bitEqual } = this.#options;
    const weightsFirst = !bitEqual && size >= FEWEST_WEIGHTS_FIRST;
    // with other numbers of threads sums have other last bits
    const threads = bitEqual
      ? this.#options.threads
      : threadsFor(this.#place.weights.layout, size, this.#options.threads);
    const fused = fusedLayers(this.#config, this.#place.weights, { rows: size, cells, threads });
    const shape = { rows: size, cells, variant, weightsFirst, fused };
    const { model, weightNames } = decodeGraph(this.#config, this.#place.weights, shape);
    const session = new Session(model, { threads, config: KEEP_WEIGHTS_FIRST, operators: fused?.operator.domain });
    const cache = this.cache.view(0, size);
    const calls = SLOTS.map((slot) =>
      session.prepare(
        {
          ...positions,
          ...sampling.feeds,
          total: this.#total,
          ...this.#place.weights.of(slot, weightNames),
          ...cache.feeds,
        },
        { ...sampling.fetches, logits, ...cache.fetches },
      ),
    );
    return { session, calls, own: [] };
  }

  /**
   * The model's graph on the device and one that samples from its logits on the processor: sampling asks for operators that
   * GPUs lack, and the logits come back in any case.
   */
  #compileForDevice({ size, variant, positions, logits, sampling }: Step, provider: Provider): Compiled {
    const { cells, threads } = this.#options;
    const { weights } = this.#place;
    const { model, weightNames } = decodeGraph(this.#config, weights, { rows: size, cells, variant: undefined });
    const forward = new Session(model, { threads, provider });
    const session = new Session(samplingGraph(this.#config, size, variant), { threads });
    const sample = session.prepare({ logits, ...sampling.feeds }, sampling.fetches);
    const cache = this.cache.view(0, size);
    const calls = SLOTS.map((slot) => {
      let step: PreparedCall | undefined;
      return () => {
        // Not before it is needed: the weights of a slot take memory on the device.
        step ??= forward.prepare(
          { ...positions, total: this.#total, ...weights.of(slot, weightNames), ...cache.feeds },
          { logits, ...cache.fetches },
        );
        step();
        sample();
      };
    });
    return { session, calls, own: [forward] };
  }

  /** The graph for all sizes, and one of this size that samples from its logits. */
  #share({ size, variant, positions, logits, sampling }: Step, shared: SharedForward): Compiled {
    const { threads } = this.#options;
    const session = new Session(samplingGraph(this.#config, size, variant), { threads });
    const sample = session.prepare({ logits, ...sampling.feeds }, sampling.fetches);
    const cache = this.cache.view(0, size);
    const rows = allocateInt32(size);
    for (let row = 0; row < size; row++) rows[row] = row;
    const wanted = int32Value(rows, [size]);
    const inputs = { ...positions, wanted, total: this.#total, ...cache.feeds };
    const calls = SLOTS.map((slot) => {
      const weights = this.#place.weights.of(slot, shared.weightNames);
      const forward = shared.session.prepare({ ...inputs, ...weights }, { logits, ...cache.fetches });
      return () => {
        forward();
        sample();
      };
    });
    return { session, calls, own: [wanted] };
  }
}
