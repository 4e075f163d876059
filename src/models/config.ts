/**
 * Shape of a Llama-style decoder: RMSNorm before attention and before a SiLU-gated MLP, rotary positions, grouped-query
 * attention, no biases. Read from a Hugging Face `config.json`, or from a preset in `models/*.toml` with the same keys.
 */

import { parse as parseToml } from "smol-toml";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";

/** Frequency scaling of Llama 3.1, see `ropeFrequencies`. */
export interface RopeScaling {
  readonly factor: number;
  readonly lowFrequencyFactor: number;
  readonly highFrequencyFactor: number;
  readonly originalContextLength: number;
}

export interface DecoderConfig {
  readonly vocabularySize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  /** Query heads. */
  readonly heads: number;
  /** Key and value heads; divides `heads`. */
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediateSize: number;
  readonly normEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling | null;
  /** The output projection is the token embedding. */
  readonly tiedEmbeddings: boolean;
  /** Longest sequence, in tokens. */
  readonly contextLength: number;
}

const size = z.number().int().min(1);

const Llama3ScalingSchema = z.object({
  factor: z.number().positive(),
  low_freq_factor: z.number().positive(),
  high_freq_factor: z.number().positive(),
  original_max_position_embeddings: size,
});

const RopeSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
});

/** Keys as transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) write them. */
const HuggingFaceSchema = z.looseObject({
  model_type: z.string(),
  vocab_size: size,
  hidden_size: size,
  num_hidden_layers: size,
  num_attention_heads: size,
  num_key_value_heads: size.optional(),
  head_dim: size.nullish(),
  intermediate_size: size,
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().positive().default(1e-6),
  rope_theta: z.number().positive().optional(),
  rope_scaling: RopeSchema.nullish(),
  rope_parameters: RopeSchema.nullish(),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
  max_position_embeddings: size.default(2048),
});

/** A preset has the same keys, and no others: a misspelt one would silently leave a default in place. */
const PresetSchema = z.strictObject(HuggingFaceSchema.shape);

/**
 * Reads a Hugging Face `config.json` of model type `llama`.
 * @param json the parsed file. @param source its path, for messages.
 * @throws AleError("model") naming the key when a value is missing or not supported.
 */
export function configFromHuggingFace(json: unknown, source: string): DecoderConfig {
  const raw = parse(HuggingFaceSchema, json, source);
  const refuse = (what: string): never => {
    throw new AleError("model", `${source}: ${what} is not supported`, {
      hint: "Ale trains Llama-style decoders without biases: model_type llama, hidden_act silu",
    });
  };
  if (raw.model_type !== "llama") refuse(`model_type "${raw.model_type}"`);
  if (raw.hidden_act !== "silu") refuse(`hidden_act "${raw.hidden_act}"`);
  if (raw.attention_bias) refuse("attention_bias");
  if (raw.mlp_bias) refuse("mlp_bias");
  const rope = raw.rope_parameters ?? raw.rope_scaling ?? {};
  const ropeType = rope.rope_type ?? rope.type ?? "default";
  if (ropeType !== "default" && ropeType !== "llama3") refuse(`RoPE type "${ropeType}"`);
  return checkConfig(
    {
      vocabularySize: raw.vocab_size,
      hiddenSize: raw.hidden_size,
      layers: raw.num_hidden_layers,
      heads: raw.num_attention_heads,
      kvHeads: raw.num_key_value_heads ?? raw.num_attention_heads,
      headDim: raw.head_dim ?? Math.floor(raw.hidden_size / raw.num_attention_heads),
      intermediateSize: raw.intermediate_size,
      normEps: raw.rms_norm_eps,
      ropeTheta: rope.rope_theta ?? raw.rope_theta ?? 10_000,
      ropeScaling: ropeType === "llama3" ? llama3Scaling(rope, source) : null,
      tiedEmbeddings: raw.tie_word_embeddings,
      contextLength: raw.max_position_embeddings,
    },
    source,
  );
}

/** The `config.json` other tools read; the inverse of `configFromHuggingFace`. */
export function configToHuggingFace(config: DecoderConfig): Record<string, unknown> {
  const scaling = config.ropeScaling;
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: config.vocabularySize,
    hidden_size: config.hiddenSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    intermediate_size: config.intermediateSize,
    hidden_act: "silu",
    rms_norm_eps: config.normEps,
    rope_theta: config.ropeTheta,
    rope_scaling: scaling && {
      rope_type: "llama3",
      factor: scaling.factor,
      low_freq_factor: scaling.lowFrequencyFactor,
      high_freq_factor: scaling.highFrequencyFactor,
      original_max_position_embeddings: scaling.originalContextLength,
    },
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: config.tiedEmbeddings,
    max_position_embeddings: config.contextLength,
    torch_dtype: "float32",
  };
}

/**
 * Reads a preset such as `models/shell.toml`.
 * @param text the file's content. @param source its path, for messages.
 * @throws AleError("model") for TOML that does not parse, unknown keys and values out of bounds.
 */
export function configFromPreset(text: string, source: string): DecoderConfig {
  let table: unknown;
  try {
    table = parseToml(text);
  } catch (error) {
    throw new AleError("model", `${source}: ${errorMessage(error)}`, { cause: error });
  }
  return configFromHuggingFace(parse(PresetSchema, table, source), source);
}

function llama3Scaling(rope: z.infer<typeof RopeSchema>, source: string): RopeScaling {
  const raw = parse(Llama3ScalingSchema, rope, `${source}: rope_scaling`);
  return {
    factor: raw.factor,
    lowFrequencyFactor: raw.low_freq_factor,
    highFrequencyFactor: raw.high_freq_factor,
    originalContextLength: raw.original_max_position_embeddings,
  };
}

function checkConfig(config: DecoderConfig, source: string): DecoderConfig {
  if (config.heads % config.kvHeads !== 0) {
    throw new AleError("model", `${source}: ${config.heads} heads cannot share ${config.kvHeads} key/value heads`);
  }
  if (config.headDim % 2 !== 0) {
    throw new AleError("model", `${source}: rotary positions need an even head size, not ${config.headDim}`);
  }
  return config;
}

function parse<S extends z.ZodType>(schema: S, value: unknown, source: string): z.infer<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const key = issue?.path.join(".") ?? "";
  throw new AleError("model", `${source}: ${key === "" ? "" : `${key}: `}${issue?.message ?? "not valid"}`);
}
