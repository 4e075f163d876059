/** The decoders that benchmarks measure, from smaller than the shipped one to what people fine-tune. */

import { configFromHuggingFace, type DecoderConfig } from "../../models/config.ts";

export interface ModelSize {
  readonly name: string;
  readonly config: DecoderConfig;
  /** Sequences and their length in a training step. */
  readonly train: { readonly batch: number; readonly length: number };
  /** Whether it is measured when nobody asks for sizes: the others take minutes and gigabytes. */
  readonly byDefault: boolean;
}

type Shape = readonly [hidden: number, layers: number, heads: number, kvHeads: number, mlp: number, vocabulary: number];

function llama([hidden, layers, heads, kvHeads, mlp, vocabulary]: Shape): DecoderConfig {
  return configFromHuggingFace(
    {
      model_type: "llama",
      hidden_size: hidden,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      intermediate_size: mlp,
      vocab_size: vocabulary,
      max_position_embeddings: 1024,
      tie_word_embeddings: true,
      rms_norm_eps: 1e-5,
    },
    "a benchmark's model",
  );
}

export const MODEL_SIZES: readonly ModelSize[] = [
  { name: "0.1m", config: llama([64, 2, 4, 2, 176, 256]), train: { batch: 8, length: 64 }, byDefault: true },
  { name: "1m", config: llama([128, 4, 4, 2, 384, 512]), train: { batch: 32, length: 64 }, byDefault: true },
  { name: "5m", config: llama([256, 6, 4, 4, 768, 512]), train: { batch: 8, length: 256 }, byDefault: true },
  { name: "25m", config: llama([512, 8, 8, 8, 1376, 4096]), train: { batch: 4, length: 128 }, byDefault: true },
  { name: "100m", config: llama([768, 12, 12, 4, 2048, 32_000]), train: { batch: 2, length: 128 }, byDefault: false },
  { name: "0.5b", config: llama([896, 24, 14, 2, 4864, 151_936]), train: { batch: 2, length: 128 }, byDefault: false },
];

/** Multiply-adds of one token that do not depend on its context: every weight matrix once, the embedding as the head. */
export function matrixParameters(config: DecoderConfig): number {
  const { hiddenSize: d, intermediateSize: ff, heads, kvHeads, headDim } = config;
  const layer = 2 * heads * headDim * d + 2 * kvHeads * headDim * d + 3 * ff * d;
  return config.layers * layer + config.vocabularySize * d;
}

/** Floating-point operations of the attention of one new token over `context` cells, all layers. */
export function attentionFlops(config: DecoderConfig, context: number): number {
  return 4 * config.layers * config.heads * config.headDim * context;
}
