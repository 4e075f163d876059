/**
 * The batch that decode steps run on. A sequence takes a seat in it for the time of one answer: its cache is copied in
 * and, afterwards, what was added to it is copied out (about 5 µs each way for 50 tokens of the shell model). So the
 * rows in work always lie together at the start of the batch, and a step costs what they need, whatever the number of
 * sequences that wait for their tools: a step of 4 rows takes 0.37 ms where one of 32 takes 1.6 ms (one thread).
 */

import type { DecoderConfig } from "../../models/config.ts";
import { SLOTS, type Slot } from "../../models/parameter-store.ts";
import { allocateBytes, allocateFloat32, allocateInt32 } from "../../runtime/memory.ts";
import { type PreparedCall, Session } from "../../runtime/session.ts";
import { float32Value, int32Value, Value } from "../../runtime/value.ts";
import { decodeGraph } from "./graphs.ts";
import { KvBlock } from "./kv-block.ts";
import type { Sequence } from "./sequence.ts";
import type { SlotWeights } from "./weight-values.ts";

/** Batch sizes a step may have: 4, 8, 12, 16, 24, 32, 48, … and `slots`. Never 1: see `GenerationOptions.slots`. */
export function batchSizes(slots: number): readonly number[] {
  const sizes: number[] = [];
  for (let size = 4; size < slots; size *= 2) {
    sizes.push(size);
    if (size > 4 && size * 1.5 < slots) sizes.push(size * 1.5);
  }
  return [...sizes, slots];
}

/** A compiled batch size with its calls per slot of the parameter store. */
interface Shape {
  readonly session: Session;
  readonly values: readonly Value[];
  readonly calls: readonly PreparedCall[];
}

export interface DecodeBatchOptions {
  readonly slots: number;
  readonly cells: number;
  readonly threads: number;
}

