/** What memory an engine will need, worked out from its options before anything is loaded. */

import { configFromHuggingFace, type DecoderConfig } from "../models/config.ts";
import type { LayeredModel } from "../models/layer-graphs.ts";
import { adaptersFor } from "../models/lora.ts";
import { type ParameterLayout, parameterLayout } from "../models/parameters.ts";
import { kvBytes } from "../policy/generation/kv-block.ts";
import { cellsFor, chunkSizes } from "../policy/generation/prefiller.ts";
import { type ExecutorKind, scoringMemory, trainingMemory } from "../trainer/training-memory.ts";
import type { EngineOptions } from "./protocol.ts";

/** Bytes by purpose; together they are the peak. */
export interface MemoryParts {
  /** Parameters: of the slots of the store in use, the frozen base of adapters, a frozen reference. */
  readonly weights: number;
  readonly gradients: number;
  /** Both moments of AdamW, of the slots in use. */
  readonly moments: number;
  /** Intermediate values of the largest training graph, and the states between layers. */
  readonly activations: number;
  readonly logits: number;
  /** Keys and values of the sequences that may be cached. */
  readonly kv: number;
  /** ONNX Runtime, compiled graphs and JavaScript's heap. */
  readonly runtime: number;
}

export interface MemoryPlan {
  readonly executor: ExecutorKind;
  readonly parts: MemoryParts;
  /** Sum of the parts. */
  readonly predictedBytes: number;
}

/** Default of `EngineOptions.cacheBytes`. */
export const CACHE_BYTES = 4e9;

/** What an engine takes with a model of a few kilobytes; measured. */
const RUNTIME_BYTES = 90e6;
/** Models up to this size train as one graph, if its intermediate values stay below the bytes. */
const GRAPH_PARAMETERS = 30e6;
const GRAPH_BYTES = 2e9;
const MOMENTS = 2;
/** Bytes per weight of quantised matrices, scales included. */
const QUANTIZED_BYTES = { int8: 1.125, int4: 0.625, "int4-128": 0.53125 } as const;

/** The executor that `auto` stands for; depends on model and batch alone, so that runs are reproducible on any machine. */
export function chooseExecutor(options: EngineOptions): ExecutorKind {
  if (options.executor === "graph" || options.executor === "layers") return options.executor;
  const model = modelOf(options);
  if (parameterLayout(model.config).parameterCount > GRAPH_PARAMETERS) return "layers";
  const { activations, logits } = trainingMemory(model, { ...demandOf(options), executor: "graph" });
  return activations + logits > GRAPH_BYTES ? "layers" : "graph";
}

export function planMemory(options: EngineOptions): MemoryPlan {
  const model = modelOf(options);
  const isTeacher = options.work === "score";
  const executor = options.frozen === undefined || isTeacher ? chooseExecutor(options) : "graph";
  const exact = isTeacher
    ? teacherParts(options, model, executor)
    : options.frozen === undefined
      ? storeParts(options, model, executor)
      : frozenParts(options, model);
  const parts = Object.fromEntries(Object.entries(exact).map(([part, bytes]) => [part, Math.ceil(bytes)]));
  const predictedBytes = Object.values(parts).reduce((sum, bytes) => sum + bytes, 0);
  return { executor, parts: parts as unknown as MemoryParts, predictedBytes };
}

function modelOf({ modelConfig, lora }: EngineOptions): LayeredModel {
  const config = configFromHuggingFace(modelConfig, "config.json");
  return { config, adapters: lora === undefined ? undefined : adaptersFor(config, lora.config) };
}

function demandOf({ microBatchTokens, threads, context, packing = "off", divergence = false }: EngineOptions) {
  return { microBatchTokens, threads, length: context - 1, packing, divergence };
}

/** Of an engine whose weights lie in a store. */
function storeParts(options: EngineOptions, model: LayeredModel, executor: ExecutorKind): MemoryParts {
  const { work = "both" } = options;
  const all = parameterLayout(model.config);
  const trained = model.adapters?.layout ?? all;
  const base = model.adapters === undefined ? 0 : bytesOf(all) + quantizedBytes(options, all);
  const reference = options.reference === undefined ? 0 : bytesOf(all);
  const slots = options.updatesPerStep === 1 ? 2 : 3;
  const weights = base + reference + slots * bytesOf(trained);
  const generation = work === "train" ? 0 : generationBytes(options, model.config);
  const kv = work === "train" ? 0 : cacheBytes(options, model.config);
  if (work === "generate") {
    return { weights, gradients: 0, moments: 0, activations: generation, logits: 0, kv, runtime: RUNTIME_BYTES };
  }
  const training = trainingMemory(model, { ...demandOf(options), executor });
  return {
    weights,
    gradients: training.lanes * bytesOf(trained),
    moments: slots * MOMENTS * bytesOf(trained),
    // training and generation take turns in the same memory
    activations: Math.max(training.activations, generation - training.logits),
    logits: training.logits,
    kv,
    runtime: RUNTIME_BYTES,
  };
}

function teacherParts(options: EngineOptions, model: LayeredModel, executor: ExecutorKind): MemoryParts {
  const weights = bytesOf(parameterLayout(model.config)) + (model.adapters ? bytesOf(model.adapters.layout) : 0);
  const scoring = scoringMemory(model, { ...demandOf(options), executor });
  return { weights, gradients: 0, moments: 0, ...scoring, kv: 0, runtime: RUNTIME_BYTES };
}

function frozenParts(options: EngineOptions, { config, adapters }: LayeredModel): MemoryParts {
  const all = parameterLayout(config);
  const codes = quantizedBytes(options, all);
  const base = codes === 0 ? bytesOf(all) : codes + bytesOf(all) - matrixElements(all) * 4;
  return {
    weights: base + (adapters === undefined ? 0 : bytesOf(adapters.layout)),
    gradients: 0,
    moments: 0,
    activations: generationBytes(options, config),
    logits: 0,
    kv: cacheBytes(options, config),
    runtime: RUNTIME_BYTES,
  };
}

function bytesOf({ length }: ParameterLayout): number {
  return length * Float32Array.BYTES_PER_ELEMENT;
}

/** Codes and scales of the matrices. */
function quantizedBytes({ quantization }: EngineOptions, layout: ParameterLayout): number {
  if (quantization === undefined) return 0;
  return matrixElements(layout) * QUANTIZED_BYTES[quantization];
}

function matrixElements({ entries }: ParameterLayout): number {
  const matrices = entries.filter(({ kind }) => kind === "projection" || kind === "residual-projection");
  return matrices.reduce((sum, { size }) => sum + size, 0);
}

function cacheBytes(
  { slots, sequences, context, cacheBytes: limit = CACHE_BYTES }: EngineOptions,
  config: DecoderConfig,
) {
  const row = kvBytes(config, 1, cellsFor(context));
  const cached = Math.min(sequences, Math.max(1, Math.floor(limit / row)));
  return (cached + slots) * row;
}

/** Values of a decode step of all slots or of a prefill chunk, whichever are more. */
function generationBytes({ slots, context }: EngineOptions, config: DecoderConfig): number {
  const { hiddenSize, intermediateSize, vocabularySize, heads, headDim } = config;
  const perToken = 4 * hiddenSize + 3 * intermediateSize + 4 * heads * headDim;
  const chunk = Math.max(...chunkSizes(context));
  return 4 * (Math.max(slots, chunk) * perToken + 4 * slots * vocabularySize);
}
