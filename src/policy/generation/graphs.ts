/**
 * The graphs of generation. *Decode* runs one block of rows by one token each and samples; *prefill* runs one row by
 * a chunk of known tokens and only fills its cache. Weights and caches are graph inputs, caches are also outputs over
 * the same memory, so nothing is copied. Quantised weights are constants, which every session repacks for itself: for them
 * one graph of any shape, *forward*, does both, and sampling is a graph of its own.
 *
 * Operators: GroupQueryAttention and QuickGelu of ONNX Runtime,
 * https://github.com/microsoft/onnxruntime/blob/v1.27.0/docs/ContribOperators.md
 */

import { AleError } from "../../core/errors.ts";
import { type DecoderConfig, type ExpertConfig, hasExperts } from "../../models/config.ts";
import { expertNames, FINAL_NORM, headName, layerNames } from "../../models/parameters.ts";
import { ropeTables } from "../../models/rope.ts";
import { MICROSOFT, OnnxBuilder } from "../../onnx/builder.ts";
import { type CachedPositions, cachedPositions, emitCachedAttention } from "./cached-attention.ts";
import { emitRoutedExperts } from "./expert-graph.ts";
import { emitFusedLayer, type FusedLayers } from "./fused-layer.ts";
import { Projections } from "./projections.ts";
import { emitSampling, type SamplingVariant } from "./sampling-graph.ts";
import type { WeightPlaces } from "./weight-values.ts";

/** Shape of a graph: `rows` sequences × `tokens` new tokens each, over caches of `cells` positions. */
interface GraphShape {
  /** Both may be left open until the graph runs. */
  readonly extent: { readonly rows: number; readonly tokens: number } | "any";
  readonly cells: number;
  /** See `Projections`. */
  readonly weightsFirst?: boolean;
}

/** Names of a layer's cache inputs and outputs. */
export function cacheNames(layer: number) {
  return {
    pastKeys: `past_keys_${layer}`,
    pastValues: `past_values_${layer}`,
    keys: `keys_${layer}`,
    values: `values_${layer}`,
  } as const;
}

/** An encoded model and the names of those of its inputs that are weights. */
export interface GenerationGraph {
  readonly model: Uint8Array;
  readonly weightNames: readonly string[];
}

class DecoderGraph {
  readonly graph: OnnxBuilder;
  readonly #config: DecoderConfig;
  readonly #places: WeightPlaces;
  readonly #shape: GraphShape;
  /** Sequences, as a dimension of graph inputs. */
  readonly #rows: number | string;
  readonly #projections: Projections;
  /** Name of the value [1] that holds the number of sequences, where it is not known before the graph runs. */
  #rowCount = "";
  #cos = "";
  #sin = "";
  /** Set on devices. */
  #positions: CachedPositions | undefined;

  constructor(name: string, config: DecoderConfig, places: WeightPlaces, shape: GraphShape) {
    this.graph = new OnnxBuilder(name);
    this.#config = config;
    this.#places = places;
    this.#shape = shape;
    this.#projections = new Projections(this.graph, config, places, shape.weightsFirst ?? false);
    this.#rows = shape.extent === "any" ? "rows" : shape.extent.rows;
  }

