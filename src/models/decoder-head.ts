/** What is asked of the final hidden states: log-probabilities, and the terms of a loss. Part of every training graph. */

import type { Graph, Tensor } from "../autodiff/graph.ts";
import { tokenDistribution } from "../autodiff/log-probability.ts";
import { linear } from "../autodiff/matmul.ts";

/** Names of the graph's inputs and outputs, N = rows · length predictions. */
export const LABELS = "labels"; // [N], as token ids
export const INVERSE_TEMPERATURE = "inverse_temperature"; // scalar
export const LOGPROBS = "logprobs"; // [N, 1]
export const ENTROPY = "entropy"; // [N, 1]
export const VALUES = "values"; // [N, 1]
/** K tokens per prediction, e.g. a teacher's best, and their log-probabilities. */
export const CANDIDATES = "candidates"; // [N, K], as token ids
export const CANDIDATE_LOGPROBS = "candidate_logprobs"; // [N, K]
/** KL of the distribution from a reference's over the vocabulary, and what it takes to know the latter. */
export const DIVERGENCE = "divergence"; // [N, 1]
export const REFERENCE_STATES = "reference_states"; // [N, d]
export const REFERENCE_TABLE = "reference_table"; // [V, d]; not with adapters, whose base shares its projection
/** The states that the output projection reads. */
export const STATES = "states"; // [N, d]
/** The K most likely tokens, best first; ids as floats, which hold whole numbers up to 2²⁴. */
export const TOP_IDS = "top_ids"; // [N, K]
export const TOP_LOGPROBS = "top_logprobs"; // [N, K]
/** The loss is −Σ weight · logprob … */
export const WEIGHTS = "weights"; // [N, 1]
/** … − Σ weight · entropy … */
export const ENTROPY_WEIGHTS = "entropy_weights"; // [N, 1]
/** … − Σ weight · value … */
export const VALUE_WEIGHTS = "value_weights"; // [N, 1]
/** … − Σ weight · candidate logprob … */
export const CANDIDATE_WEIGHTS = "candidate_weights"; // [N, K]
/** … − Σ weight · divergence. */
export const DIVERGENCE_WEIGHTS = "divergence_weights"; // [N, 1]

export const VALUE_HEAD_WEIGHT = "value_head.weight"; // [1, d]
export const VALUE_HEAD_BIAS = "value_head.bias"; // [1]

/** Terms of a loss beside the log-probabilities of the labels. */
export interface LossTerms {
  readonly entropy?: boolean;
  /** Values of the value head; their gradients stop at the head, or go on into the trunk. */
  readonly values?: "head" | "trunk";
  /** Number K of candidates per prediction. */
  readonly candidates?: number;
  /** Divergence from a reference whose states are given. */
  readonly divergence?: boolean;
  /** The states and nothing else: no output projection is computed. Without gradients. */
  readonly states?: boolean;
  /** The most likely tokens among those with ids below `among`; `count` of them. Without gradients. */
  readonly top?: { readonly count: number; readonly among: number };
}

export interface HeadInputs {
  /** Final hidden states [N, d]. */
  readonly hidden: Tensor;
  /** Output projection [V, d]. */
  readonly table: Tensor;
  /** A parameter by name; asked for the value head's only when there are values. */
  readonly parameter: (name: string) => Tensor;
  readonly terms: LossTerms;
  /** Output projection of the reference; asked for where there is a divergence. */
  readonly referenceTable: () => Tensor;
}

/** Declares inputs and outputs of the forward pass; returns what the loss is made of. */
export function emitHead(graph: Graph, inputs: HeadInputs): HeadOutputs {
  const { hidden, table, terms } = inputs;
  const [rows] = hidden.shape as [number];
  const labels = graph.input(LABELS, [rows], { type: graph.integer });
  const inverseTemperature = graph.input(INVERSE_TEMPERATURE, []);
  const candidates =
    terms.candidates === undefined
      ? undefined
      : graph.input(CANDIDATES, [rows, terms.candidates], { type: graph.integer });
  const reference = terms.divergence
    ? { hidden: graph.input(REFERENCE_STATES, hidden.shape), table: inputs.referenceTable() }
    : undefined;
  const distribution = tokenDistribution(graph, { hidden, table, labels, inverseTemperature, candidates, reference });
  if (terms.states === true) {
    graph.output(STATES, hidden);
    return { ...distribution, values: undefined };
  }
  graph.output(LOGPROBS, distribution.logprobs);
  if (distribution.divergence !== undefined) graph.output(DIVERGENCE, distribution.divergence);
  if (terms.top !== undefined) mostLikely(graph, distribution.logSoftmax, terms.top);
  if (distribution.candidateLogprobs !== undefined) graph.output(CANDIDATE_LOGPROBS, distribution.candidateLogprobs);
  const values = terms.values === undefined ? undefined : valuesOf(graph, inputs);
  if (values !== undefined) graph.output(VALUES, values);
  return { ...distribution, values };
}

export interface HeadOutputs {
  readonly logprobs: Tensor;
  readonly entropy: Tensor;
  readonly values: Tensor | undefined;
  readonly candidateLogprobs: Tensor | undefined;
  readonly divergence: Tensor | undefined;
}

/** The reference's output projection: that of the policy where adapters leave it alone, otherwise an input kept alike. */
export function referenceTableOf(graph: Graph, table: Tensor, isShared: boolean): Tensor {
  if (isShared) return table;
  return table.type === "bfloat16"
    ? graph.bfloat16Input(REFERENCE_TABLE, table.shape)
    : graph.input(REFERENCE_TABLE, table.shape);
}

function mostLikely(graph: Graph, logprobs: Tensor, { count, among }: { count: number; among: number }): void {
  const [rows, vocabulary] = logprobs.shape as [number, number];
  const bounds = [[0], [among], [1]].map((numbers) => graph.integers(numbers));
  const known = among >= vocabulary ? logprobs : graph.apply("Slice", [logprobs, ...bounds], [rows, among]);
  const shape = [rows, count];
  const [values, indices] = graph.applyMany(
    "TopK",
    [known, graph.integers([count])],
    [{ shape }, { shape, type: "int64" }],
  ) as [Tensor, Tensor];
  const float = graph.float === "float64" ? 11 : 1;
  graph.output(TOP_LOGPROBS, values);
  graph.output(TOP_IDS, graph.apply("Cast", [indices], shape, { attributes: { to: { int: float } } }));
}

function valuesOf(graph: Graph, { hidden, parameter, terms }: HeadInputs): Tensor {
  const seen = terms.values === "trunk" ? hidden : { ...hidden, differentiable: false };
  return linear(graph, seen, parameter(VALUE_HEAD_WEIGHT), parameter(VALUE_HEAD_BIAS));
}

/** Declares the weights of the loss; returns each term with its gradient, to begin the backward pass with. */
export function lossSeeds(
  graph: Graph,
  outputs: HeadOutputs,
  terms: LossTerms,
): (readonly [tensor: Tensor, gradient: Tensor])[] {
  const weighted: (readonly [string, Tensor | undefined])[] = [
    [WEIGHTS, outputs.logprobs],
    [ENTROPY_WEIGHTS, terms.entropy ? outputs.entropy : undefined],
    [VALUE_WEIGHTS, outputs.values],
    [CANDIDATE_WEIGHTS, outputs.candidateLogprobs],
    [DIVERGENCE_WEIGHTS, outputs.divergence],
  ];
  return weighted.flatMap(([name, tensor]) =>
    tensor === undefined
      ? []
      : [[tensor, graph.apply("Neg", [graph.input(name, tensor.shape)], tensor.shape)] as const],
  );
}
