/** Runs decode steps: one compiled graph, and per block its cache, its inputs and its outputs. */

import type { DecoderConfig } from "../../models/config.ts";
import { type ParameterStore, SLOTS, type Slot } from "../../models/parameter-store.ts";
import { allocateBytes, allocateFloat32, allocateInt32 } from "../../runtime/memory.ts";
import { type PreparedCall, Session } from "../../runtime/session.ts";
import { float32Value, int32Value, Value } from "../../runtime/value.ts";
import { decodeGraph } from "./graphs.ts";
import { KvBlock } from "./kv-block.ts";
import type { SlotWeights } from "./weight-values.ts";

/** One element per row of a block. */
export interface DecodeInputs {
  /** The token to feed; any valid id for rows that are not sampling. */
  readonly tokens: Int32Array;
  /** Cells in use before the step: where the token's keys and values go. */
  readonly lengths: Int32Array;
  /** Noise in (0, 1). */
  readonly uniform: Float32Array;
  readonly inverseTemperature: Float32Array;
  /** 1 takes the most likely token instead of sampling. */
  readonly greedy: Uint8Array;
  /** A token id to score instead of sampling, or -1. */
  readonly forced: Int32Array;
}

export interface DecodeOutputs {
  readonly tokens: Int32Array;
  /** Log-probability of `tokens` after temperature; float32 like everything the graph computes. */
  readonly logprobs: Float32Array;
  readonly logprobsT1: Float32Array;
  /** [rows, vocabulary]; shared by all blocks, so valid until the next step of any block. */
  readonly logits: Float32Array;
}

/** A block's cache with the memory a decode step reads and writes. */
export class DecodeBlock {
  readonly cache: KvBlock;
  readonly inputs: DecodeInputs;
  readonly outputs: DecodeOutputs;
  readonly #decoder: Decoder;
  readonly #values: readonly Value[];
  readonly #calls: readonly PreparedCall[];

  constructor(decoder: Decoder) {
    const { rows, config, cells, session, weightNames } = decoder;
    this.#decoder = decoder;
    this.cache = new KvBlock(config, rows, cells);
    this.inputs = {
      tokens: allocateInt32(rows),
      lengths: allocateInt32(rows),
      uniform: allocateFloat32(rows).fill(0.5),
      inverseTemperature: allocateFloat32(rows).fill(1),
      greedy: allocateBytes(rows),
      forced: allocateInt32(rows).fill(-1),
    };
    this.outputs = {
      tokens: allocateInt32(rows),
      logprobs: allocateFloat32(rows),
      logprobsT1: allocateFloat32(rows),
      logits: decoder.logits.data as Float32Array,
    };
    const perRow = [rows, 1];
    const feeds = {
      tokens: int32Value(this.inputs.tokens, [rows]),
      lengths: int32Value(this.inputs.lengths, [rows]),
      uniform: float32Value(this.inputs.uniform, perRow),
      inverse_temperature: float32Value(this.inputs.inverseTemperature, perRow),
      greedy: new Value("bool", perRow, this.inputs.greedy),
      forced: int32Value(this.inputs.forced, perRow),
    };
    const fetches = {
      token: int32Value(this.outputs.tokens, perRow),
      logprob: float32Value(this.outputs.logprobs, perRow),
      logprob_t1: float32Value(this.outputs.logprobsT1, perRow),
    };
    this.#values = [...Object.values(feeds), ...Object.values(fetches)];
    const { whole } = this.cache;
    this.#calls = SLOTS.map((slot) =>
      session.prepare(
        { ...feeds, total: decoder.total, ...decoder.weights.of(slot, weightNames), ...whole.feeds },
        { ...fetches, logits: decoder.logits, ...whole.fetches },
      ),
    );
  }

  /** Runs every row by one token under the weights of `slot`. */
  run(slot: Slot): void {
    (this.#calls[slot] as PreparedCall)();
  }

  /** The logits of a row after the latest step, which must have been one of this block. */
  rowLogits(row: number): Float32Array {
    const { vocabularySize } = this.#decoder.config;
    return this.outputs.logits.subarray(row * vocabularySize, (row + 1) * vocabularySize);
  }

  release(): void {
    for (const value of this.#values) value.release();
    this.cache.release();
  }
}

export class Decoder {
  readonly config: DecoderConfig;
  readonly rows: number;
  readonly cells: number;
  readonly session: Session;
  readonly weights: SlotWeights;
  readonly weightNames: readonly string[];
  readonly logits: Value;
  readonly total: Value;

  constructor(
    config: DecoderConfig,
    store: ParameterStore,
    weights: SlotWeights,
    shape: { readonly rows: number; readonly cells: number; readonly threads: number },
  ) {
    this.config = config;
    this.rows = shape.rows;
    this.cells = shape.cells;
    this.weights = weights;
    const { model, weightNames } = decodeGraph(config, store.layout, shape.rows, shape.cells);
    this.weightNames = weightNames;
    this.session = new Session(model, { threads: shape.threads });
    const { vocabularySize } = config;
    this.logits = float32Value(allocateFloat32(shape.rows * vocabularySize), [shape.rows, vocabularySize]);
    const total = allocateInt32(1);
    total[0] = shape.cells;
    this.total = int32Value(total, []);
  }

  release(): void {
    this.session.release();
    this.logits.release();
    this.total.release();
  }
}
