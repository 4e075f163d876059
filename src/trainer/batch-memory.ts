/** Tokens, labels and weights of one rectangle, and what is computed for each of its tokens. */

import { AleError } from "../core/errors.ts";
import {
  CANDIDATE_LOGPROBS,
  CANDIDATE_WEIGHTS,
  CANDIDATES,
  DIVERGENCE,
  DIVERGENCE_WEIGHTS,
  ENTROPY,
  ENTROPY_WEIGHTS,
  INVERSE_TEMPERATURE,
  LABELS,
  LOGPROBS,
  REFERENCE_STATES,
  STATES,
  TOP_IDS,
  TOP_LOGPROBS,
  VALUE_WEIGHTS,
  VALUES,
  WEIGHTS,
} from "../models/decoder-head.ts";
import { POSITIONS, SEGMENTS } from "../models/decoder-layer.ts";
import { allocateFloat32, allocateInt32, allocateInt64 } from "../runtime/memory.ts";
import { float32Value, int32Value, int64Value, type Value } from "../runtime/value.ts";
import type { LaidOut, Rectangle, RunnerMode, WeightColumns } from "./executor.ts";

type Ids = BigInt64Array | Int32Array;
type Columns = Readonly<Record<string, Float32Array>>;

export interface BatchMemoryOptions {
  readonly vocabularySize: number;
  readonly hiddenSize: number;
  /** Type of token ids in the graph; default `int64`. */
  readonly integers?: "int64" | "int32";
}

/** What each term of the loss is called: its weights and itself. */
const TERMS = [
  [WEIGHTS, LOGPROBS],
  [ENTROPY_WEIGHTS, ENTROPY],
  [VALUE_WEIGHTS, VALUES],
  [CANDIDATE_WEIGHTS, CANDIDATE_LOGPROBS],
  [DIVERGENCE_WEIGHTS, DIVERGENCE],
] as const;

/** Sums over the tokens of a run. */
export interface BatchSums {
  loss: number;
  entropy: number;
  tokens: number;
  /** Σ weight · divergence, which is part of the loss with the other sign. */
  divergence: number;
}

/** Arrays over the N = rows · length tokens of a rectangle; each token's place predicts the next of its sequence. */
export class BatchMemory {
  /** Tokens of the rectangle. */
  readonly tokens: number;
  readonly ids: Ids;
  readonly #labels: Ids;
  readonly #candidates: Ids;
  /** What goes in and comes out per token, under the graph's names. */
  readonly #inputs: Columns;
  readonly #outputs: Columns;
  readonly #inverseTemperature = allocateFloat32(1);
  readonly #vocabularySize: number;
  readonly #shape: Rectangle;
  /** Each token's position in its sequence, and its sequence's number; empty unless rows hold several sequences. */
  readonly #positions: BigInt64Array;
  readonly #segments: Float32Array;
  /** Places of the sequences: begin, and end (exclusive). */
  #places: readonly { readonly begin: number; readonly end: number }[] = [];

