/** The `config.json` that a GGUF file amounts to. */

import { AleError } from "../core/errors.ts";
import type { ModelType } from "./config.ts";
import type { GgufFile } from "./gguf.ts";
import { GgufMetadata } from "./gguf-metadata.ts";
import { ggufTensors } from "./gguf-tensors.ts";

/** Names of architectures in GGUF. */
const MODEL_TYPES: Readonly<Record<string, ModelType>> = {
  llama: "llama",
  qwen2: "qwen2",
  qwen3: "qwen3",
  qwen3moe: "qwen3_moe",
};

/** Keys as in Hugging Face's `config.json`. @throws AleError("model") naming the key that is missing or not supported. */
export function configFromGguf(file: GgufFile): Record<string, unknown> {
  const metadata = new GgufMetadata(file);
  const architecture = metadata.string("general.architecture") ?? "";
  const modelType = Object.hasOwn(MODEL_TYPES, architecture) ? MODEL_TYPES[architecture] : undefined;
  if (modelType === undefined) {
    throw metadata.wrong("general.architecture", Object.keys(MODEL_TYPES).join(", "));
  }
  const required = (key: string) => metadata.requiredNumber(`${architecture}.${key}`);
  const optional = (key: string) => metadata.number(`${architecture}.${key}`);
  const [hidden, heads, layers] = [
    required("embedding_length"),
    required("attention.head_count"),
    required("block_count"),
  ];
  const headDim = optional("attention.key_length") ?? hidden / heads;
  if ((optional("rope.dimension_count") ?? headDim) !== headDim) {
    throw metadata.wrong(`${architecture}.rope.dimension_count`, `the head size, ${headDim}`);
  }
  const vocabulary = file.tensors.get("token_embd.weight")?.shape[0];
  if (vocabulary === undefined) {
    throw new AleError("model", `${file.source.path} has no tensor "token_embd.weight"`, {
      hint: "copy or download the file again",
    });
  }
  return {
    model_type: modelType,
    vocab_size: vocabulary,
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: optional("attention.head_count_kv") ?? heads,
    head_dim: headDim,
    intermediate_size: required("feed_forward_length"),
    hidden_act: "silu",
    rms_norm_eps: decimal(required("attention.layer_norm_rms_epsilon")),
    rope_theta: decimal(optional("rope.freq_base") ?? 10_000),
    rope_scaling: ropeScaling(file, metadata, architecture, headDim),
    tie_word_embeddings: !file.tensors.has("output.weight"),
    max_position_embeddings: required("context_length"),
    ...(modelType === "qwen3_moe" ? expertKeys(file, metadata, layers) : {}),
    torch_dtype: "float32",
  };
}

/** The number somebody wrote before it became a 32-bit float. */
function decimal(float: number): number {
  return Number(float.toPrecision(7));
}

function expertKeys(file: GgufFile, metadata: GgufMetadata, layers: number): Record<string, unknown> {
  const dense = Array.from({ length: layers }, (_, layer) => layer).filter(
    (layer) => !file.tensors.has(`blk.${layer}.ffn_gate_exps.weight`),
  );
  return {
    num_experts: metadata.requiredNumber("qwen3moe.expert_count"),
    num_experts_per_tok: metadata.requiredNumber("qwen3moe.expert_used_count"),
    moe_intermediate_size: metadata.requiredNumber("qwen3moe.expert_feed_forward_length"),
    // what llama.cpp computes for this architecture; the file does not say
    norm_topk_prob: true,
    decoder_sparse_step: 1,
    mlp_only_layers: dense,
  };
}

/** Of Llama 3.1's frequency scaling a file keeps the divisor of each frequency, not the four numbers they come from. */
const FREQUENCY_DIVISORS = "rope_freqs.weight";
const LLAMA3 = { rope_type: "llama3", low_freq_factor: 1, high_freq_factor: 4 } as const;
const LLAMA3_ORIGINAL_CONTEXT = 8192;

/** @throws AleError("model") when the divisors are not those of Llama 3.1's formula. */
function ropeScaling(
  file: GgufFile,
  metadata: GgufMetadata,
  architecture: string,
  headDim: number,
): Record<string, unknown> | null {
  const key = `${architecture}.rope.scaling.type`;
  const type = metadata.string(key) ?? "none";
  const tensor = ggufTensors(file).get(FREQUENCY_DIVISORS);
  if (tensor === undefined) {
    if (type !== "none") throw metadata.wrong(key, "none");
    return null;
  }
  tensor.check();
  const divisors = new Float32Array(tensor.shape.reduce((product, size) => product * size, 1));
  tensor.readElements(0, divisors);
  const scaling = {
    ...LLAMA3,
    factor: decimal(Math.max(...divisors)),
    original_max_position_embeddings:
      metadata.number(`${architecture}.rope.scaling.original_context_length`) ?? LLAMA3_ORIGINAL_CONTEXT,
  };
  const theta = metadata.number(`${architecture}.rope.freq_base`) ?? 10_000;
  const fits = divisors.every((divisor, i) => {
    const turns = (scaling.original_max_position_embeddings * theta ** ((-2 * i) / headDim)) / (2 * Math.PI);
    const { low_freq_factor: low, high_freq_factor: high, factor } = scaling;
    const smooth = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return Math.abs(divisor * ((1 - smooth) / factor + smooth) - 1) < 1e-4;
  });
  if (!fits || divisors.length !== headDim / 2) {
    throw new AleError("model", `${file.source.path}: "${FREQUENCY_DIVISORS}" is not Llama 3.1's frequency scaling`, {
      hint: "use the model's Hugging Face folder",
    });
  }
  return scaling;
}
