/**
 * Shape of a decoder of the Llama line: RMSNorm before attention and before a SiLU-gated MLP, rotary positions,
 * grouped-query attention; Qwen2 adds biases to query, key and value, Qwen3 norms of each query and key head, Qwen3-MoE
 * routed experts in place of the MLP. Read from a Hugging Face `config.json`, or from a preset in `models/*.toml` with the
 * same keys.
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

/** Hugging Face's `model_type`. */
export type ModelType = "llama" | "qwen2" | "qwen3" | "qwen3_moe";

/** What a model type settles. */
export interface Architecture {
  readonly modelType: ModelType;
  /** Query, key and value projections have biases. */
  readonly queryKeyValueBias: boolean;
  /** Each head of queries and keys goes through an RMSNorm before it is rotated. */
  readonly queryKeyNorm: boolean;
}

export const ARCHITECTURES: Readonly<Record<ModelType, Architecture>> = {
  llama: { modelType: "llama", queryKeyValueBias: false, queryKeyNorm: false },
  qwen2: { modelType: "qwen2", queryKeyValueBias: true, queryKeyNorm: false },
  qwen3: { modelType: "qwen3", queryKeyValueBias: false, queryKeyNorm: true },
  qwen3_moe: { modelType: "qwen3_moe", queryKeyValueBias: false, queryKeyNorm: true },
};

/** Routed experts: a softmax over all of them, the best few of which share a token's work. */
export interface ExpertConfig {
  readonly count: number;
  /** Experts that work on one token. */
  readonly perToken: number;
  /** Width of one expert's MLP. */
  readonly intermediateSize: number;
  /** The weights of the chosen experts are divided by their sum. */
  readonly normalizeWeights: boolean;
  /** Layer l has experts when l + 1 is a multiple of this and it is not among `denseLayers`. */
  readonly sparseStep: number;
  readonly denseLayers: readonly number[];
}

export interface DecoderConfig extends Architecture {
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
  /** `null`: every layer has one MLP. */
  readonly experts: ExpertConfig | null;
}

/** Whether a layer routes tokens to experts instead of having one MLP. */
export function hasExperts({ experts }: DecoderConfig, layer: number): boolean {
  return experts !== null && (layer + 1) % experts.sparseStep === 0 && !experts.denseLayers.includes(layer);
}

/** Schemas carry their requirement in words, see `parse`. */
const WHOLE = "a whole number of at least 1";
const size = z.number(WHOLE).int(WHOLE).min(1, WHOLE);
const positive = z.number("a number above 0").positive("a number above 0");
const flag = z.boolean("true or false");
const text = z.string("a string");
const layerList = z.array(z.number("layer numbers").int("layer numbers").min(0, "layer numbers"), "a list of layers");

const Llama3ScalingSchema = z.object({
  factor: positive,
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: size,
});

const RopeSchema = z.looseObject(
  {
    rope_type: text.optional(),
    type: text.optional(),
    rope_theta: positive.optional(),
    partial_rotary_factor: positive.optional(),
  },
  "an object",
);

/** Keys as transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) write them. */
const HuggingFaceSchema = z.looseObject(
  {
    model_type: text,
    vocab_size: size,
    hidden_size: size,
    num_hidden_layers: size,
    num_attention_heads: size,
    num_key_value_heads: size.optional(),
    head_dim: size.nullish(),
    intermediate_size: size,
    hidden_act: text.default("silu"),
    rms_norm_eps: positive.default(1e-6),
    rope_theta: positive.optional(),
    rope_scaling: RopeSchema.nullish(),
    rope_parameters: RopeSchema.nullish(),
    attention_bias: flag.default(false),
    mlp_bias: flag.default(false),
    use_sliding_window: flag.default(false),
    layer_types: z.array(text, "a list of strings").nullish(),
    quantization_config: z.unknown().optional(),
    tie_word_embeddings: flag.default(false),
    max_position_embeddings: size.optional(),
  },
  "an object",
);
type HuggingFaceConfig = z.infer<typeof HuggingFaceSchema>;

