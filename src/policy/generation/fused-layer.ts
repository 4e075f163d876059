/** A decode step of a layer as one operator, for models too small for the operators of a plain graph to be worth their handing over. */

import { type DecoderConfig, hasExperts } from "../../models/config.ts";
import { biasName, layerNames } from "../../models/parameters.ts";
import type { OnnxBuilder } from "../../onnx/builder.ts";
import { OWN_OPERATORS } from "../../onnx/model.ts";
import {
  LAYER_LANES,
  type LayerInstructions,
  type LayerOperator,
  layerAttributes,
  layerOperator,
} from "../../runtime/decoder-layers.ts";
import type { WeightPlaces } from "./weight-values.ts";

/** Weights of a layer up to which this is the faster: 0.2 M gain 1.5 times at 8 rows, 0.85 M nothing (docs/adr/0033). */
const MOST_WEIGHTS = 3e5;
/** Rows from which on a second thread saves more than waking it costs. */
const PIECE_ROWS = 8;

/** How the layers of a decode graph are computed as operators of our own. */
export interface FusedLayers {
  readonly operator: LayerOperator;
  readonly pieces: number;
}

/** `undefined` where the plain graph is to be used. */
export function fusedLayers(
  config: DecoderConfig,
  places: WeightPlaces,
  step: { readonly rows: number; readonly cells: number; readonly threads: number },
): FusedLayers | undefined {
  if (!isPlain(config, places)) return undefined;
  const { hiddenSize, headDim, heads, kvHeads, intermediateSize } = config;
  if (step.cells < LAYER_LANES) return undefined;
  if ([hiddenSize, headDim, intermediateSize].some((width) => width % LAYER_LANES !== 0)) return undefined;
  const weights = hiddenSize * (2 * (heads + kvHeads) * headDim + 3 * intermediateSize);
  if (weights > MOST_WEIGHTS) return undefined;
  const operator = layerOperator();
  if (operator === undefined) return undefined;
  return { operator, pieces: Math.max(1, Math.min(step.threads, Math.floor(step.rows / PIECE_ROWS))) };
}

/** Whether all layers have what the operator knows and nothing else. */
function isPlain(config: DecoderConfig, { adapters, quantized, onDevice }: WeightPlaces): boolean {
  if (onDevice || quantized !== undefined || config.queryKeyNorm) return false;
  // A model that is only generated with has adapters for nothing.
  if (adapters !== undefined && adapters.byWeight.size > 0) return false;
  return Array.from({ length: config.layers }, (_, layer) => layer).every((layer) => {
    const { query, key, value, output, gate, up, down } = layerNames(layer);
    const projections = [query, key, value, output, gate, up, down];
    return !hasExperts(config, layer) && projections.every((name) => biasName(config, name) === null);
  });
}

/** What a layer's node reads. */
export interface FusedLayerInputs {
  readonly x: string;
  readonly cos: string;
  readonly sin: string;
  readonly cache: {
    readonly pastKeys: string;
    readonly pastValues: string;
    readonly keys: string;
    readonly values: string;
  };
  /** A weight, or several stacked, as a graph input. */
  readonly weight: (...names: readonly string[]) => string;
}

/** The output [rows, hidden] of a layer that reads `x` and `lengths`; writes the cache. */
export function emitFusedLayer(
  graph: OnnxBuilder,
  config: DecoderConfig,
  layer: number,
  { x, cos, sin, cache, weight }: FusedLayerInputs,
  { operator, pieces }: FusedLayers,
): string {
  const names = layerNames(layer);
  const shape = {
    hidden: config.hiddenSize,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    inner: config.intermediateSize,
    epsilon: config.normEps,
  };
  const inputs = [
    x,
    "lengths",
    weight(names.attentionNorm),
    weight(names.query, names.key, names.value),
    weight(names.output),
    weight(names.mlpNorm),
    weight(names.gate, names.up),
    weight(names.down),
    ...[cos, sin, cache.pastKeys, cache.pastValues],
  ];
  const output = `layer_${layer}`;
  graph.nodes("DecoderLayer", inputs, 3, {
    domain: OWN_OPERATORS,
    outputs: [output, cache.keys, cache.values],
    attributes: layerAttributes(shape, operator.instructions.at(-1) as LayerInstructions, pieces),
  });
  return output;
}