  #norm(x: string, name: string): string {
    return this.graph.node("SimplifiedLayerNormalization", [x, this.#projections.weight(name)], {
      attributes: { axis: { int: -1 }, epsilon: { float: this.#config.normEps } },
    });
  }

  /** Declares what every graph reads: `tokens` [rows · tokens], `lengths` [rows] (see `attend`), `total` []. */
  begin(): string {
    const { extent, cells } = this.#shape;
    const { graph } = this;
    graph.input("tokens", "int32", [extent === "any" ? "tokens" : extent.rows * extent.tokens]);
    graph.input("lengths", "int32", [this.#rows]);
    graph.input("total", "int32", []);
    if (extent === "any") this.#rowCount = graph.node("Shape", ["lengths"]);
    const tables = ropeTables(this.#config, cells);
    const half = this.#config.headDim / 2;
    this.#cos = graph.constant("float32", [cells, half], Float32Array.from(tables.cos));
    this.#sin = graph.constant("float32", [cells, half], Float32Array.from(tables.sin));
    if (this.#places.onDevice && extent !== "any") {
      const tables = { cos: this.#cos, sin: this.#sin, half };
      this.#positions = cachedPositions(graph, { ...extent, cells }, "lengths", tables);
    }
    return this.#projections.embed("tokens");
  }

  /** [rows · tokens, width] → [rows, tokens, width]. */
  #bySequence(x: string, width: number): string {
    const { extent } = this.#shape;
    const { graph } = this;
    const shape =
      extent === "any"
        ? graph.node("Concat", [this.#rowCount, graph.int64s([-1, width])], { attributes: { axis: { int: 0 } } })
        : graph.int64s([extent.rows, extent.tokens, width]);
    return graph.node("Reshape", [x, shape]);
  }

  #declareCache(layer: number): ReturnType<typeof cacheNames> {
    const { kvHeads, headDim } = this.#config;
    const cache = cacheNames(layer);
    const shape = [this.#rows, kvHeads, this.#shape.cells, headDim];
    for (const name of [cache.pastKeys, cache.pastValues]) this.graph.input(name, "float32", shape);
    for (const name of [cache.keys, cache.values]) this.graph.output(name, "float32", shape);
    return cache;
  }

  /**
   * Attention of one layer over cache and new tokens, [rows · tokens, heads · headDim]; writes the new tokens' keys and
   * values into the cache. `lengths` holds, per row, the number of cells in use *after* the new tokens, minus one.
   */
  #attend(normed: string, layer: number): string {
    const { heads, kvHeads, headDim } = this.#config;
    const { graph } = this;
    const cache = this.#declareCache(layer);
    if (this.#positions !== undefined) {
      const [query, key, value] = this.#splitHeads(normed, layer);
      return emitCachedAttention(graph, this.#config, this.#positions, { query, key, value, cache });
    }
    const [query, key, value] = this.#projectHeads(normed, layer);
    const output = `attended_${layer}`;
    graph.nodes(
      "GroupQueryAttention",
      [query, key, value, cache.pastKeys, cache.pastValues, "lengths", "total", this.#cos, this.#sin],
      3,
      {
        domain: MICROSOFT,
        outputs: [output, cache.keys, cache.values],
        attributes: { num_heads: { int: heads }, kv_num_heads: { int: kvHeads }, do_rotary: { int: 1 } },
      },
    );
    return graph.node("Reshape", [output, graph.int64s([-1, heads * headDim])]);
  }

  /** Query, key and value [rows · tokens, heads · headDim]. */
  #splitHeads(normed: string, layer: number): readonly [query: string, key: string, value: string] {
    const { heads, kvHeads, headDim, queryKeyNorm } = this.#config;
    const { graph } = this;
    const names = layerNames(layer);
    const normalize = (x: string, norm: string, count: number) => {
      if (!queryKeyNorm) return x;
      const byHead = graph.node("Reshape", [x, graph.int64s([-1, headDim])]);
      return graph.node("Reshape", [this.#norm(byHead, norm), graph.int64s([-1, count * headDim])]);
    };
    return [
      normalize(this.#projections.linear(normed, names.query), names.queryNorm, heads),
      normalize(this.#projections.linear(normed, names.key), names.keyNorm, kvHeads),
      this.#projections.linear(normed, names.value),
    ];
  }

  /**
   * Query, key and value [rows, tokens, heads · headDim] for GroupQueryAttention. It takes the three packed in one matrix
   * too, which saves splitting them where nothing is done to queries and keys in between; key and value are "" then.
   */
  #projectHeads(normed: string, layer: number): readonly [query: string, key: string, value: string] {
    const { heads, kvHeads, headDim, queryKeyNorm } = this.#config;
    const { graph } = this;
    const names = layerNames(layer);
    const packed = this.#projections.linear(normed, names.query, names.key, names.value);
    if (!queryKeyNorm) return [this.#bySequence(packed, (heads + 2 * kvHeads) * headDim), "", ""];
    const widths = [heads * headDim, kvHeads * headDim, kvHeads * headDim];
    const parts = graph.nodes("Split", [packed, graph.int64s(widths)], 3, { attributes: { axis: { int: 1 } } });
    const [query, key, value] = parts as readonly [string, string, string];
    const normalize = (x: string, norm: string, count: number) => {
      const split = graph.node("Reshape", [x, graph.int64s([-1, headDim])]);
      return this.#bySequence(this.#norm(split, norm), count * headDim);
    };
    return [
      normalize(query, names.queryNorm, heads),
      normalize(key, names.keyNorm, kvHeads),
      this.#bySequence(value, kvHeads * headDim),
    ];
  }

  #feedForward(normed: string, layer: number): string {
    if (!hasExperts(this.#config, layer)) return this.#gatedMlp(normed, layerNames(layer));
    const { extent } = this.#shape;
    if (extent === "any") throw new AleError("internal", "a graph with experts has a fixed shape");
    if (this.#places.onDevice) {
      throw new AleError("model", "a model with routed experts is computed on the cpu only", {
        hint: "use the device cpu for this model",
      });
    }
    const logits = this.#projections.linear(normed, layerNames(layer).router);
    const experts = this.#config.experts as ExpertConfig;
    const tokens = extent.rows * extent.tokens;
    const inputs = { x: normed, logits, tokens, experts, inPairs: extent.tokens === 1 };
    return emitRoutedExperts(this.graph, inputs, (slice, expert) => this.#gatedMlp(slice, expertNames(layer, expert)));
  }

  #gatedMlp(normed: string, names: { readonly gate: string; readonly up: string; readonly down: string }): string {
    const both = this.#projections.linear(normed, names.gate, names.up);
    const [gate, up] = this.graph.nodes("Split", [both], 2, {
      attributes: { axis: { int: 1 }, num_outputs: { int: 2 } },
    }) as [string, string];
    // SiLU is QuickGelu with alpha 1
    const activated = this.graph.node("QuickGelu", [gate], { domain: MICROSOFT, attributes: { alpha: { float: 1 } } });
    return this.#projections.linear(this.graph.node("Mul", [activated, up]), names.down);
  }

  /** With `wanted`, a list of positions, everything after the layer's cache is computed for these only. */
  layer(x: string, layer: number, wanted?: string): string {
    const names = layerNames(layer);
    const pick = (all: string) => (wanted === undefined ? all : this.graph.node("Gather", [all, wanted]));
    const attended = this.#projections.linear(
      pick(this.#attend(this.#norm(x, names.attentionNorm), layer)),
      names.output,
    );
    const middle = this.graph.node("Add", [pick(x), attended]);
    return this.graph.node("Add", [middle, this.#feedForward(this.#norm(middle, names.mlpNorm), layer)]);
  }

  /** As `layer`, in one operator; for one new token per row. */
  fusedLayer(x: string, layer: number, fused: FusedLayers): string {
    const cache = this.#declareCache(layer);
    const weight = (...names: readonly string[]) => this.#projections.weight(...names);
    const inputs = { x, cos: this.#cos, sin: this.#sin, cache, weight };
    return emitFusedLayer(this.graph, this.#config, layer, inputs, fused);
  }

  /** Only the cache of a layer; what follows it is not needed and not computed. */
  layerCacheOnly(x: string, layer: number): void {
    this.#attend(this.#norm(x, layerNames(layer).attentionNorm), layer);
  }

  /** Logits of the positions in `x`, as the value named `output`. */
  logits(x: string, output: string): string {
    return this.#projections.product(this.#norm(x, FINAL_NORM), [headName(this.#config)], output);
  }

  finish(): GenerationGraph {
    return { model: this.graph.encode(), weightNames: this.#projections.weightNames };
  }
}

/**
 * One decode step of `rows` sequences. Inputs besides weights and caches: `tokens` [rows] int32, `lengths` [rows] int32
 * (cells in use before the step), `total` [] int32 (`cells`), and those of sampling (`emitSampling`). Outputs: `logits`
 * [rows, vocabulary] and those of sampling, which is left out without a `variant`.
 */
export function decodeGraph(
  config: DecoderConfig,
  places: WeightPlaces,
  shape: {
    readonly rows: number;
    readonly cells: number;
    readonly variant: SamplingVariant | undefined;
    readonly weightsFirst?: boolean;
    /** Compute the layers as operators of our own. */
    readonly fused?: FusedLayers | undefined;
  },
): GenerationGraph {
  const { rows, cells, variant, weightsFirst = false, fused } = shape;
  const decoder = new DecoderGraph("decode", config, places, { extent: { rows, tokens: 1 }, cells, weightsFirst });
  const { graph } = decoder;
  let x = decoder.begin();
  for (let layer = 0; layer < config.layers; layer++) {
    x = fused === undefined ? decoder.layer(x, layer) : decoder.fusedLayer(x, layer, fused);
  }
  const logits = decoder.logits(x, "logits");
  graph.output("logits", "float32", [rows, config.vocabularySize]);
  if (variant !== undefined) emitSampling(graph, logits, rows, config.vocabularySize, variant);
  return decoder.finish();
}

/**
 * Fills the cache of one row with `tokens` known tokens. `lengths` [1] and `total` [] are, as GroupQueryAttention wants
 * them, cells in use after the chunk − 1 and cells in use after the chunk. There is no head: the last known token of a
 * context always goes through a decode step.
 */
export function prefillGraph(
  config: DecoderConfig,
  places: WeightPlaces,
  tokens: number,
  cells: number,
): GenerationGraph {
  const decoder = new DecoderGraph(`prefill_${tokens}`, config, places, { extent: { rows: 1, tokens }, cells });
  let x = decoder.begin();
  for (let layer = 0; layer < config.layers - 1; layer++) x = decoder.layer(x, layer);
  decoder.layerCacheOnly(x, config.layers - 1);
  return decoder.finish();
}

/**
 * Decode step and prefill chunk in one, of any number of sequences with any number of new tokens each: `tokens`
 * [sequences · new tokens], `lengths` and `total` as above, `wanted` [n] int32 the positions among `tokens` whose `logits`
 * [n, vocabulary] are computed, which may be none.
 */
export function forwardGraph(config: DecoderConfig, places: WeightPlaces, cells: number): GenerationGraph {
  const decoder = new DecoderGraph("forward", config, places, { extent: "any", cells });
  const { graph } = decoder;
  graph.input("wanted", "int32", ["wanted"]);
  let x = decoder.begin();
  const last = config.layers - 1;
  for (let layer = 0; layer <= last; layer++) x = decoder.layer(x, layer, layer === last ? "wanted" : undefined);
  decoder.logits(x, "logits");
  graph.output("logits", "float32", ["wanted", config.vocabularySize]);
  return decoder.finish();
}

/** Sampling alone, from `logits` [rows, vocabulary]. */
export function samplingGraph(config: DecoderConfig, rows: number, variant: SamplingVariant): Uint8Array {
  const graph = new OnnxBuilder("sampling");
  const logits = graph.input("logits", "float32", [rows, config.vocabularySize]);
  emitSampling(graph, logits, rows, config.vocabularySize, variant);
  return graph.encode();
}
