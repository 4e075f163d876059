/** One layer of the decoder as a piece of a graph. Whole-model graphs and graphs of a single layer are made of it. */

import { type AttentionShape, causalAttention } from "../autodiff/attention.ts";
import { add, gatedSilu } from "../autodiff/elementwise.ts";
import { combineExperts, dispatchTokens, routeTokens } from "../autodiff/experts.ts";
import type { Graph, Tensor } from "../autodiff/graph.ts";
import { addLowRank } from "../autodiff/low-rank.ts";
import { linear } from "../autodiff/matmul.ts";
import { rmsNorm } from "../autodiff/rms-norm.ts";
import { type RotaryConstants, rotary, rotaryConstants } from "../autodiff/rotary.ts";
import { type DecoderConfig, type ExpertConfig, hasExperts } from "./config.ts";
import type { Adapters } from "./lora.ts";
import { biasName, expertNames, layerNames } from "./parameters.ts";
import { ropeTables } from "./rope.ts";

/** Inputs of graphs whose rows hold several sequences. */
export const POSITIONS = "positions"; // int64 [rows, length], counted from 0 in every sequence
export const SEGMENTS = "segments"; // float [rows, length], a number per sequence of a row

/** The tokens of one run. */
export interface TokenShape {
  readonly rows: number;
  /** Tokens of a row. */
  readonly length: number;
  /**
   * A row holds several sequences, one behind the other: POSITIONS and SEGMENTS say where each begins. Default one sequence
   * per row, from its first token on. Not on GPUs.
   */
  readonly packed?: boolean | undefined;
}

/** What the layers of one graph share. */
export interface DecoderContext {
  readonly graph: Graph;
  readonly config: DecoderConfig;
  readonly shape: AttentionShape;
  readonly positions: RotaryConstants;
  /** SEGMENTS, where rows hold several sequences. */
  readonly segments: Tensor | undefined;
  /** A parameter by its Hugging Face name, or a matrix of an adapter by PEFT's. */
  readonly parameter: (name: string) => Tensor;
  readonly adapters?: Adapters | undefined;
}

/** The context of a graph over `tokens`; declares the inputs of packed rows. */
export function decoderContext(
  graph: Graph,
  config: DecoderConfig,
  { rows, length, packed = false }: TokenShape,
  given: Pick<DecoderContext, "parameter" | "adapters">,
): DecoderContext {
  const { heads, kvHeads, headDim } = config;
  const places = packed ? graph.input(POSITIONS, [rows, length], { type: "int64" }) : undefined;
  return {
    ...given,
    graph,
    config,
    shape: { rows, length, heads, kvHeads, headDim },
    positions: rotaryConstants(graph, length, ropeTables(config, length), places),
    segments: packed ? graph.input(SEGMENTS, [rows, length]) : undefined,
  };
}

/** x Wᵀ for the weight called `name`; the one place where what belongs to a projection besides its weight comes in. */
export function project(context: DecoderContext, x: Tensor, name: string): Tensor {
  const { graph, parameter, adapters } = context;
  const bias = biasName(context.config, name);
  const y = linear(graph, x, parameter(name), bias === null ? undefined : parameter(bias));
  const adapter = adapters?.byWeight.get(name);
  if (adapter === undefined) return y;
  return addLowRank(graph, y, x, { a: parameter(adapter.a), b: parameter(adapter.b), scale: adapter.scale });
}

/** x [N, d] → [N, d], N = rows · length. */
export function decoderLayer(context: DecoderContext, layer: number, x: Tensor): Tensor {
  const { graph, config, parameter } = context;
  const names = layerNames(layer);
  const attended = selfAttention(context, layer, rmsNorm(graph, x, parameter(names.attentionNorm), config.normEps));
  const middle = add(graph, x, attended);
  const normed = rmsNorm(graph, middle, parameter(names.mlpNorm), config.normEps);
  return add(graph, middle, feedForward(context, layer, normed));
}

function selfAttention(context: DecoderContext, layer: number, x: Tensor): Tensor {
  const { graph, config, shape, positions, segments, parameter } = context;
  const names = layerNames(layer);
  const heads = (name: string, norm: string) => {
    const projected = project(context, x, name);
    const normed = config.queryKeyNorm ? rmsNorm(graph, projected, parameter(norm), config.normEps) : projected;
    return rotary(graph, normed, positions);
  };
  const query = heads(names.query, names.queryNorm);
  const key = heads(names.key, names.keyNorm);
  const value = project(context, x, names.value);
  return project(context, causalAttention(graph, query, key, value, shape, { segments }), names.output);
}

function feedForward(context: DecoderContext, layer: number, x: Tensor): Tensor {
  if (hasExperts(context.config, layer)) return routedExperts(context, layer, x);
  return gatedMlp(context, layerNames(layer), x);
}

function routedExperts(context: DecoderContext, layer: number, x: Tensor): Tensor {
  const { graph } = context;
  const { perToken, normalizeWeights } = context.config.experts as ExpertConfig;
  const logits = project(context, x, layerNames(layer).router);
  const routing = routeTokens(graph, logits, perToken, normalizeWeights);
  const outputs = dispatchTokens(graph, x, routing).map((rows, expert) =>
    gatedMlp(context, expertNames(layer, expert), rows),
  );
  return combineExperts(graph, outputs, routing);
}

function gatedMlp(
  context: DecoderContext,
  names: { readonly gate: string; readonly up: string; readonly down: string },
  x: Tensor,
): Tensor {
  const gate = project(context, x, names.gate);
  const up = project(context, x, names.up);
  return project(context, gatedSilu(context.graph, gate, up), names.down);
}
