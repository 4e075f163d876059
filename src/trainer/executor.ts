/** How micro-batches are computed; there are two ways, `DecoderRunners` and `LayeredRunners`. */

import type { DecoderConfig } from "../models/config.ts";
import type { LossTerms } from "../models/decoder-head.ts";
import type { TokenShape } from "../models/decoder-layer.ts";
import type { Adapters } from "../models/lora.ts";
import type { Slot } from "../models/parameter-store.ts";
import type { Value } from "../runtime/value.ts";
import type { BatchSums } from "./batch-memory.ts";

/** What a run computes: log-probabilities and other terms, and with gradients entropy and the gradients of a loss. */
export interface RunnerMode {
  readonly gradients: boolean;
  readonly terms: LossTerms;
}

/** Equal for modes that are computed by the same graph. */
export function modeKey({ gradients, terms }: RunnerMode): string {
  const { entropy = false, values = "no", candidates = 0, divergence = false, states = false, top } = terms;
  const rest = `candidates:${candidates} divergence:${divergence} states:${states} top:${top?.count ?? 0}/${top?.among ?? 0}`;
  return `${gradients ? "gradients" : "logprobs"} entropy:${entropy} values:${values} ${rest}`;
}

/** The model an executor computes. */
export interface RunnerModel {
  readonly config: DecoderConfig;
  /** With adapters, only they are trained. */
  readonly adapters: Adapters | undefined;
  /** All parameters under the weights of a slot, by name, and `REFERENCE_TABLE` where there is a reference of its own. */
  readonly weights: (slot: Slot) => Readonly<Record<string, Value>>;
}

export type Rectangle = TokenShape;

/** Equal for rectangles that are computed by the same graph. */
export function rectangleKey({ rows, length, packed = false }: Rectangle): string {
  return `${rows}x${length}${packed ? " packed" : ""}`;
}

/** Sequences and where they lie: the index of the token in the rectangle that the first of each takes. */
export interface LaidOut {
  readonly sequences: readonly Int32Array[];
  readonly starts: readonly number[];
}

/** Weights of a loss: per sequence, under the name of the graph's input, from the sequence's first token on. */
export type WeightColumns = Readonly<Record<string, readonly Float32Array[]>>;

/** One rectangle of tokens with the memory it is computed in. Each token's place predicts the next of its sequence. */
export interface BatchRunner {
  /**
   * Lays out sequences with the weights of their tokens; everything else becomes padding.
   * @param candidates K token ids per token of each sequence.
   */
  load(laidOut: LaidOut, weights?: WeightColumns, candidates?: readonly Int32Array[]): void;
  /** Writes the output `name` of the sequence loaded as number `index` to `target`, from the second token on. */
  copyOutput(name: string, index: number, target: Float32Array): void;
  /** Adds the gradients of the embedded tokens, if it is trained, to the embedding's gradient, in order of position. */
  scatterEmbeddedGradient(): void;
  /** Adds this run's loss, and entropy and number of the tokens with a weight, to `sums`. */
  addSums(sums: BatchSums): void;
}

export interface Executor {
  /** Micro-batches in work at once; each lane has gradients of its own. */
  readonly lanes: number;
  /** The runner of a rectangle in a lane; valid until the next `get` for that lane. */
  get(mode: RunnerMode, rectangle: Rectangle, lane: number): BatchRunner;
  /**
   * Calls that compute, made in their order, what was loaded into runners of different lanes, in the order of the lanes.
   * Between two of them anything else may run that leaves this executor alone.
   */
  calls(runners: readonly BatchRunner[], slot: Slot, temperature: number): readonly (() => void)[];
  /** Frees the compiled graphs. */
  release(): void;
}
