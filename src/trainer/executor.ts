/** How micro-batches are computed; there are two ways, `DecoderRunners` and `LayeredRunners`. */

import type { Slot } from "../models/parameter-store.ts";

export type RunnerMode = "logprobs" | "gradients" | "entropy-gradients";

export interface Rectangle {
  /** Sequences, and their length in tokens. */
  readonly rows: number;
  readonly length: number;
}

/** One rectangle of tokens with the memory it is computed in. Row r, position t predicts token t + 1 of row r's sequence. */
export interface BatchRunner {
  /** Lays out sequences, one per row, with the weights of their tokens; everything else becomes padding. */
  load(
    sequences: readonly Int32Array[],
    weights?: readonly Float32Array[],
    entropyWeights?: readonly Float32Array[],
  ): void;
  /** Writes log p of the sequence in `row` to `target`, from element 1 on. */
  copyLogprobs(row: number, target: Float32Array): void;
  /** Adds the gradients of the embedded tokens, if it is trained, to the embedding's gradient, in order of position. */
  scatterEmbeddedGradient(): void;
  /** Adds this run's loss, and entropy and number of the tokens with a weight, to `sums`. */
  addSums(sums: { loss: number; entropy: number; tokens: number }): void;
}

export interface Executor {
  /** Micro-batches in work at once; each lane has gradients of its own. */
  readonly lanes: number;
  /** The runner of a rectangle in a lane; valid until the next `get` for that lane. */
  get(mode: RunnerMode, rectangle: Rectangle, lane: number): BatchRunner;
  /** Computes what was loaded into runners of different lanes, in the order of the lanes. */
  run(runners: readonly BatchRunner[], slot: Slot, temperature: number): void;
  /** Frees the compiled graphs. */
  release(): void;
}
