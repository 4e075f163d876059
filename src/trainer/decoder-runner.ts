/** The whole decoder as one graph per rectangle, compiled when first needed; the fastest way while activations fit. */

import { AleError } from "../core/errors.ts";
import type { DecoderConfig } from "../models/config.ts";
import {
  accumulatedName,
  decoderGraph,
  EMBEDDED_GRADIENT,
  ENTROPY,
  ENTROPY_WEIGHTS,
  gradientName,
  IDS,
  INVERSE_TEMPERATURE,
  LABELS,
  LOGPROBS,
  trainsEmbedding,
  WEIGHTS,
} from "../models/decoder-graph.ts";
import type { AdaptedBase } from "../models/frozen-parameters.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import { parameterValues, tensorValues } from "../models/parameter-values.ts";
import { EMBEDDING } from "../models/parameters.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { type BackgroundCall, type PreparedCall, Session, type Values } from "../runtime/session.ts";
import { float32Value, int64Value, type Value } from "../runtime/value.ts";
import { BatchMemory } from "./batch-memory.ts";
import { EmbeddingGradient, type Lane } from "./embedding-gradient.ts";
import type { BatchRunner, Executor, Rectangle, RunnerMode } from "./executor.ts";

/** All runners of one learner. Lanes share the compiled graphs and have everything else to themselves. */
export class DecoderRunners implements Executor {
  readonly lanes: number;
  readonly #config: DecoderConfig;
  readonly #store: ParameterStore;
  readonly #base: AdaptedBase | undefined;
  readonly #lanes: readonly Lane[];
  readonly #sessions = new Map<string, Session>();
  readonly #embeddingGradient = new EmbeddingGradient();
  readonly #runners = new Map<string, DecoderRunner>();

  /** @param gradients flat accumulators, one per lane. @param base what the store's adapters belong to, if it holds any. */
  constructor(config: DecoderConfig, store: ParameterStore, gradients: readonly Float32Array[], base?: AdaptedBase) {
    this.#config = config;
    this.#store = store;
    this.#base = base;
    this.lanes = gradients.length;
    this.#lanes = gradients.map((flat) => tensorValues(store.layout, flat));
  }

  get(mode: RunnerMode, { rows, length }: Rectangle, lane: number): DecoderRunner {
    const key = `${mode} ${rows}x${length}`;
    const found = this.#runners.get(`${key} ${lane}`);
    if (found !== undefined) return found;
    const runner = new DecoderRunner({
      config: this.#config,
      store: this.#store,
      base: this.#base,
      lane: this.#lanes[lane] as Lane,
      session: this.#session(key, { mode, rows, length }),
      embeddingGradient: this.#embeddingGradient,
      mode,
      rows,
      length,
    });
    this.#runners.set(`${key} ${lane}`, runner);
    return runner;
  }

  /** The first lane in this thread, the others in threads of their own. */
  run(runners: readonly DecoderRunner[], slot: Slot, temperature: number): void {
    const waits = runners.slice(1).map((runner) => runner.start(slot, temperature));
    try {
      runners[0]?.run(slot, temperature);
    } finally {
      for (const wait of waits) wait();
    }
  }

  release(): void {
    for (const session of this.#sessions.values()) session.release();
    this.#embeddingGradient.release();
    this.#sessions.clear();
    this.#runners.clear();
  }

  #session(key: string, shape: Rectangle & { readonly mode: RunnerMode }): Session {
    const found = this.#sessions.get(key);
    if (found !== undefined) return found;
    // The graph is emitted in its final form: optimising it takes as long as compiling and makes no run faster.
    const session = new Session(
      decoderGraph(this.#config, { profile: "cpu", adapters: this.#base?.adapters, ...shape }),
      {
        threads: this.#lanes.length,
        optimization: "none",
      },
    );
    this.#sessions.set(key, session);
    return session;
  }
}

interface RunnerOptions extends Rectangle {
  readonly config: DecoderConfig;
  readonly store: ParameterStore;
  readonly base: AdaptedBase | undefined;
  readonly lane: Lane;
  readonly session: Session;
  readonly embeddingGradient: EmbeddingGradient;
  readonly mode: RunnerMode;
}

/** A value no log-probability can have: still there after a background run, it shows that the run failed. */
const UNWRITTEN = Number.POSITIVE_INFINITY;

/** One rectangle in one lane. */
export class DecoderRunner implements BatchRunner {
  readonly #options: RunnerOptions;
  readonly #memory: BatchMemory;
  readonly #trainsEmbedding: boolean;
  readonly #embeddedGradient: Float32Array;
  readonly #calls = new Map<Slot, PreparedCall>();
  #scatter: PreparedCall | undefined;
  readonly #backgroundCalls = new Map<Slot, BackgroundCall>();
  readonly load: BatchMemory["load"];
  readonly copyLogprobs: BatchMemory["copyLogprobs"];
  readonly addSums: BatchMemory["addSums"];

