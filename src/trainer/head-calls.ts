/** The end of the decoder in chunks of tokens, so that the logits of all tokens never exist at once. */

import { accumulatedName, gradientName, trainableLayout } from "../models/decoder-graph.ts";
import { REFERENCE_TABLE } from "../models/decoder-head.ts";
import { HIDDEN, HIDDEN_GRADIENT, headEntries, headGraph } from "../models/layer-graphs.ts";
import type { PreparedCall } from "../runtime/session.ts";
import { float32Value, type Value } from "../runtime/value.ts";
import type { BatchMemory } from "./batch-memory.ts";
import { modeKey, type RunnerMode } from "./executor.ts";
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
    const { tokens } = this.#memory;
    const chunk = headChunk(tokens, model.config.vocabularySize, options.logitBytes);
    const calls: PreparedCall[] = [];
    for (let begin = 0; begin < tokens; begin += chunk) {
      calls.push(this.#chunk(begin, Math.min(tokens, begin + chunk), weights));
    }
    return calls;
  }

  #chunk(begin: number, end: number, weights: Readonly<Record<string, Value>>): PreparedCall {
    const { model, lane } = this.#shared;
    const { gradients, terms } = this.#mode;
    const count = end - begin;
    const width = model.config.hiddenSize;
    const session = this.#shared.session(`head ${modeKey(this.#mode)} ${count}`, () =>
      headGraph(model, { tokens: count, gradients, terms }),
    );
    const rows = (data: Float32Array) => float32Value(data.subarray(begin * width, end * width), [count, width]);
    const { feeds, fetches } = this.#memory.head(begin, end);
    feeds[HIDDEN] = rows(this.#states.states);
    const entries = headEntries(model, terms);
    for (const { name } of entries) feeds[name] = weights[name] as Value;
    if (terms.divergence === true && model.adapters === undefined) {
      feeds[REFERENCE_TABLE] = weights[REFERENCE_TABLE] as Value;
    }
    if (!gradients) return session.prepare(feeds, fetches);
    fetches[HIDDEN_GRADIENT] = rows(this.#states.gradient);
    const trainable = trainableLayout(model.config, { adapters: model.adapters, valueHead: true }).byName;
    for (const { name } of entries) {
      if (!trainable.has(name)) continue;
      feeds[accumulatedName(name)] = lane[name] as Value;
      fetches[gradientName(name)] = lane[name] as Value;
    }
    return session.prepare(feeds, fetches);
  }
}
