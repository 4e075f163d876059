/** What a learner is asked for besides log-probabilities, and under which names graphs know it. */

import {
  CANDIDATE_LOGPROBS,
  CANDIDATE_WEIGHTS,
  DIVERGENCE,
  DIVERGENCE_WEIGHTS,
  ENTROPY_WEIGHTS,
  LOGPROBS,
  type LossTerms,
  TOP_IDS,
  TOP_LOGPROBS,
  VALUE_WEIGHTS,
  VALUES,
  WEIGHTS,
} from "../models/decoder-head.ts";
import type { WeightColumns } from "./executor.ts";

/** What a forward pass computes besides log-probabilities. */
export interface ForwardTerms {
  /** Values of the value head, which the store must have. */
  readonly values?: boolean;
  /** `count` tokens per token of each sequence, [T · count]. */
  readonly candidates?: { readonly count: number; readonly ids: readonly Int32Array[] };
  /** The divergence of the distribution from the frozen reference's, over the vocabulary. */
  readonly divergence?: boolean;
  /** The `count` most likely tokens among those with ids below `among`. */
  readonly top?: LossTerms["top"];
}

/** Arrays per sequence; the first token has zeros. */
export interface ForwardResult {
  /** log p(token t | tokens < t). */
  readonly logprobs: Float32Array[];
  /** Value of the context before token t; empty when not asked for. */
  readonly values: Float32Array[];
  /** log p(candidate | tokens < t), [T · count]; empty when not asked for. */
  readonly candidateLogprobs: Float32Array[];
  /** KL(π ‖ reference) in nats where token t is to be predicted; empty when not asked for. */
  readonly divergences: Float32Array[];
  /** The most likely tokens, best first, [T · count], ids as whole floats; empty when not asked for. */
  readonly topIds: Float32Array[];
  readonly topLogprobs: Float32Array[];
}

/** Terms of a loss besides the log-probabilities, per sequence; what is about the first token is ignored. */
export interface BackwardTerms {
  readonly entropyWeights?: readonly Float32Array[] | undefined;
  /** Gradients stop at the value head, or go on into the trunk. */
  readonly values?: { readonly weights: readonly Float32Array[]; readonly into: "head" | "trunk" } | undefined;
  readonly candidates?:
    | {
        readonly count: number;
        readonly ids: readonly Int32Array[];
        readonly weights: readonly Float32Array[];
      }
    | undefined;
  /** Of the divergence from the frozen reference, over the vocabulary. */
  readonly divergenceWeights?: readonly Float32Array[] | undefined;
}

export interface BackwardResult {
  /** −Σ weight · term, over all terms. */
  readonly loss: number;
  /** log p of every token, as `ForwardResult` gives them. */
  readonly logprobs: Float32Array[];
  /** Mean entropy in nats over the tokens that have a weight, or a candidate with one. */
  readonly entropy: number;
  /** How many tokens those are. */
  readonly tokens: number;
  /** Σ weight · divergence; part of the loss with the other sign. */
  readonly divergence: number;
}

export function forwardTerms({ values, candidates, divergence, top }: ForwardTerms): LossTerms {
  return {
    ...(values ? { values: "head" } : {}),
    ...(candidates && { candidates: candidates.count }),
    ...(divergence && { divergence }),
    ...(top && { top }),
  };
}

/** Zeroed arrays for what was asked for, by the graph's name of the output. */
export function forwardOutputs(
  { values, candidates, divergence, top }: ForwardTerms,
  sequences: readonly Int32Array[],
): Record<string, Float32Array[]> {
  const rows = (width: number) => sequences.map((sequence) => new Float32Array(sequence.length * width));
  return {
    [LOGPROBS]: rows(1),
    ...(values ? { [VALUES]: rows(1) } : {}),
    ...(candidates && { [CANDIDATE_LOGPROBS]: rows(candidates.count) }),
    ...(divergence && { [DIVERGENCE]: rows(1) }),
    ...(top && { [TOP_IDS]: rows(top.count), [TOP_LOGPROBS]: rows(top.count) }),
  };
}

export function forwardResult(outputs: Readonly<Record<string, Float32Array[]>>): ForwardResult {
  const { [LOGPROBS]: logprobs = [], [VALUES]: values = [], [CANDIDATE_LOGPROBS]: candidateLogprobs = [] } = outputs;
  const { [DIVERGENCE]: divergences = [], [TOP_IDS]: topIds = [], [TOP_LOGPROBS]: topLogprobs = [] } = outputs;
  return { logprobs, values, candidateLogprobs, divergences, topIds, topLogprobs };
}

export function lossTerms({ entropyWeights, values, candidates, divergenceWeights }: BackwardTerms): LossTerms {
  return {
    ...(entropyWeights && { entropy: true }),
    ...(values && { values: values.into }),
    ...(candidates && { candidates: candidates.count }),
    ...(divergenceWeights && { divergence: true }),
  };
}

/** Weights of all terms, by the graph's name of the input. */
export function weightColumns(
  weights: readonly Float32Array[],
  { entropyWeights, values, candidates, divergenceWeights }: BackwardTerms,
): WeightColumns {
  return {
    [WEIGHTS]: weights,
    ...(entropyWeights && { [ENTROPY_WEIGHTS]: entropyWeights }),
    ...(values && { [VALUE_WEIGHTS]: values.weights }),
    ...(candidates && { [CANDIDATE_WEIGHTS]: candidates.weights }),
    ...(divergenceWeights && { [DIVERGENCE_WEIGHTS]: divergenceWeights }),
  };
}