/** Transformers 5 calls `num_experts` `num_local_experts`. */
const ExpertsSchema = z.looseObject({
  num_experts: size.optional(),
  num_local_experts: size.optional(),
  num_experts_per_tok: size,
  moe_intermediate_size: size,
  norm_topk_prob: flag.default(false),
  decoder_sparse_step: size.default(1),
  mlp_only_layers: layerList.nullish(),
});

/** A preset has the same keys, and no others: a misspelt one would silently leave a default in place. */
const PresetSchema = z.strictObject({ ...HuggingFaceSchema.shape, ...ExpertsSchema.partial().shape });

/** What a library that writes only what differs from its defaults leaves out. */
const DEFAULT_CONTEXT: Readonly<Record<ModelType, number>> = {
  llama: 2048,
  qwen2: 32_768,
  qwen3: 32_768,
  qwen3_moe: 32_768,
};
const QWEN3_HEAD_DIM = 128;

/**
 * Reads a Hugging Face `config.json` of a model type that is in `ARCHITECTURES`.
 * @param json the parsed file. @param source its path, for messages.
 * @throws AleError("model") naming the key when a value is missing or not supported.
 */
export function configFromHuggingFace(json: unknown, source: string): DecoderConfig {
  const raw = parse(HuggingFaceSchema, json, source);
  const architecture = supportedArchitecture(raw, source);
  const { modelType } = architecture;
  const rope = raw.rope_parameters ?? raw.rope_scaling ?? {};
  const ropeType = rope.rope_type ?? rope.type ?? "default";
  if (ropeType !== "default" && ropeType !== "llama3") refuse(source, `RoPE type "${ropeType}"`);
  if ((rope.partial_rotary_factor ?? 1) !== 1) refuse(source, "partial_rotary_factor");
  const headDim =
    raw.head_dim ?? (architecture.queryKeyNorm ? QWEN3_HEAD_DIM : raw.hidden_size / raw.num_attention_heads);
  return checkConfig(
    {
      ...architecture,
      vocabularySize: raw.vocab_size,
      hiddenSize: raw.hidden_size,
      layers: raw.num_hidden_layers,
      heads: raw.num_attention_heads,
      kvHeads: raw.num_key_value_heads ?? raw.num_attention_heads,
      headDim,
      intermediateSize: raw.intermediate_size,
      normEps: raw.rms_norm_eps,
      ropeTheta: rope.rope_theta ?? raw.rope_theta ?? 10_000,
      ropeScaling: ropeType === "llama3" ? llama3Scaling(rope, source) : null,
      tiedEmbeddings: raw.tie_word_embeddings,
      contextLength: raw.max_position_embeddings ?? DEFAULT_CONTEXT[modelType],
      experts: modelType === "qwen3_moe" ? expertConfig(raw, source) : null,
    },
    source,
  );
}

/** @throws AleError("model") naming what makes this model another one than Ale computes. */
function supportedArchitecture(raw: HuggingFaceConfig, source: string): Architecture {
  const { model_type: modelType } = raw;
  if (!Object.hasOwn(ARCHITECTURES, modelType)) refuse(source, `model_type "${modelType}"`);
  if (raw.hidden_act !== "silu") refuse(source, `hidden_act "${raw.hidden_act}"`);
  if (raw.attention_bias) refuse(source, "attention_bias");
  if (raw.mlp_bias) refuse(source, "mlp_bias");
  if (raw.use_sliding_window) refuse(source, "use_sliding_window");
  const otherAttention = raw.layer_types?.find((type) => type !== "full_attention");
  if (otherAttention !== undefined) refuse(source, `layer type "${otherAttention}"`);
  if (raw.quantization_config != null) {
    throw new AleError("model", `${source}: weights quantised before they were saved are not supported`, {
      hint: "use the model's float32, float16 or bfloat16 folder, or a GGUF file",
    });
  }
  return ARCHITECTURES[modelType as ModelType];
}

