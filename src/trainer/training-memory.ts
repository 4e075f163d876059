/** What memory a `Learner` needs for computing gradients, worked out from the graphs it would compile. */

import { buildDecoderGraph } from "../models/decoder-graph.ts";
import { headGraph, type LayeredModel, layerEntries, layerGraph } from "../models/layer-graphs.ts";
import { headChunk } from "./head-calls.ts";
import { bucketLength, type Packing, packedRowLength } from "./micro-batches.ts";

export type ExecutorKind = "graph" | "layers";

export interface TrainingDemand {
  readonly executor: ExecutorKind;
  readonly microBatchTokens: number;
  readonly threads: number;
  /** Longest sequence, in predictions. */
  readonly length: number;
  /** Where rows may hold several sequences, the graphs are taken to be those; they need more than the others by their masks. */
  readonly packing: Packing;
  /** Whether the loss has a divergence over the vocabulary, which needs the logits of a second model. */
  readonly divergence?: boolean;
}

export interface TrainingMemory {
  /** Copies of the gradients. */
  readonly lanes: number;
  readonly activations: number;
  readonly logits: number;
}

/** What the allocator takes beyond what is in use: gaps between values of different sizes; measured. */
const FRAGMENTATION = 1.12;
const FLOAT = Float32Array.BYTES_PER_ELEMENT;
/** Matrices of [tokens, vocabulary] that are in use together: logits, log-probabilities, probabilities. */
const LOGIT_COPIES = 3;
/** Of the reference: its log-probabilities, and their difference. */
const REFERENCE_COPIES = 2;

export function trainingMemory(model: LayeredModel, demand: TrainingDemand): TrainingMemory {
  return demand.executor === "graph" ? wholeGraph(model, demand) : layerByLayer(model, demand);
}

/** As `trainingMemory`, for log-probabilities alone: what a teacher computes. */
export function scoringMemory(model: LayeredModel, demand: TrainingDemand): Omit<TrainingMemory, "lanes"> {
  const { config, adapters } = model;
  const isWhole = demand.executor === "graph";
  const lanes = isWhole ? demand.threads : 1;
  const { rows, length, packed } = rectangleOf(model, Math.ceil(demand.microBatchTokens / lanes), demand);
  const tokens = rows * length;
  if (isWhole) {
    const graph = buildDecoderGraph(config, { profile: "cpu", mode: "logprobs", rows, length, packed, adapters });
    const working = lanes * graph.workingBytes() * FRAGMENTATION;
    const logits = Math.min(working / 2, lanes * LOGIT_COPIES * tokens * config.vocabularySize * FLOAT);
    return { activations: working - logits, logits };
  }
  const layer = layerGraph(model, { layer: 0, rows, length, packed, direction: "forward" }).workingBytes();
  const chunk = headChunk(tokens, config.vocabularySize);
  const head = headGraph(model, { tokens: chunk, gradients: false, terms: {} }).workingBytes() * FRAGMENTATION;
  const states = (config.layers + 3) * tokens * config.hiddenSize * FLOAT;
  return { activations: states + Math.max(0, layer * FRAGMENTATION - head), logits: head };
}

/** The rectangle of the longest sequences. */
function rectangleOf({ config }: LayeredModel, tokens: number, { length: longest, packing }: TrainingDemand) {
  const { contextLength } = config;
  const packed = packing !== "off";
  const length = packed ? packedRowLength(longest, { tokens, contextLength }) : bucketLength(longest, contextLength);
  return { length, rows: Math.max(1, Math.floor(tokens / length)), packed };
}

function wholeGraph(model: LayeredModel, demand: TrainingDemand) {
  const { config, adapters } = model;
  const { microBatchTokens, threads, divergence = false } = demand;
  const { rows, length, packed } = rectangleOf(model, Math.ceil(microBatchTokens / threads), demand);
  const shape = { rows, length, packed };
  const graph = buildDecoderGraph(config, {
    profile: "cpu",
    mode: "gradients",
    ...shape,
    adapters,
    terms: { divergence },
  });
  const working = threads * graph.workingBytes() * FRAGMENTATION;
  const copies = LOGIT_COPIES + (divergence ? REFERENCE_COPIES : 0);
  const logits = Math.min(working / 2, threads * copies * rows * length * config.vocabularySize * FLOAT);
  return { lanes: threads, activations: working - logits, logits };
}

function layerByLayer(model: LayeredModel, demand: TrainingDemand) {
  const { config } = model;
  const { rows, length, packed } = rectangleOf(model, demand.microBatchTokens, demand);
  const tokens = rows * length;
  const kinds = new Map<string, number>();
  for (let layer = 0; layer < config.layers; layer++) {
    kinds.set(
      layerEntries(model, layer)
        .map(({ shape }) => shape.join("x"))
        .join(" "),
      layer,
    );
  }
  const layers = [...kinds.values()].map((layer) =>
    layerGraph(model, { layer, rows, length, packed, direction: "backward" }).workingBytes(),
  );
  const chunk = headChunk(tokens, config.vocabularySize);
  const { divergence = false } = demand;
  const head =
    headGraph(model, { tokens: chunk, gradients: true, terms: { divergence } }).workingBytes() * FRAGMENTATION;
  const layer = Math.max(...layers) * FRAGMENTATION;
  const states = (config.layers + 3) * tokens * config.hiddenSize * FLOAT;
  // layers and head take turns in the same memory
  return { lanes: 1, activations: states + Math.max(0, layer - head), logits: head };
}
