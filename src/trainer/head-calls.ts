/** The end of the decoder in chunks of tokens, so that the logits of all tokens never exist at once. */

import {
  accumulatedName,
  ENTROPY,
  ENTROPY_WEIGHTS,
  gradientName,
  INVERSE_TEMPERATURE,
  LABELS,
  LOGPROBS,
  trainableLayout,
  WEIGHTS,
} from "../models/decoder-graph.ts";
import { HIDDEN, HIDDEN_GRADIENT, headEntries, headGraph } from "../models/layer-graphs.ts";
import type { PreparedCall } from "../runtime/session.ts";
import { float32Value, int64Value, type Value } from "../runtime/value.ts";
import type { BatchMemory } from "./batch-memory.ts";
import type { RunnerMode } from "./executor.ts";
import type { LayeredRunners } from "./layered-runner.ts";

const DEFAULT_LOGIT_BYTES = 64 << 20;

/** Tokens per chunk: as even as chunks can be whose logits take at most `bytes`. */
export function headChunk(tokens: number, vocabularySize: number, bytes = DEFAULT_LOGIT_BYTES): number {
  const most = Math.max(1, Math.floor(bytes / (4 * vocabularySize)));
  return Math.ceil(tokens / Math.ceil(tokens / most));
}

/** States after the last layer, flat [N, d], and where their gradient goes. */
interface HeadStates {
  readonly states: Float32Array;
  readonly gradient: Float32Array;
}

export class HeadCalls {
  readonly #shared: LayeredRunners;
  readonly #mode: RunnerMode;
  readonly #memory: BatchMemory;
  readonly #states: HeadStates;

  constructor(shared: LayeredRunners, mode: RunnerMode, memory: BatchMemory, states: HeadStates) {
    this.#shared = shared;
    this.#mode = mode;
    this.#memory = memory;
    this.#states = states;
  }

  /** One call per chunk, in order of position. */
  prepare(weights: Readonly<Record<string, Value>>): readonly PreparedCall[] {
    const { model, options } = this.#shared;
    const tokens = this.#memory.ids.length;
    const chunk = headChunk(tokens, model.config.vocabularySize, options.logitBytes);
    const calls: PreparedCall[] = [];
    for (let begin = 0; begin < tokens; begin += chunk) {
      calls.push(this.#chunk(begin, Math.min(tokens, begin + chunk), weights));
    }
    return calls;
  }

  #chunk(begin: number, end: number, weights: Readonly<Record<string, Value>>): PreparedCall {
    const { model, lane } = this.#shared;
    const mode = this.#mode;
    const memory = this.#memory;
    const count = end - begin;
    const width = model.config.hiddenSize;
    const session = this.#shared.session(`head ${mode} ${count}`, () => headGraph(model, count, mode));
    const column = (data: Float32Array) => float32Value(data.subarray(begin, end), [count, 1]);
    const rows = (data: Float32Array) => float32Value(data.subarray(begin * width, end * width), [count, width]);
    const feeds: Record<string, Value> = {
      [HIDDEN]: rows(this.#states.states),
      [LABELS]: int64Value(memory.labels.subarray(begin, end), [count]),
      [INVERSE_TEMPERATURE]: float32Value(memory.inverseTemperature, []),
    };
    const fetches: Record<string, Value> = { [LOGPROBS]: column(memory.logprobs) };
    const entries = headEntries(model);
    for (const { name } of entries) feeds[name] = weights[name] as Value;
    if (mode === "logprobs") return session.prepare(feeds, fetches);
    feeds[WEIGHTS] = column(memory.weights);
    if (mode === "entropy-gradients") feeds[ENTROPY_WEIGHTS] = column(memory.entropyWeights);
    fetches[ENTROPY] = column(memory.entropy);
    fetches[HIDDEN_GRADIENT] = rows(this.#states.gradient);
    const trainable = trainableLayout(model.config, model.adapters).byName;
    for (const { name } of entries) {
      if (!trainable.has(name)) continue;
      feeds[accumulatedName(name)] = lane[name] as Value;
      fetches[gradientName(name)] = lane[name] as Value;
    }
    return session.prepare(feeds, fetches);
  }
}
