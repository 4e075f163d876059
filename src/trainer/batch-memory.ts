/** Tokens, labels and weights of one rectangle, and what is computed for each of its tokens. */

import { AleError } from "../core/errors.ts";
import type { DecoderConfig } from "../models/config.ts";
import { allocateFloat32, allocateInt64 } from "../runtime/memory.ts";
import type { Rectangle, RunnerMode } from "./executor.ts";

/** Arrays over the N = rows · length tokens of a rectangle; row r, position t predicts token t + 1 of row r's sequence. */
export class BatchMemory {
  readonly ids: BigInt64Array;
  readonly labels: BigInt64Array;
  readonly weights: Float32Array;
  readonly entropyWeights: Float32Array;
  readonly inverseTemperature = allocateFloat32(1);
  readonly logprobs: Float32Array;
  readonly entropy: Float32Array;
  readonly #config: DecoderConfig;
  readonly #mode: RunnerMode;
  readonly #length: number;
  #lengths: readonly number[] = [];

  constructor(config: DecoderConfig, mode: RunnerMode, { rows, length }: Rectangle) {
    this.#config = config;
    this.#mode = mode;
    this.#length = length;
    const tokens = rows * length;
    this.ids = allocateInt64(tokens);
    this.labels = allocateInt64(tokens);
    this.weights = allocateFloat32(tokens);
    this.entropyWeights = allocateFloat32(tokens);
    this.logprobs = allocateFloat32(tokens);
    this.entropy = allocateFloat32(tokens);
  }

  /** See `BatchRunner.load`. */
  load(
    sequences: readonly Int32Array[],
    weights?: readonly Float32Array[],
    entropyWeights?: readonly Float32Array[],
  ): void {
    this.ids.fill(0n);
    this.labels.fill(0n);
    this.#lengths = sequences.map((sequence) => sequence.length - 1);
    for (const [row, sequence] of sequences.entries()) {
      const start = row * this.#length;
      for (let t = 1; t < sequence.length; t++) {
        this.ids[start + t - 1] = this.#checkedId(sequence[t - 1] as number);
        this.labels[start + t - 1] = this.#checkedId(sequence[t] as number);
      }
    }
    if (weights !== undefined) this.#layWeights(this.weights, weights);
    if (entropyWeights !== undefined) this.#layWeights(this.entropyWeights, entropyWeights);
  }

  /** See `BatchRunner.copyLogprobs`. */
  copyLogprobs(row: number, target: Float32Array): void {
    const start = row * this.#length;
    target.set(this.logprobs.subarray(start, start + target.length - 1), 1);
  }

  /** See `BatchRunner.addSums`. */
  addSums(sums: { loss: number; entropy: number; tokens: number }): void {
    for (const [row, count] of this.#lengths.entries()) {
      const start = row * this.#length;
      for (let token = start; token < start + count; token++) {
        const weight = this.weights[token] as number;
        const entropy = this.entropy[token] as number;
        if (this.#mode === "entropy-gradients") sums.loss -= (this.entropyWeights[token] as number) * entropy;
        if (weight === 0) continue;
        sums.loss -= weight * (this.logprobs[token] as number);
        sums.entropy += entropy;
        sums.tokens++;
      }
    }
  }

  #checkedId(id: number): bigint {
    const { vocabularySize } = this.#config;
    if (id < 0 || id >= vocabularySize) {
      throw new AleError("engine", `token ${id} is outside the vocabulary of ${vocabularySize}`, {
        hint: "the tokenizer and the model must belong together",
      });
    }
    return BigInt(id);
  }

  #layWeights(target: Float32Array, weights: readonly Float32Array[]): void {
    target.fill(0);
    for (const [row, values] of weights.entries()) target.set(values.subarray(1), row * this.#length);
  }
}
