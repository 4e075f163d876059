/**
 * The decoder layer by layer: what stays in memory between forward and backward pass is one [N, d] per layer boundary, and
 * the activations of a single layer. Each layer's forward pass is computed again before its backward pass
 * (Chen et al., https://arxiv.org/abs/1604.06174).
 */

import type { Graph } from "../autodiff/graph.ts";
import type { DecoderConfig } from "../models/config.ts";
import { accumulatedName, gradientName, IDS, trainableLayout, trainsEmbedding } from "../models/decoder-graph.ts";
import {
  embeddingGraph,
  HIDDEN,
  HIDDEN_GRADIENT,
  layerEntries,
  layerGraph,
  OUTPUT,
  OUTPUT_GRADIENT,
} from "../models/layer-graphs.ts";
import type { Slot } from "../models/parameter-store.ts";
import { tensorValues } from "../models/parameter-values.ts";
import { EMBEDDING, type ParameterEntry, type ParameterLayout } from "../models/parameters.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { type PreparedCall, Session } from "../runtime/session.ts";
import { float32Value, type Value } from "../runtime/value.ts";
import { BatchMemory, idValue } from "./batch-memory.ts";
import { EmbeddingGradient, type Lane } from "./embedding-gradient.ts";
import {
  type BatchRunner,
  type Executor,
  modeKey,
  type Rectangle,
  type RunnerMode,
  type RunnerModel,
  rectangleKey,
} from "./executor.ts";
import { HeadCalls } from "./head-calls.ts";

export interface LayeredOptions {
  readonly model: RunnerModel;
  /** Where the gradients lie. */
  readonly layout: ParameterLayout;
  /** Threads of every operator. */
  readonly threads: number;
  /** Flat accumulator in `layout`. */
  readonly gradients: Float32Array;
  /** Bytes of logits at a time; default 64 MiB. */
  readonly logitBytes?: number | undefined;
}

/** Compiled pieces and memory, shared by the runners of all rectangles. */
export class LayeredRunners implements Executor {
  readonly lanes = 1;
  readonly model: RunnerModel;
  readonly options: LayeredOptions;
  readonly lane: Lane;
  readonly embeddingGradient = new EmbeddingGradient();
  /** The tensors of each layer, and the first layer whose tensors have the same shapes. */
  readonly layers: readonly { readonly entries: readonly ParameterEntry[]; readonly like: number }[];
  readonly #sessions = new Map<string, Session>();
  readonly #runners = new Map<string, LayeredRunner>();
  #states = allocateFloat32(0);

  constructor(options: LayeredOptions) {
    const { model, layout, gradients } = options;
    const { config } = model;
    this.options = options;
    this.model = model;
    this.lane = tensorValues(layout, gradients);
    const shapes = new Map<string, number>();
    this.layers = Array.from({ length: config.layers }, (_, layer) => {
      const entries = layerEntries(this.model, layer);
      const key = entries.map(({ name, shape }) => `${localName(name, layer)} ${shape}`).join("\n");
      const like = shapes.get(key) ?? layer;
      shapes.set(key, like);
      return { entries, like };
    });
  }

  get(mode: RunnerMode, rectangle: Rectangle): LayeredRunner {
    const size = statesSize(this.model.config, rectangle);
    if (size > this.#states.length) {
      // All rectangles use the same memory, one after the other; runners made before point to what was too small.
      this.#states = allocateFloat32(size);
      this.#runners.clear();
    }
    const key = `${modeKey(mode)} ${rectangleKey(rectangle)}`;
    const runner = this.#runners.get(key) ?? new LayeredRunner(this, mode, rectangle, this.#states);
    this.#runners.set(key, runner);
    return runner;
  }

  calls(runners: readonly LayeredRunner[], slot: Slot, temperature: number): readonly PreparedCall[] {
    return runners.flatMap((runner) => runner.calls(slot, temperature));
  }

  /** The session called `key`, compiled now if it was not yet. */
  session(key: string, build: () => Graph): Session {
    const found = this.#sessions.get(key);
    if (found !== undefined) return found;
    const session = new Session(build().encode(), { threads: this.options.threads, optimization: "none" });
    this.#sessions.set(key, session);
    return session;
  }

  release(): void {
    for (const session of this.#sessions.values()) session.release();
    this.embeddingGradient.release();
    this.#sessions.clear();
    this.#runners.clear();
  }
}

/** A tensor's name without its layer. */
function localName(name: string, layer: number): string {
  return name.replace(`.layers.${layer}.`, ".layers.");
}

/** States at the layer boundaries, and two gradients of states. */
function statesSize({ layers, hiddenSize }: DecoderConfig, { rows, length }: Rectangle): number {
  return (layers + 3) * rows * length * hiddenSize;
}

/** One rectangle, layer by layer. */
export class LayeredRunner implements BatchRunner {
  readonly #shared: LayeredRunners;
  readonly #mode: RunnerMode;
  readonly #rectangle: Rectangle;
  readonly #memory: BatchMemory;
  /** [N, d] views: states before layer i, after the last layer; then two for gradients, used in turns. */
  readonly #states: readonly Float32Array[];
  readonly #values: readonly Value[];
  readonly #calls = new Map<Slot, readonly PreparedCall[]>();
  #scatter: PreparedCall | undefined;
  readonly load: BatchMemory["load"];
  readonly copyOutput: BatchMemory["copyOutput"];
  readonly addSums: BatchMemory["addSums"];

