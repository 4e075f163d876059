/**
 * A GGUF file of a Qwen2 with random Q4_0 weights, for llama.cpp as a peer.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */

import { closeSync, openSync, writeSync } from "node:fs";
import type { DecoderConfig } from "../src/models/config.ts";

const TYPES = { uint32: 4, float32: 6, bool: 7, string: 8, array: 9, int32: 5 } as const;
const F32 = 0;
const Q4_0 = 2;
const Q4_0_BYTES = 18;
const ALIGNMENT = 32;
const NORMAL_TOKEN = 1;
const CONTROL_TOKEN = 3;

interface Tensor {
  readonly name: string;
  /** Innermost dimension first. */
  readonly shape: readonly number[];
  readonly quantized: boolean;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function f32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

function entry(key: string, type: keyof typeof TYPES, value: Buffer): Buffer {
  return Buffer.concat([text(key), u32(TYPES[type]), value]);
}

function array(key: string, type: keyof typeof TYPES, values: readonly Buffer[]): Buffer {
  return entry(key, "array", Buffer.concat([u32(TYPES[type]), u64(values.length), ...values]));
}

/** As many tokens as the model has; what they say does not matter. */
function vocabulary(size: number): readonly Buffer[] {
  const tokens = Array.from({ length: size }, (_, i) => (i < 26 ? String.fromCharCode(97 + i) : `token${i}`));
  return [
    entry("tokenizer.ggml.model", "string", text("gpt2")),
    entry("tokenizer.ggml.pre", "string", text("qwen2")),
    array("tokenizer.ggml.tokens", "string", tokens.map(text)),
    array(
      "tokenizer.ggml.token_type",
      "int32",
      tokens.map((_, i) => u32(i === size - 1 ? CONTROL_TOKEN : NORMAL_TOKEN)),
    ),
    array("tokenizer.ggml.merges", "string", [text("a b")]),
    entry("tokenizer.ggml.eos_token_id", "uint32", u32(size - 1)),
    entry("tokenizer.ggml.bos_token_id", "uint32", u32(size - 1)),
    entry("tokenizer.ggml.add_bos_token", "bool", Buffer.of(0)),
  ];
}

function metadata(config: DecoderConfig): readonly Buffer[] {
  const sizes = {
    block_count: config.layers,
    context_length: config.contextLength,
    embedding_length: config.hiddenSize,
    feed_forward_length: config.intermediateSize,
    "attention.head_count": config.heads,
    "attention.head_count_kv": config.kvHeads,
  };
  return [
    entry("general.architecture", "string", text("qwen2")),
    ...Object.entries(sizes).map(([key, size]) => entry(`qwen2.${key}`, "uint32", u32(size))),
    entry("qwen2.attention.layer_norm_rms_epsilon", "float32", f32(config.normEps)),
    entry("qwen2.rope.freq_base", "float32", f32(config.ropeTheta)),
    ...vocabulary(config.vocabularySize),
  ];
}

function tensors(config: DecoderConfig): readonly Tensor[] {
  const { hiddenSize: d, intermediateSize: ff } = config;
  const [queries, keys] = [config.heads * config.headDim, config.kvHeads * config.headDim];
  const matrix = (name: string, columns: number, rows: number): Tensor => ({
    name: `${name}.weight`,
    shape: [columns, rows],
    quantized: true,
  });
  const vector = (name: string, size: number): Tensor => ({ name, shape: [size], quantized: false });
  const layers = Array.from({ length: config.layers }, (_, layer) => {
    const at = (name: string) => `blk.${layer}.${name}`;
    return [
      vector(at("attn_norm.weight"), d),
      ...[matrix(at("attn_q"), d, queries), matrix(at("attn_k"), d, keys), matrix(at("attn_v"), d, keys)],
      ...[vector(at("attn_q.bias"), queries), vector(at("attn_k.bias"), keys), vector(at("attn_v.bias"), keys)],
      matrix(at("attn_output"), queries, d),
      vector(at("ffn_norm.weight"), d),
      ...[matrix(at("ffn_gate"), d, ff), matrix(at("ffn_up"), d, ff), matrix(at("ffn_down"), ff, d)],
    ];
  });
  return [matrix("token_embd", d, config.vocabularySize), vector("output_norm.weight", d), ...layers.flat()];
}

function dataBytes({ shape, quantized }: Tensor): number {
  const elements = shape.reduce((product, size) => product * size, 1);
  return quantized ? (elements / 32) * Q4_0_BYTES : elements * 4;
}

function align(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** Blocks of a scale (float16) and 32 random codes; norms 1, biases 0. */
function randomData(tensor: Tensor): Buffer {
  const bytes = Buffer.alloc(align(dataBytes(tensor)));
  if (!tensor.quantized) {
    new Float32Array(bytes.buffer, bytes.byteOffset, dataBytes(tensor) / 4).fill(tensor.name.endsWith("bias") ? 0 : 1);
    return bytes;
  }
  for (let i = 0; i + 4 <= bytes.length; i += 4) bytes.writeUInt32LE((Math.random() * 2 ** 32) >>> 0, i);
  const scale = (tensor.name.startsWith("token_embd") ? 0.02 : (tensor.shape[0] as number) ** -0.5) / 4.6;
  const half = new Uint16Array(new Float16Array([scale]).buffer)[0] as number;
  for (let i = 0; i < dataBytes(tensor); i += Q4_0_BYTES) bytes.writeUInt16LE(half, i);
  return bytes;
}

export function writeQwen2Gguf(path: string, config: DecoderConfig): void {
  const all = tensors(config);
  const pairs = metadata(config);
  let offset = 0;
  const infos = all.map((tensor) => {
    const { name, shape, quantized } = tensor;
    const type = u32(quantized ? Q4_0 : F32);
    const info = Buffer.concat([text(name), u32(shape.length), ...shape.map(u64), type, u64(offset)]);
    offset += align(dataBytes(tensor));
    return info;
  });
  const header = Buffer.concat([Buffer.from("GGUF"), u32(3), u64(all.length), u64(pairs.length), ...pairs, ...infos]);
  const file = openSync(path, "w");
  const write = (bytes: Uint8Array) => {
    for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
  };
  try {
    write(header);
    write(Buffer.alloc(align(header.length) - header.length));
    for (const tensor of all) write(randomData(tensor));
  } finally {
    closeSync(file);
  }
}