export class DecodeBatch {
  readonly cache: KvBlock;
  /** Outputs of the latest step, per seat. */
  readonly tokens: Int32Array;
  /** Log-probability of the token after temperature. */
  readonly logprobs: Float32Array;
  readonly logprobsT1: Float32Array;
  /** Sequences by seat. */
  readonly seats: (Sequence | undefined)[];
  readonly #config: DecoderConfig;
  readonly #weights: SlotWeights;
  readonly #options: DecodeBatchOptions;
  readonly #shapes = new Map<number, Shape>();
  readonly #total: Value;
  readonly #logits: Float32Array;
  readonly #inputs: {
    readonly tokens: Int32Array;
    readonly lengths: Int32Array;
    readonly uniform: Float32Array;
    readonly inverseTemperature: Float32Array;
    readonly greedy: Uint8Array;
    readonly forced: Int32Array;
  };
  #sizes: readonly number[];
  #taken = 0;

  constructor(config: DecoderConfig, weights: SlotWeights, options: DecodeBatchOptions) {
    const { slots, cells } = options;
    this.#config = config;
    this.#weights = weights;
    this.#options = options;
    this.#sizes = batchSizes(slots);
    this.cache = new KvBlock(config, slots, cells);
    this.seats = new Array(slots).fill(undefined);
    this.#inputs = {
      tokens: allocateInt32(slots),
      lengths: allocateInt32(slots),
      uniform: allocateFloat32(slots).fill(0.5),
      inverseTemperature: allocateFloat32(slots).fill(1),
      greedy: allocateBytes(slots),
      forced: allocateInt32(slots),
    };
    this.tokens = allocateInt32(slots);
    this.logprobs = allocateFloat32(slots);
    this.logprobsT1 = allocateFloat32(slots);
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
    this.cache.copyCells(seat, sequence.home.block, sequence.home.row, 0, sequence.cached);
  }

  /** Takes a sequence's seat back. With `keep`, cells added since it sat down are copied to its home row. */
  unseat(sequence: Sequence, keep: boolean): void {
    const { seat, home, cellsAtHome, cached } = sequence;
    if (keep) home.block.copyCells(home.row, this.cache, seat, cellsAtHome, cached);
    this.seats[seat] = undefined;
    this.#taken--;
    sequence.seat = -1;
  }

  /** Runs every seated sequence by one token under the weights of `slot`; returns them, in the order of their seats. */
  run(slot: Slot): Sequence[] {
    const size = this.#sizes.find((candidate) => candidate >= this.#taken) as number;
    this.#closeRanks(size);
    const active: Sequence[] = [];
    for (let seat = 0; seat < size; seat++) {
      const sequence = this.seats[seat];
      if (sequence !== undefined) {
        sequence.lastSeat = seat;
        active.push(sequence);
      }
      this.#fill(seat, sequence);
    }
    (this.#shape(size).calls[slot] as PreparedCall)();
    return active;
  }

  /** Logits [vocabulary] of a seat after the latest step. */
  logits(seat: number): Float32Array {
    const { vocabularySize } = this.#config;
    return this.#logits.subarray(seat * vocabularySize, (seat + 1) * vocabularySize);
  }

  release(): void {
    for (const { session, values } of this.#shapes.values()) {
      session.release();
      for (const value of values) value.release();
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

  /** Inputs of a seat; an empty one gets padding in its first cell, where nobody's cache is. */
  #fill(seat: number, sequence: Sequence | undefined): void {
    const inputs = this.#inputs;
    const answer = sequence?.answer;
    if (sequence === undefined || answer === undefined) {
      inputs.tokens[seat] = 0;
      inputs.lengths[seat] = 0;
      inputs.forced[seat] = 0;
      return;
    }
    const { greedy, temperature } = answer.sampling;
    inputs.tokens[seat] = sequence.tokens[sequence.length - 1] as number;
    inputs.lengths[seat] = sequence.cached;
    inputs.greedy[seat] = greedy ? 1 : 0;
    inputs.inverseTemperature[seat] = greedy ? 1 : 1 / temperature;
    inputs.forced[seat] = answer.forced?.[answer.count] ?? -1;
    inputs.uniform[seat] = greedy ? 0.5 : sequence.uniform();
  }

  #shape(size: number): Shape {
    const known = this.#shapes.get(size);
    if (known !== undefined) return known;
    const { cells, threads } = this.#options;
    const { model, weightNames } = decodeGraph(this.#config, this.#weights, size, cells);
    const session = new Session(model, { threads });
    const perRow = [size, 1];
    const { tokens, lengths, uniform, inverseTemperature, greedy, forced } = this.#inputs;
    const feeds = {
      tokens: int32Value(tokens.subarray(0, size), [size]),
      lengths: int32Value(lengths.subarray(0, size), [size]),
      uniform: float32Value(uniform.subarray(0, size), perRow),
      inverse_temperature: float32Value(inverseTemperature.subarray(0, size), perRow),
      greedy: new Value("bool", perRow, greedy.subarray(0, size)),
      forced: int32Value(forced.subarray(0, size), perRow),
    };
    const { vocabularySize } = this.#config;
    const fetches = {
      token: int32Value(this.tokens.subarray(0, size), perRow),
      logprob: float32Value(this.logprobs.subarray(0, size), perRow),
      logprob_t1: float32Value(this.logprobsT1.subarray(0, size), perRow),
      logits: float32Value(this.#logits.subarray(0, size * vocabularySize), [size, vocabularySize]),
    };
    const cache = this.cache.view(0, size);
    const calls = SLOTS.map((slot) =>
      session.prepare(
        { ...feeds, total: this.#total, ...this.#weights.of(slot, weightNames), ...cache.feeds },
        { ...fetches, ...cache.fetches },
      ),
    );
    const shape = { session, values: [...Object.values(feeds), ...Object.values(fetches)], calls };
    this.#shapes.set(size, shape);
    return shape;
  }
}
