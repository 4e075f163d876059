/** Names, shapes and places of a decoder's parameters in one flat float32 array. Names are Hugging Face's. */

import { AleError } from "../core/errors.ts";
import { hashKey, Rng } from "../core/rng.ts";
import { type DecoderConfig, type ExpertConfig, hasExperts } from "./config.ts";

/** What a tensor is for; decides its initial spread and whether weight decay may be switched off for it. */
export type ParameterKind =
  | "embedding"
  | "norm"
  | "projection"
  | "residual-projection"
  | "bias"
  | "adapter"
  | "value-head";

export interface ParameterEntry {
  readonly name: string;
  /** Linear weights are [out, in], embeddings [vocabulary, hidden]. */
  readonly shape: readonly number[];
  readonly kind: ParameterKind;
  /** Elements. */
  readonly size: number;
  /** First element in the flat array. */
  readonly offset: number;
}

export interface ParameterLayout {
  readonly entries: readonly ParameterEntry[];
  readonly byName: ReadonlyMap<string, ParameterEntry>;
  /** Elements of the flat array, padding included. */
  readonly length: number;
  /** Elements without padding. */
  readonly parameterCount: number;
  /** 64 bits over names, shapes and offsets; two layouts with the same hash are interchangeable. */
  readonly hash: bigint;
}

/** Tensors start on 64-byte boundaries: 16 float32 elements. */
const ALIGNMENT = 16;

export const EMBEDDING = "model.embed_tokens.weight";
export const FINAL_NORM = "model.norm.weight";
export const HEAD = "lm_head.weight";

/** Name of the matrix that turns hidden states into logits. */
export function headName(config: DecoderConfig): string {
  return config.tiedEmbeddings ? EMBEDDING : HEAD;
}

/** Names of one layer's tensors. */
export function layerNames(layer: number) {
  const prefix = `model.layers.${layer}`;
  return {
    attentionNorm: `${prefix}.input_layernorm.weight`,
    query: `${prefix}.self_attn.q_proj.weight`,
    key: `${prefix}.self_attn.k_proj.weight`,
    value: `${prefix}.self_attn.v_proj.weight`,
    output: `${prefix}.self_attn.o_proj.weight`,
    queryNorm: `${prefix}.self_attn.q_norm.weight`,
    keyNorm: `${prefix}.self_attn.k_norm.weight`,
    mlpNorm: `${prefix}.post_attention_layernorm.weight`,
    gate: `${prefix}.mlp.gate_proj.weight`,
    up: `${prefix}.mlp.up_proj.weight`,
    down: `${prefix}.mlp.down_proj.weight`,
    router: `${prefix}.mlp.gate.weight`,
  } as const;
}

/** Names of one expert's tensors. */
export function expertNames(layer: number, expert: number) {
  const prefix = `model.layers.${layer}.mlp.experts.${expert}`;
  return {
    gate: `${prefix}.gate_proj.weight`,
    up: `${prefix}.up_proj.weight`,
    down: `${prefix}.down_proj.weight`,
  } as const;
}

/** Name of the bias that belongs to the projection with weight `name`, or `null` where the model has none. */
export function biasName(config: DecoderConfig, name: string): string | null {
  if (!config.queryKeyValueBias || !/\.[qkv]_proj\.weight$/.test(name)) return null;
  return name.replace(/weight$/, "bias");
}

/** Lays out the parameters of a decoder, in the order in which the forward pass uses them. */
export function parameterLayout(config: DecoderConfig): ParameterLayout {
  const { hiddenSize: d, vocabularySize: v } = config;
  const tensors: LayoutTensor[] = [[EMBEDDING, "embedding", [v, d]]];
  for (let layer = 0; layer < config.layers; layer++) {
    tensors.push(...attentionTensors(config, layer), ...feedForwardTensors(config, layer));
  }
  tensors.push([FINAL_NORM, "norm", [d]]);
  if (!config.tiedEmbeddings) tensors.push([HEAD, "embedding", [v, d]]);
  return layOut(tensors);
}

/** A tensor that is to be given a place. */
export type LayoutTensor = readonly [name: string, kind: ParameterKind, shape: readonly number[]];