  constructor(
    { vocabularySize, hiddenSize, integers = "int64" }: BatchMemoryOptions,
    mode: RunnerMode,
    shape: Rectangle,
  ) {
    const { gradients, terms } = mode;
    const { candidates = 0, divergence = false, states = false, top } = terms;
    const tokens = shape.rows * shape.length;
    this.#vocabularySize = vocabularySize;
    this.#shape = shape;
    this.#positions = allocateInt64(shape.packed === true ? tokens : 0);
    this.#segments = allocateFloat32(shape.packed === true ? tokens : 0);
    this.tokens = tokens;
    const allocateIds = integers === "int64" ? allocateInt64 : allocateInt32;
    this.ids = allocateIds(tokens);
    this.#labels = allocateIds(tokens);
    this.#candidates = allocateIds(tokens * candidates);
    const columns = (wanted: readonly (readonly [name: string, isWanted: boolean, width: number])[]): Columns =>
      Object.fromEntries(
        wanted.flatMap(([name, isWanted, width]) => (isWanted ? [[name, allocateFloat32(tokens * width)]] : [])),
      );
    const hasValues = terms.values !== undefined;
    this.#inputs = columns([
      [WEIGHTS, gradients, 1],
      [ENTROPY_WEIGHTS, gradients && terms.entropy === true, 1],
      [VALUE_WEIGHTS, gradients && hasValues, 1],
      [CANDIDATE_WEIGHTS, gradients && candidates > 0, candidates],
      [DIVERGENCE_WEIGHTS, gradients && divergence, 1],
      [REFERENCE_STATES, divergence, hiddenSize],
    ]);
    this.#outputs = columns([
      [STATES, states, hiddenSize],
      [LOGPROBS, !states, 1],
      [ENTROPY, gradients, 1],
      [VALUES, hasValues, 1],
      [CANDIDATE_LOGPROBS, candidates > 0, candidates],
      [DIVERGENCE, divergence, 1],
      [TOP_IDS, top !== undefined, top?.count ?? 0],
      [TOP_LOGPROBS, top !== undefined, top?.count ?? 0],
    ]);
  }

  set temperature(value: number) {
    this.#inverseTemperature[0] = 1 / value;
  }

  /** One of the outputs that every run writes. */
  get first(): Float32Array {
    return (this.#outputs[STATES] ?? this.#outputs[LOGPROBS]) as Float32Array;
  }

  /** See `BatchRunner.load`. */
  load({ sequences, starts }: LaidOut, weights: WeightColumns = {}, candidates: readonly Int32Array[] = []): void {
    for (const ids of [this.ids, this.#labels, this.#candidates]) fill(ids, 0, ids.length, () => 0);
    this.#places = sequences.map((sequence, index) => {
      const begin = starts[index] as number;
      return { begin, end: begin + sequence.length - 1 };
    });
    for (const [index, sequence] of sequences.entries()) {
      const { begin, end } = this.#place(index);
      fill(this.ids, begin, end - begin, (t) => this.#checkedId(sequence[t] as number));
      fill(this.#labels, begin, end - begin, (t) => this.#checkedId(sequence[t + 1] as number));
    }
    this.#mark();
    const width = this.#candidates.length / this.tokens;
    for (const [index, ids] of candidates.entries()) {
      const start = this.#place(index).begin * width;
      fill(this.#candidates, start, ids.length - width, (i) => this.#checkedId(ids[i + width] as number));
    }
    for (const [name, rows] of Object.entries(weights)) this.#layWeights(this.#inputs[name] as Float32Array, rows);
  }

  /** See `BatchRunner.copyOutput`. */
  copyOutput(name: string, index: number, target: Float32Array): void {
    const output = this.#outputs[name] as Float32Array;
    const width = output.length / this.tokens;
    const start = this.#place(index).begin * width;
    target.set(output.subarray(start, start + target.length - width), width);
  }

  /** See `BatchRunner.addSums`. */
  addSums(sums: BatchSums): void {
    for (const { begin, end } of this.#places) {
      for (const [weightName, name] of TERMS) {
        const weights = this.#inputs[weightName];
        if (weights === undefined) continue;
        const term = this.#outputs[name] as Float32Array;
        const width = weights.length / this.tokens;
        for (let i = begin * width; i < end * width; i++) {
          if (weights[i] === 0) continue;
          const weighted = (weights[i] as number) * (term[i] as number);
          sums.loss -= weighted;
          if (name === DIVERGENCE) sums.divergence += weighted;
        }
      }
      for (let token = begin; token < end; token++) {
        if (this.#inputs[WEIGHTS]?.[token] === 0 && !this.#hasCandidates(token)) continue;
        sums.entropy += this.#outputs[ENTROPY]?.[token] as number;
        sums.tokens++;
      }
    }
  }

  /** Whether the loss has a term of the token's candidates. */
  #hasCandidates(token: number): boolean {
    const weights = this.#inputs[CANDIDATE_WEIGHTS];
    if (weights === undefined) return false;
    const width = weights.length / this.tokens;
    return weights.subarray(token * width, (token + 1) * width).some((weight) => weight !== 0);
  }

  /** Where sequences begin, to be bound to graphs with attention; nothing unless rows hold several sequences. */
  placement(): Record<string, Value> {
    const { rows, length, packed } = this.#shape;
    if (packed !== true) return {};
    return {
      [POSITIONS]: int64Value(this.#positions, [rows, length]),
      [SEGMENTS]: float32Value(this.#segments, [rows, length]),
    };
  }

  /** What the head reads and writes for the tokens from `begin` to `end` (exclusive), to be bound to its graph. */
  head(
    begin = 0,
    end = this.tokens,
  ): { readonly feeds: Record<string, Value>; readonly fetches: Record<string, Value> } {
    const count = end - begin;
    const column = (data: Float32Array) => {
      const width = data.length / this.tokens;
      return float32Value(data.subarray(begin * width, end * width), [count, width]);
    };
    const columns = (all: Columns) =>
      Object.fromEntries(Object.entries(all).map(([name, data]) => [name, column(data)]));
    const feeds: Record<string, Value> = {
      ...columns(this.#inputs),
      [LABELS]: idValue(this.#labels.subarray(begin, end), [count]),
      [INVERSE_TEMPERATURE]: float32Value(this.#inverseTemperature, []),
    };
    const width = this.#candidates.length / this.tokens;
    if (width > 0) feeds[CANDIDATES] = idValue(this.#candidates.subarray(begin * width, end * width), [count, width]);
    return { feeds, fetches: columns(this.#outputs) };
  }

  #checkedId(id: number): number {
    if (id < 0 || id >= this.#vocabularySize) {
      throw new AleError("engine", `token ${id} is outside the vocabulary of ${this.#vocabularySize}`, {
        hint: "the tokenizer and the model must belong together",
      });
    }
    return id;
  }

  #place(index: number): { readonly begin: number; readonly end: number } {
    return this.#places[index] as { begin: number; end: number };
  }

  /** Numbers the sequences from 1; padding has the number 0, and all its tokens position 0. */
  #mark(): void {
    this.#positions.fill(0n);
    this.#segments.fill(0);
    if (this.#shape.packed !== true) return;
    for (const [index, { begin, end }] of this.#places.entries()) {
      this.#segments.fill(index + 1, begin, end);
      for (let token = begin; token < end; token++) this.#positions[token] = BigInt(token - begin);
    }
  }

  #layWeights(target: Float32Array, weights: readonly Float32Array[]): void {
    const width = target.length / this.tokens;
    target.fill(0);
    for (const [index, values] of weights.entries()) {
      target.set(values.subarray(width), this.#place(index).begin * width);
    }
  }
}

export function idValue(ids: Ids, shape: readonly number[]): Value {
  return ids instanceof BigInt64Array ? int64Value(ids, shape) : int32Value(ids, shape);
}

function fill(target: Ids, start: number, count: number, id: (index: number) => number): void {
  if (target instanceof BigInt64Array) for (let i = 0; i < count; i++) target[start + i] = BigInt(id(i));
  else for (let i = 0; i < count; i++) target[start + i] = id(i);
}
