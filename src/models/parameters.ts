/** Names, shapes and places of a decoder's parameters in one flat float32 array. Names are Hugging Face's. */

import { AleError } from "../core/errors.ts";
import { hashKey, Rng } from "../core/rng.ts";
import type { DecoderConfig } from "./config.ts";

/** What a tensor is for; decides its initial spread and whether weight decay may be switched off for it. */
export type ParameterKind = "embedding" | "norm" | "projection" | "residual-projection";

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
const HEAD = "lm_head.weight";

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
    mlpNorm: `${prefix}.post_attention_layernorm.weight`,
    gate: `${prefix}.mlp.gate_proj.weight`,
    up: `${prefix}.mlp.up_proj.weight`,
    down: `${prefix}.mlp.down_proj.weight`,
  } as const;
}

/** Lays out the parameters of a decoder, in the order in which the forward pass uses them. */
export function parameterLayout(config: DecoderConfig): ParameterLayout {
  const { hiddenSize: d, intermediateSize: ff, vocabularySize: v } = config;
  const queryWidth = config.heads * config.headDim;
  const kvWidth = config.kvHeads * config.headDim;
  const tensors: [name: string, kind: ParameterKind, shape: number[]][] = [[EMBEDDING, "embedding", [v, d]]];
  for (let layer = 0; layer < config.layers; layer++) {
    const names = layerNames(layer);
    tensors.push(
      [names.attentionNorm, "norm", [d]],
      [names.query, "projection", [queryWidth, d]],
      [names.key, "projection", [kvWidth, d]],
      [names.value, "projection", [kvWidth, d]],
      [names.output, "residual-projection", [d, queryWidth]],
      [names.mlpNorm, "norm", [d]],
      [names.gate, "projection", [ff, d]],
      [names.up, "projection", [ff, d]],
      [names.down, "residual-projection", [d, ff]],
    );
  }
  tensors.push([FINAL_NORM, "norm", [d]]);
  if (!config.tiedEmbeddings) tensors.push([HEAD, "embedding", [v, d]]);
  return layOut(tensors);
}

function layOut(tensors: readonly [name: string, kind: ParameterKind, shape: readonly number[]][]): ParameterLayout {
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

/**
 * Fills `flat` with initial weights: norms 1, embeddings N(0, 0.02²), projections N(0, 1/fan_in), those that write to the
 * residual stream scaled down by √(2 · layers). A tensor's values depend on the seed and its name only.
 */
export function initializeParameters(config: DecoderConfig, layout: ParameterLayout, flat: Float32Array, seed: number) {
  for (const entry of layout.entries) {
    const view = parameterView(layout, flat, entry.name);
    if (entry.kind === "norm") {
      view.fill(1);
      continue;
    }
    const fanIn = entry.shape[1] ?? 1;
    let deviation = entry.kind === "embedding" ? 0.02 : fanIn ** -0.5;
    if (entry.kind === "residual-projection") deviation /= Math.sqrt(2 * config.layers);
    const rng = new Rng(`init ${seed} ${entry.name}`);
    for (let i = 0; i < view.length; i++) view[i] = deviation * rng.normal();
  }
}