function refuse(source: string, what: string): never {
  const types = Object.keys(ARCHITECTURES).join(", ");
  throw new AleError("model", `${source}: ${what} is not supported`, {
    hint: `Ale computes model_type ${types} with hidden_act silu, full attention and RoPE type default or llama3`,
  });
}

function expertConfig(raw: HuggingFaceConfig, source: string): ExpertConfig {
  const experts = parse(ExpertsSchema, raw, source);
  const perToken = experts.num_experts_per_tok;
  const count = experts.num_experts ?? experts.num_local_experts;
  if (count === undefined) throw new AleError("model", `${source}: num_experts is missing`, { hint: WRONG_FILE });
  if (perToken > count) {
    throw new AleError("model", `${source}: num_experts_per_tok is ${perToken}, but there are ${count} experts`, {
      hint: WRONG_FILE,
    });
  }
  return {
    count,
    perToken,
    intermediateSize: experts.moe_intermediate_size,
    normalizeWeights: experts.norm_topk_prob,
    sparseStep: experts.decoder_sparse_step,
    denseLayers: experts.mlp_only_layers ?? [],
  };
}

const CLASS_NAMES: Readonly<Record<ModelType, string>> = {
  llama: "LlamaForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
  qwen3_moe: "Qwen3MoeForCausalLM",
};

/** The `config.json` other tools read; the inverse of `configFromHuggingFace`. */
export function configToHuggingFace(config: DecoderConfig): Record<string, unknown> {
  const scaling = config.ropeScaling;
  return {
    architectures: [CLASS_NAMES[config.modelType]],
    model_type: config.modelType,
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
    ...familyKeys(config),
    tie_word_embeddings: config.tiedEmbeddings,
    max_position_embeddings: config.contextLength,
    torch_dtype: "float32",
  };
}

/** Keys that only some model types have. */
function familyKeys({ modelType, experts }: DecoderConfig): Record<string, unknown> {
  if (modelType === "llama") return { attention_bias: false, mlp_bias: false };
  if (experts === null) return { use_sliding_window: false, sliding_window: null };
  return {
    use_sliding_window: false,
    sliding_window: null,
    num_experts: experts.count,
    num_experts_per_tok: experts.perToken,
    moe_intermediate_size: experts.intermediateSize,
    norm_topk_prob: experts.normalizeWeights,
    decoder_sparse_step: experts.sparseStep,
    mlp_only_layers: experts.denseLayers,
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
    throw new AleError("model", `${source}: ${config.heads} heads cannot share ${config.kvHeads} key/value heads`, {
      hint: WRONG_FILE,
    });
  }
  if (config.headDim % 2 !== 0) {
    throw new AleError("model", `${source}: rotary positions need an even head size, not ${config.headDim}`, {
      hint: WRONG_FILE,
    });
  }
  return config;
}

const WRONG_FILE = "config.json must be the one the model was published with";

/** @throws AleError("model") naming file, key, what was found and what was expected. */
function parse<S extends z.ZodType>(schema: S, value: unknown, source: string): z.infer<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  if (issue?.code === "unrecognized_keys") {
    throw new AleError("model", `${source}: unknown key ${issue.keys.join(", ")}`, { hint: "check its spelling" });
  }
  const path = issue?.path ?? [];
  const found = path.reduce<unknown>((inner, key) => (inner as Record<PropertyKey, unknown>)[key], value);
  const subject = path.length === 0 ? source : `${source}: ${path.join(".")}`;
  const state = found === undefined ? "is missing" : `is ${JSON.stringify(found)}`;
  throw new AleError("model", `${subject} ${state}; expected ${issue?.message ?? "something else"}`, {
    hint: WRONG_FILE,
  });
}