/** Weights that are used as one matrix follow each other, and so do their biases. */
function attentionTensors(config: DecoderConfig, layer: number): readonly LayoutTensor[] {
  const { hiddenSize: d, headDim } = config;
  const names = layerNames(layer);
  const queryWidth = config.heads * headDim;
  const kvWidth = config.kvHeads * headDim;
  const projections = [
    [names.query, queryWidth],
    [names.key, kvWidth],
    [names.value, kvWidth],
  ] as const;
  const tensors: LayoutTensor[] = [[names.attentionNorm, "norm", [d]]];
  for (const [name, width] of projections) tensors.push([name, "projection", [width, d]]);
  for (const [name, width] of projections) {
    const bias = biasName(config, name);
    if (bias !== null) tensors.push([bias, "bias", [width]]);
  }
  if (config.queryKeyNorm) tensors.push([names.queryNorm, "norm", [headDim]], [names.keyNorm, "norm", [headDim]]);
  tensors.push([names.output, "residual-projection", [d, queryWidth]]);
  return tensors;
}

function feedForwardTensors(config: DecoderConfig, layer: number): readonly LayoutTensor[] {
  const { hiddenSize: d, intermediateSize } = config;
  const names = layerNames(layer);
  const mlp = ({ gate, up, down }: Readonly<Record<"gate" | "up" | "down", string>>, ff: number): LayoutTensor[] => [
    [gate, "projection", [ff, d]],
    [up, "projection", [ff, d]],
    [down, "residual-projection", [d, ff]],
  ];
  const norm: LayoutTensor = [names.mlpNorm, "norm", [d]];
  if (!hasExperts(config, layer)) return [norm, ...mlp(names, intermediateSize)];
  const experts = config.experts as ExpertConfig;
  const tensors: LayoutTensor[] = [norm, [names.router, "projection", [experts.count, d]]];
  for (let expert = 0; expert < experts.count; expert++) {
    tensors.push(...mlp(expertNames(layer, expert), experts.intermediateSize));
  }
  return tensors;
}

/** Places tensors one after the other, each on a 64-byte boundary. */
export function layOut(tensors: readonly LayoutTensor[]): ParameterLayout {
  const entries: ParameterEntry[] = [];
  let offset = 0;
  let parameterCount = 0;
  for (const [name, kind, shape] of tensors) {
    const size = shape.reduce((product, dimension) => product * dimension, 1);
    entries.push({ name, shape, kind, size, offset });
    parameterCount += size;
    offset += Math.ceil(size / ALIGNMENT) * ALIGNMENT;
  }
  const [low, high] = hashKey(entries.map((e) => `${e.name} ${e.shape.join("x")} @${e.offset}`).join("\n"));
  return {
    entries,
    byName: new Map(entries.map((entry) => [entry.name, entry])),
    length: offset,
    parameterCount,
    hash: (BigInt(high) << 32n) | BigInt(low),
  };
}

/** The tensor `name` inside a flat array of this layout; shares memory. @throws AleError("model") for a name it lacks. */
export function parameterView<A extends Float32Array | Float64Array>(
  layout: ParameterLayout,
  flat: A,
  name: string,
): A {
  const entry = layout.byName.get(name);
  if (entry === undefined) throw new AleError("model", `the model has no parameter "${name}"`);
  return flat.subarray(entry.offset, entry.offset + entry.size) as A;
}

const GARBAGE_NUMBERS = 1 << 17;

/**
 * Fills `flat` with initial weights: norms 1, biases 0, embeddings N(0, 0.02²), projections N(0, 1/fan_in), those that write to the
 * residual stream scaled down by √(2 · layers). A tensor's values depend on the seed and its name only.
 */
export function initializeParameters(config: DecoderConfig, layout: ParameterLayout, flat: Float32Array, seed: number) {
  let drawn = 0;
  for (const entry of layout.entries) {
    const view = parameterView(layout, flat, entry.name);
    if (entry.kind === "norm" || entry.kind === "bias") {
      view.fill(entry.kind === "norm" ? 1 : 0);
      continue;
    }
    const fanIn = entry.shape[1] ?? 1;
    let deviation = entry.kind === "embedding" ? 0.02 : fanIn ** -0.5;
    if (entry.kind === "residual-projection") deviation /= Math.sqrt(2 * config.layers);
    const rng = new Rng(`init ${seed} ${entry.name}`);
    for (let i = 0; i < view.length; i++) {
      view[i] = deviation * rng.normal();
      // Each number leaves small objects behind; left to itself the collector lets a gigabyte of them pile up.
      if (++drawn % GARBAGE_NUMBERS === 0) Bun.gc(true);
    }
  }
}