  constructor(shared: LayeredRunners, mode: RunnerMode, rectangle: Rectangle, states: Float32Array) {
    this.#shared = shared;
    this.#mode = mode;
    this.#rectangle = rectangle;
    const { config } = shared.model;
    const memory = new BatchMemory(config, mode, rectangle);
    this.#memory = memory;
    this.load = memory.load.bind(memory);
    this.copyOutput = memory.copyOutput.bind(memory);
    this.addSums = memory.addSums.bind(memory);
    const tokens = rectangle.rows * rectangle.length;
    const size = tokens * config.hiddenSize;
    this.#states = Array.from({ length: config.layers + 3 }, (_, i) => states.subarray(i * size, (i + 1) * size));
    this.#values = this.#states.map((view) => float32Value(view, [tokens, config.hiddenSize]));
  }

  /** The embedding, the layers, the head in chunks, and the layers backwards. */
  calls(slot: Slot, temperature: number): readonly PreparedCall[] {
    this.#memory.temperature = temperature;
    const calls = this.#calls.get(slot) ?? this.#prepare(slot);
    this.#calls.set(slot, calls);
    return calls;
  }

  scatterEmbeddedGradient(): void {
    if (!this.#mode.gradients || !trainsEmbedding(this.#shared.model.adapters)) return;
    const { lane, embeddingGradient } = this.#shared;
    this.#scatter ??= embeddingGradient.prepare(
      lane,
      this.#memory.ids,
      this.#states[this.#gradientAt(0)] as Float32Array,
    );
    this.#scatter();
  }

  /** Index of the states before layer `layer`. Without gradients two take turns. */
  #stateAt(layer: number): number {
    return this.#mode.gradients ? layer : layer % 2;
  }

  /** Index of the gradient of the states before layer `layer`. */
  #gradientAt(layer: number): number {
    return this.#shared.model.config.layers + 1 + (layer % 2);
  }

  #value(index: number): Value {
    return this.#values[index] as Value;
  }

  #prepare(slot: Slot): readonly PreparedCall[] {
    const { layers } = this.#shared.model.config;
    const weights = this.#shared.model.weights(slot);
    const order = Array.from({ length: layers }, (_, layer) => layer);
    const states = this.#states[this.#stateAt(layers)] as Float32Array;
    const gradient = this.#states[this.#gradientAt(layers)] as Float32Array;
    const head = new HeadCalls(this.#shared, this.#mode, this.#memory, { states, gradient });
    const forward = [
      this.#embed(weights),
      ...order.map((layer) => this.#layer(layer, "forward", weights)),
      ...head.prepare(weights),
    ];
    if (!this.#mode.gradients) return forward;
    return [...forward, ...order.toReversed().map((layer) => this.#layer(layer, "backward", weights))];
  }

  #embed(weights: Readonly<Record<string, Value>>): PreparedCall {
    const { model } = this.#shared;
    const { ids } = this.#memory;
    const session = this.#shared.session(`embedding ${ids.length}`, () => embeddingGraph(model, ids.length));
    const feeds = { [EMBEDDING]: weights[EMBEDDING] as Value, [IDS]: idValue(ids, [ids.length]) };
    return session.prepare(feeds, { [OUTPUT]: this.#value(this.#stateAt(0)) });
  }

  #layer(layer: number, direction: "forward" | "backward", weights: Readonly<Record<string, Value>>): PreparedCall {
    const { model, layers, lane } = this.#shared;
    const { rows, length, packed } = this.#rectangle;
    const { entries, like } = layers[layer] as LayeredRunners["layers"][number];
    const session = this.#shared.session(`${direction} ${like} ${rectangleKey(this.#rectangle)}`, () =>
      layerGraph(model, { layer: like, rows, length, packed, direction }),
    );
    const feeds: Record<string, Value> = { ...this.#memory.placement(), [HIDDEN]: this.#value(this.#stateAt(layer)) };
    const fetches: Record<string, Value> = {};
    const names = (layers[like] as LayeredRunners["layers"][number]).entries;
    for (const [i, { name }] of names.entries()) feeds[name] = weights[entries[i]?.name as string] as Value;
    if (direction === "forward") {
      fetches[OUTPUT] = this.#value(this.#stateAt(layer + 1));
      return session.prepare(feeds, fetches);
    }
    feeds[OUTPUT_GRADIENT] = this.#value(this.#gradientAt(layer + 1));
    fetches[HIDDEN_GRADIENT] = this.#value(this.#gradientAt(layer));
    const trainable = trainableLayout(model.config, { adapters: model.adapters, valueHead: false }).byName;
    for (const [i, { name }] of names.entries()) {
      if (!trainable.has(name)) continue;
      const gradient = lane[entries[i]?.name as string] as Value;
      feeds[accumulatedName(name)] = gradient;
      fetches[gradientName(name)] = gradient;
    }
    return session.prepare(feeds, fetches);
  }
}
