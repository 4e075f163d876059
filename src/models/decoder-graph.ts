/** The decoder as a graph over token sequences: log-probabilities of given tokens, and their gradients. */

import { embedding } from "../autodiff/embedding.ts";
import { Graph, type Profile, type Tensor } from "../autodiff/graph.ts";
import { linear } from "../autodiff/matmul.ts";
import { rmsNorm } from "../autodiff/rms-norm.ts";
import type { MatrixStorage } from "../core/matrix-storage.ts";
import { keptInBfloat16 } from "./bfloat16-matrices.ts";
import type { DecoderConfig } from "./config.ts";
import {
  ENTROPY,
  emitHead,
  type LossTerms,
  lossSeeds,
  referenceTableOf,
  VALUE_HEAD_BIAS,
  VALUE_HEAD_WEIGHT,
} from "./decoder-head.ts";
import { decoderContext, decoderLayer, type TokenShape } from "./decoder-layer.ts";
import type { Adapters } from "./lora.ts";
import {
  EMBEDDING,
  FINAL_NORM,
  headName,
  type LayoutTensor,
  layOut,
  type ParameterEntry,
  type ParameterLayout,
  parameterLayout,
} from "./parameters.ts";

/** Names of the graph's inputs and outputs beside the parameters and those of the head, N = rows · length. */
export const IDS = "ids"; // int64 [N], int32 on GPUs
export const LOGITS = "logits"; // [N, V]
/** Gradient of the embedded tokens; the caller adds row i to row `ids[i]` of the embedding's gradient. Not on GPUs. */
export const EMBEDDED_GRADIENT = "gradient:embedded"; // [N, d]
/** Gradient of parameter `name` before this run (input) and after it (output); both may be the same memory. */
export const accumulatedName = (name: string): string => `accumulated:${name}`;
export const gradientName = (name: string): string => `gradient:${name}`;

export interface DecoderGraphOptions extends TokenShape {
  readonly profile: Profile;
  /**
   * `logits`: forward to logits. `logprobs`: forward to log-probabilities and what else `terms` name. `gradients`: these,
   * the entropy, and the gradients of the loss.
   */
  readonly mode: "logits" | "logprobs" | "gradients";
  /** Default: log-probabilities of the labels alone. */
  readonly terms?: LossTerms | undefined;
  /** With adapters, only they are trained: the model's own parameters get no gradients. */
  readonly adapters?: Adapters | undefined;
  /** How the model's own matrices are kept. Default float32. */
  readonly storage?: MatrixStorage | undefined;
  /** Gradients are written as they are, not added to those before: there are no inputs called `accumulatedName`. */
  readonly replacesGradients?: boolean | undefined;
}

/**
 * What is trained: adapters or all parameters, and behind them, at the same places as without it, the value head if there
 * is one.
 */
export function trainableLayout(
  config: DecoderConfig,
  options: { readonly adapters?: Adapters | undefined; readonly valueHead: boolean },
): ParameterLayout {
  const layout = options.adapters?.layout ?? parameterLayout(config);
  if (!options.valueHead) return layout;
  return layOut([
    ...layout.entries.map(({ name, kind, shape }): LayoutTensor => [name, kind, shape]),
    [VALUE_HEAD_WEIGHT, "value-head", [1, config.hiddenSize]],
    [VALUE_HEAD_BIAS, "value-head", [1]],
  ]);
}

/**
 * The tensors whose gradients are outputs of a graph with gradients; what else is trained is an untied embedding, which gets
 * its gradient from the embedded tokens alone.
 */
export function denseGradients(
  config: DecoderConfig,
  options: { readonly adapters?: Adapters | undefined; readonly valueHead: boolean },
): readonly ParameterEntry[] {
  const { entries } = trainableLayout(config, options);
  return config.tiedEmbeddings ? entries : entries.filter(({ name }) => name !== EMBEDDING);
}

/** Whether the gradient of the embedded tokens is an output of graphs with gradients. */
export function trainsEmbedding(adapters: Adapters | undefined): boolean {
  return adapters === undefined;
}

/**
 * Whether a graph adds the gradients of the embedded tokens up itself. On the processor that would take a graph of one
 * thread (see `embedding`).
 */
function addsEmbedded(profile: Profile): boolean {
  return profile === "webgpu" || profile === "cuda";
}

/** The encoded graph; parameters are inputs under their own names. */
export function decoderGraph(config: DecoderConfig, options: DecoderGraphOptions): Uint8Array {
  return buildDecoderGraph(config, options).encode();
}

export function buildDecoderGraph(config: DecoderConfig, options: DecoderGraphOptions): Graph {
  const { rows, length, packed, mode, adapters, terms = {}, storage = "float32" } = options;
  const graph = new Graph(options.profile);
  const withGradients = mode === "gradients";
  const parameters = new Map<string, Tensor>();
  const trainable = trainableLayout(config, { adapters, valueHead: terms.values !== undefined });
  const frozen = adapters === undefined ? [] : parameterLayout(config).entries;
  for (const entry of [...frozen, ...trainable.entries]) {
    const { name, shape } = entry;
    const use = { differentiable: withGradients && trainable.byName.has(name) };
    const short = keptInBfloat16(storage, entry);
    parameters.set(name, short ? graph.bfloat16Input(name, shape, use) : graph.input(name, shape, use));
  }
  const parameter = (name: string) => parameters.get(name) as Tensor;
  const ids = graph.input(IDS, [rows * length], { type: graph.integer });
  const inside = addsEmbedded(graph.profile);
  const table = parameter(EMBEDDING);
  const embedded = embedding(graph, inside ? table : { ...table, differentiable: false }, ids);
  const start = withGradients && trainsEmbedding(adapters) && !inside ? graph.leaf(embedded) : embedded;
  const hidden = decoderLayers(graph, config, { rows, length, packed, start, parameter, adapters });
  const projection = parameter(headName(config));
  if (mode === "logits") {
    graph.output(LOGITS, linear(graph, hidden, projection));
    return graph;
  }
  const referenceTable = () => referenceTableOf(graph, projection, adapters !== undefined);
  const head = emitHead(graph, { hidden, table: projection, parameter, terms, referenceTable });
  if (!withGradients) return graph;

  graph.output(ENTROPY, head.entropy);
  const seeds = lossSeeds(graph, head, terms);
  const outside = { adapters, valueHead: terms.values !== undefined };
  const dense = (inside ? trainable.entries : denseGradients(config, outside)).map(({ name }) => parameter(name));
  for (const tensor of options.replacesGradients === true ? [] : dense) {
    graph.startGradient(tensor, graph.input(accumulatedName(tensor.name), tensor.shape));
  }
  graph.backward(seeds);
  for (const tensor of dense) graph.output(gradientName(tensor.name), graph.gradient(tensor));
  if (start.differentiable && !inside) graph.output(EMBEDDED_GRADIENT, graph.gradient(start));
  return graph;
}

interface LayerInputs extends TokenShape {
  /** Embedded tokens [N, d]. */
  readonly start: Tensor;
  readonly parameter: (name: string) => Tensor;
  readonly adapters: Adapters | undefined;
}

/** All layers and the final norm. */
function decoderLayers(graph: Graph, config: DecoderConfig, inputs: LayerInputs): Tensor {
  const { parameter, adapters } = inputs;
  const context = decoderContext(graph, config, inputs, { parameter, adapters });
  let x = inputs.start;
  for (let layer = 0; layer < config.layers; layer++) x = decoderLayer(context, layer, x);
  return rmsNorm(graph, x, parameter(FINAL_NORM), config.normEps);
}
