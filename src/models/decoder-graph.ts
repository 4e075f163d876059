/** The decoder as a graph over token sequences: log-probabilities of given tokens, and their gradients. */

import type { AttentionShape } from "../autodiff/attention.ts";
import { embedding } from "../autodiff/embedding.ts";
import { Graph, type Profile, type Tensor } from "../autodiff/graph.ts";
import { tokenDistribution } from "../autodiff/log-probability.ts";
import { linear } from "../autodiff/matmul.ts";
import { rmsNorm } from "../autodiff/rms-norm.ts";
import { rotaryConstants } from "../autodiff/rotary.ts";
import type { DecoderConfig } from "./config.ts";
import { type DecoderContext, decoderLayer } from "./decoder-layer.ts";
import type { Adapters } from "./lora.ts";
import { EMBEDDING, FINAL_NORM, headName, type ParameterLayout, parameterLayout } from "./parameters.ts";
import { ropeTables } from "./rope.ts";

/** Names of the graph's inputs and outputs beside the parameters, N = rows · length. */
export const IDS = "ids"; // int64 [N], int32 on GPUs
export const LABELS = "labels"; // as `IDS`
export const INVERSE_TEMPERATURE = "inverse_temperature"; // scalar
export const LOGPROBS = "logprobs"; // [N, 1]
export const ENTROPY = "entropy"; // [N, 1]
export const LOGITS = "logits"; // [N, V]
/** Loss is −Σ weight · logprob. */
export const WEIGHTS = "weights"; // [N, 1]
/** Minus a bonus of Σ weight · entropy. */
export const ENTROPY_WEIGHTS = "entropy_weights"; // [N, 1]
/** Gradient of the embedded tokens; the caller adds row i to row `ids[i]` of the embedding's gradient. Not on GPUs. */
export const EMBEDDED_GRADIENT = "gradient:embedded"; // [N, d]
/** Gradient of parameter `name` before this run (input) and after it (output); both may be the same memory. */
export const accumulatedName = (name: string): string => `accumulated:${name}`;
export const gradientName = (name: string): string => `gradient:${name}`;

export interface DecoderGraphOptions {
  readonly profile: Profile;
  /** Sequences per run, and their length in tokens. */
  readonly rows: number;
  readonly length: number;
  /**
   * `logits`: forward to logits. `logprobs`: forward to logprobs. `gradients`: logprobs, entropy and gradients of
   * −Σ weight · logprob. `entropy-gradients`: the same with the entropy bonus.
   */
  readonly mode: "logits" | "logprobs" | "gradients" | "entropy-gradients";
  /** With adapters, only they are trained: the model's own parameters get no gradients. */
  readonly adapters?: Adapters | undefined;
}

/** The parameters that a graph with or without adapters gives gradients of. */
export function trainableLayout(config: DecoderConfig, adapters: Adapters | undefined): ParameterLayout {
  return adapters?.layout ?? parameterLayout(config);
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

/** Emits the graph; parameters are inputs under their own names. Returns the model's bytes. */
export function decoderGraph(config: DecoderConfig, options: DecoderGraphOptions): Uint8Array {
  const { rows, length, mode, adapters } = options;
  const graph = new Graph(options.profile);
  const withGradients = mode === "gradients" || mode === "entropy-gradients";
  const parameters = new Map<string, Tensor>();
  const trainable = trainableLayout(config, adapters);
  for (const { name, shape } of [...parameterLayout(config).entries, ...(adapters?.layout.entries ?? [])]) {
    parameters.set(name, graph.input(name, shape, { differentiable: withGradients && trainable.byName.has(name) }));
  }
  const parameter = (name: string) => parameters.get(name) as Tensor;
  const ids = graph.input(IDS, [rows * length], { type: graph.integer });
  const inside = addsEmbedded(graph.profile);
  const table = parameter(EMBEDDING);
  const embedded = embedding(graph, inside ? table : { ...table, differentiable: false }, ids);
  const start = withGradients && trainsEmbedding(adapters) && !inside ? graph.leaf(embedded) : embedded;
  const hidden = decoderLayers(graph, config, { rows, length, start, parameter, adapters });
  const head = parameter(headName(config));
  if (mode === "logits") {
    graph.output(LOGITS, linear(graph, hidden, head));
    return graph.encode();
  }
  const labels = graph.input(LABELS, [rows * length], { type: graph.integer });
  const inverseTemperature = graph.input(INVERSE_TEMPERATURE, []);
  const distribution = tokenDistribution(graph, { hidden, table: head, labels, inverseTemperature });
  graph.output(LOGPROBS, distribution.logprobs);
  if (!withGradients) return graph.encode();

  graph.output(ENTROPY, distribution.entropy);
  const column = [rows * length, 1];
  const negated = (name: string) => graph.apply("Neg", [graph.input(name, column)], column);
  const seeds: [Tensor, Tensor][] = [[distribution.logprobs, negated(WEIGHTS)]];
  if (mode === "entropy-gradients") seeds.push([distribution.entropy, negated(ENTROPY_WEIGHTS)]);
  // An untied embedding gets its gradient from the embedded tokens alone, which the caller adds up.
  const dense = [...parameters.values()].filter(
    ({ name, differentiable }) => differentiable && (inside || config.tiedEmbeddings || name !== EMBEDDING),
  );
  for (const tensor of dense) graph.startGradient(tensor, graph.input(accumulatedName(tensor.name), tensor.shape));
  graph.backward(seeds);
  for (const tensor of dense) graph.output(gradientName(tensor.name), graph.gradient(tensor));
  if (start.differentiable && !inside) graph.output(EMBEDDED_GRADIENT, graph.gradient(start));
  return graph.encode();
}

interface LayerInputs {
  readonly rows: number;
  readonly length: number;
  /** Embedded tokens [N, d]. */
  readonly start: Tensor;
  readonly parameter: (name: string) => Tensor;
  readonly adapters: Adapters | undefined;
}

/** All layers and the final norm. */
function decoderLayers(graph: Graph, config: DecoderConfig, inputs: LayerInputs): Tensor {
  const { rows, length, parameter, adapters } = inputs;
  const shape: AttentionShape = {
    rows,
    length,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
  };
  const positions = rotaryConstants(graph, length, ropeTables(config, length));
  const context: DecoderContext = { graph, config, shape, positions, parameter, adapters };
  let x = inputs.start;
  for (let layer = 0; layer < config.layers; layer++) x = decoderLayer(context, layer, x);
  return rmsNorm(graph, x, parameter(FINAL_NORM), config.normEps);
}