  constructor(options: RunnerOptions) {
    this.#options = options;
    const { config, rows, length, mode, base } = options;
    const memory = new BatchMemory(config, mode, { rows, length });
    this.#memory = memory;
    this.load = memory.load.bind(memory);
    this.copyLogprobs = memory.copyLogprobs.bind(memory);
    this.addSums = memory.addSums.bind(memory);
    this.#trainsEmbedding = mode !== "logprobs" && trainsEmbedding(base?.adapters);
    this.#embeddedGradient = allocateFloat32(this.#trainsEmbedding ? rows * length * config.hiddenSize : 0);
  }

  /** Runs the graph on what was loaded. */
  run(slot: Slot, temperature: number): void {
    this.#memory.inverseTemperature[0] = 1 / temperature;
    const call = this.#calls.get(slot) ?? this.#options.session.prepare(...this.#bindings(slot));
    this.#calls.set(slot, call);
    call();
  }

  /** As `run`, on another thread; returns what waits for the end. */
  start(slot: Slot, temperature: number): () => void {
    this.#memory.inverseTemperature[0] = 1 / temperature;
    const call = this.#backgroundCalls.get(slot) ?? this.#options.session.prepareBackground(...this.#bindings(slot));
    this.#backgroundCalls.set(slot, call);
    this.#memory.logprobs[0] = UNWRITTEN;
    call.start();
    return () => {
      call.wait();
      if (this.#memory.logprobs[0] === UNWRITTEN)
        throw new AleError("engine", "a graph failed while it ran in the background");
    };
  }

  scatterEmbeddedGradient(): void {
    if (!this.#trainsEmbedding) return;
    const { embeddingGradient, lane } = this.#options;
    this.#scatter ??= embeddingGradient.prepare(lane, this.#memory.ids, this.#embeddedGradient);
    this.#scatter();
  }

  #bindings(slot: Slot): [feeds: Values, fetches: Values] {
    const { store, base, mode, rows, length, config, lane } = this.#options;
    const tokens = rows * length;
    const memory = this.#memory;
    const feeds: Record<string, Value> = {
      ...base?.parameters.values,
      ...parameterValues(store, slot),
      [IDS]: int64Value(memory.ids, [tokens]),
      [LABELS]: int64Value(memory.labels, [tokens]),
      [INVERSE_TEMPERATURE]: float32Value(memory.inverseTemperature, []),
    };
    const fetches: Record<string, Value> = { [LOGPROBS]: float32Value(memory.logprobs, [tokens, 1]) };
    if (mode !== "logprobs") {
      feeds[WEIGHTS] = float32Value(memory.weights, [tokens, 1]);
      if (mode === "entropy-gradients") feeds[ENTROPY_WEIGHTS] = float32Value(memory.entropyWeights, [tokens, 1]);
      fetches[ENTROPY] = float32Value(memory.entropy, [tokens, 1]);
      if (this.#trainsEmbedding)
        fetches[EMBEDDED_GRADIENT] = float32Value(this.#embeddedGradient, [tokens, config.hiddenSize]);
      for (const [name, value] of Object.entries(lane)) {
        if (name === EMBEDDING && !config.tiedEmbeddings) continue;
        feeds[accumulatedName(name)] = value;
        fetches[gradientName(name)] = value;
      }
    }
    return [feeds, fetches];
  }
}
