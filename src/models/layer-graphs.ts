/**
 * The decoder in pieces, for models whose activations do not fit into memory at once: embedding, one layer forward, one layer
 * backward (which computes the layer's forward pass again), and the head over a chunk of tokens. Weights are inputs, so all
 * layers whose tensors have the same shapes share one pair of graphs.
 */

import { embedding } from "../autodiff/embedding.ts";
import { Graph, type Tensor } from "../autodiff/graph.ts";
import { rmsNorm } from "../autodiff/rms-norm.ts";
import type { DecoderConfig } from "./config.ts";
import { accumulatedName, gradientName, IDS, trainableLayout } from "./decoder-graph.ts";
import { ENTROPY, emitHead, type LossTerms, lossSeeds, referenceTableOf } from "./decoder-head.ts";
import { decoderContext, decoderLayer, type TokenShape } from "./decoder-layer.ts";
import type { Adapters } from "./lora.ts";
import { EMBEDDING, FINAL_NORM, headName, type ParameterEntry, parameterLayout } from "./parameters.ts";

/** States between layers, [N, d]: what a piece reads, what it makes, and their gradients. */
export const HIDDEN = "hidden";
export const OUTPUT = "output";
export const OUTPUT_GRADIENT = "gradient:output";
export const HIDDEN_GRADIENT = "gradient:hidden";

/** A model as these graphs see it. */
export interface LayeredModel {
  readonly config: DecoderConfig;
  /** With adapters, only they are trained. */
  readonly adapters: Adapters | undefined;
}

/** The tensors of one layer, those of its adapters last. */
export function layerEntries({ config, adapters }: LayeredModel, layer: number): readonly ParameterEntry[] {
  const own = ({ name }: ParameterEntry) => name.includes(`model.layers.${layer}.`);
  return [...parameterLayout(config).entries, ...(adapters?.layout.entries ?? [])].filter(own);
}

/** Rows `ids` of the embedding: IDS [N] → OUTPUT [N, d]. */
export function embeddingGraph({ config }: LayeredModel, tokens: number): Graph {
  const graph = new Graph("cpu");
  const table = graph.input(EMBEDDING, [config.vocabularySize, config.hiddenSize]);
  graph.output(OUTPUT, embedding(graph, table, graph.input(IDS, [tokens], { type: graph.integer })));
  return graph;
}

export interface LayerGraphOptions extends TokenShape {
  readonly layer: number;
  readonly direction: "forward" | "backward";
}

/**
 * Forward: HIDDEN → OUTPUT. Backward: HIDDEN and OUTPUT_GRADIENT → HIDDEN_GRADIENT, with the gradients of the layer's
 * trainable tensors added to what was there. Parameters are called as in `layer`.
 */
export function layerGraph(model: LayeredModel, options: LayerGraphOptions): Graph {
  const { config, adapters } = model;
  const { layer, rows, length, direction } = options;
  const graph = new Graph("cpu");
  const backward = direction === "backward";
  const parameters = declareParameters(graph, model, layerEntries(model, layer), backward);
  const size = [rows * length, config.hiddenSize];
  const hidden = graph.input(HIDDEN, size, { differentiable: backward });
  const parameter = (name: string) => parameters.get(name) as Tensor;
  const context = decoderContext(graph, config, options, { parameter, adapters });
  const output = decoderLayer(context, layer, hidden);
  if (!backward) {
    graph.output(OUTPUT, output);
    return graph;
  }
  const trained = startGradients(graph, parameters.values());
  graph.backward([[output, graph.input(OUTPUT_GRADIENT, size)]]);
  for (const tensor of trained) graph.output(gradientName(tensor.name), graph.gradient(tensor));
  graph.output(HIDDEN_GRADIENT, graph.gradient(hidden));
  return graph;
}

/** What the head reads besides the states: the final norm, the output projection, and the value head for values. */
export function headEntries({ config, adapters }: LayeredModel, terms: LossTerms): readonly ParameterEntry[] {
  const names = new Set([FINAL_NORM, headName(config)]);
  const own = parameterLayout(config).entries.filter(({ name }) => names.has(name));
  if (terms.values === undefined) return own;
  const { entries } = trainableLayout(config, { adapters, valueHead: true });
  return [...own, ...entries.filter(({ kind }) => kind === "value-head")];
}

export interface HeadGraphOptions {
  readonly tokens: number;
  readonly gradients: boolean;
  readonly terms: LossTerms;
}

/**
 * Final norm, output projection and what `terms` ask for, of `tokens` tokens: HIDDEN → the outputs of `emitHead`, and with
 * gradients ENTROPY, HIDDEN_GRADIENT and the gradients of the head's trainable tensors added to what was there.
 */
export function headGraph(model: LayeredModel, { tokens, gradients, terms }: HeadGraphOptions): Graph {
  const { config, adapters } = model;
  const graph = new Graph("cpu");
  const parameters = declareParameters(graph, model, headEntries(model, terms), gradients);
  const parameter = (name: string) => parameters.get(name) as Tensor;
  const start = graph.input(HIDDEN, [tokens, config.hiddenSize], { differentiable: gradients });
  const hidden = rmsNorm(graph, start, parameter(FINAL_NORM), config.normEps);
  const table = parameter(headName(config));
  const referenceTable = () => referenceTableOf(graph, table, adapters !== undefined);
  const head = emitHead(graph, { hidden, table, parameter, terms, referenceTable });
  if (!gradients) return graph;
  graph.output(ENTROPY, head.entropy);
  const seeds = lossSeeds(graph, head, terms);
  const trained = startGradients(graph, parameters.values());
  graph.backward(seeds);
  for (const tensor of trained) graph.output(gradientName(tensor.name), graph.gradient(tensor));
  graph.output(HIDDEN_GRADIENT, graph.gradient(start));
  return graph;
}

function declareParameters(
  graph: Graph,
  { config, adapters }: LayeredModel,
  entries: readonly ParameterEntry[],
  withGradients: boolean,
): ReadonlyMap<string, Tensor> {
  const trainable = trainableLayout(config, { adapters, valueHead: true });
  const declare = ({ name, shape }: ParameterEntry) =>
    graph.input(name, shape, { differentiable: withGradients && trainable.byName.has(name) });
  return new Map(entries.map((entry) => [entry.name, declare(entry)]));
}

/** Gives every tensor that is trained the gradient of earlier runs to start from. */
function startGradients(graph: Graph, parameters: Iterable<Tensor>): readonly Tensor[] {
  const trained = [...parameters].filter(({ differentiable }) => differentiable);
  for (const tensor of trained) graph.startGradient(tensor, graph.input(accumulatedName(tensor.name), tensor.shape));
  return trained;
}
