/** The whole decoder as one graph per rectangle, compiled when first needed; the fastest way while activations fit. */

import { AleError } from "../core/errors.ts";
import {
  accumulatedName,
  decoderGraph,
  denseGradients,
  EMBEDDED_GRADIENT,
  gradientName,
  IDS,
  trainsEmbedding,
} from "../models/decoder-graph.ts";
import { REFERENCE_TABLE, VALUE_HEAD_BIAS, VALUE_HEAD_WEIGHT } from "../models/decoder-head.ts";
import type { Slot } from "../models/parameter-store.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { type BackgroundCall, type PreparedCall, Session, type Values } from "../runtime/session.ts";
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
import type { LaneGradients } from "./lane-gradients.ts";

/** All runners of one learner. Lanes share the compiled graphs and have everything else to themselves. */
export class DecoderRunners implements Executor {
  readonly lanes: number;
  readonly #model: RunnerModel;
  readonly #gradients: LaneGradients;
  readonly #sessions = new Map<string, Session>();
  readonly #embeddingGradient = new EmbeddingGradient();
  readonly #runners = new Map<string, DecoderRunner>();

  constructor(model: RunnerModel, gradients: LaneGradients) {
    this.#model = model;
    this.#gradients = gradients;
    this.lanes = gradients.values.length;
  }

  /** The runner replaces the lane's gradients where there are none. */
  get(mode: RunnerMode, { rows, length, packed }: Rectangle, lane: number): DecoderRunner {
    const replaces = mode.gradients && this.#gradients.isStale(lane);
    if (replaces) this.#gradients.replace(lane, new Set(denseEntries(this.#model, mode).map(({ name }) => name)));
    const key = `${modeKey(mode)} ${rectangleKey({ rows, length, packed })}${replaces ? " replaces" : ""}`;
    const found = this.#runners.get(`${key} ${lane}`);
    if (found !== undefined) return found;
    const runner = new DecoderRunner({
      model: this.#model,
      lane: this.#gradients.values[lane] as Lane,
      session: this.#session(key, mode, { rows, length, packed }, replaces),
      embeddingGradient: this.#embeddingGradient,
      mode,
      replaces,
      rows,
      length,
      packed,
    });
    this.#runners.set(`${key} ${lane}`, runner);
    return runner;
  }

  /** All at once. */
  calls(runners: readonly DecoderRunner[], slot: Slot, temperature: number): readonly (() => void)[] {
    return [() => this.#run(runners, slot, temperature)];
  }

  /** The first lane in this thread, the others in threads of their own. */
  #run(runners: readonly DecoderRunner[], slot: Slot, temperature: number): void {
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

  #session(key: string, { gradients, terms }: RunnerMode, shape: Rectangle, replacesGradients: boolean): Session {
    const found = this.#sessions.get(key);
    if (found !== undefined) return found;
    const { config, adapters } = this.#model;
    const mode = gradients ? "gradients" : "logprobs";
    const model = decoderGraph(config, { profile: "cpu", mode, terms, adapters, replacesGradients, ...shape });
    // The graph is emitted in its final form: optimising it takes as long as compiling and makes no run faster.
    const session = new Session(model, { threads: this.lanes, optimization: "none" });
    this.#sessions.set(key, session);
    return session;
  }
}

interface RunnerOptions extends Rectangle {
  readonly model: RunnerModel;
  readonly lane: Lane;
  readonly session: Session;
  readonly embeddingGradient: EmbeddingGradient;
  readonly mode: RunnerMode;
  /** Whether gradients are replaced; otherwise they are added to. */
  readonly replaces: boolean;
}

/** What a run writes gradients of. */
function denseEntries({ config, adapters }: RunnerModel, { terms }: RunnerMode) {
  return denseGradients(config, { adapters, valueHead: terms.values !== undefined });
}

/** A value no log-probability and no state can have: still there after a background run, it shows that the run failed. */
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
  readonly copyOutput: BatchMemory["copyOutput"];
  readonly addSums: BatchMemory["addSums"];

  constructor(options: RunnerOptions) {
    this.#options = options;
    const { model, rows, length, packed, mode } = options;
    const { config, adapters } = model;
    const memory = new BatchMemory(config, mode, { rows, length, packed });
    this.#memory = memory;
    this.load = memory.load.bind(memory);
    this.copyOutput = memory.copyOutput.bind(memory);
    this.addSums = memory.addSums.bind(memory);
    this.#trainsEmbedding = mode.gradients && trainsEmbedding(adapters);
    this.#embeddedGradient = allocateFloat32(this.#trainsEmbedding ? rows * length * config.hiddenSize : 0);
  }

  /** Runs the graph on what was loaded. */
  run(slot: Slot, temperature: number): void {
    this.#memory.temperature = temperature;
    const call = this.#calls.get(slot) ?? this.#options.session.prepare(...this.#bindings(slot));
    this.#calls.set(slot, call);
    call();
  }

  /** As `run`, on another thread; returns what waits for the end. */
  start(slot: Slot, temperature: number): () => void {
    this.#memory.temperature = temperature;
    const call = this.#backgroundCalls.get(slot) ?? this.#options.session.prepareBackground(...this.#bindings(slot));
    this.#backgroundCalls.set(slot, call);
    this.#memory.first[0] = UNWRITTEN;
    call.start();
    return () => {
      call.wait();
      if (this.#memory.first[0] === UNWRITTEN)
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
    const { model, mode, replaces, rows, length, lane } = this.#options;
    const tokens = rows * length;
    const hasValues = mode.terms.values !== undefined;
    const { feeds: head, fetches } = this.#memory.head();
    const feeds: Record<string, Value> = {
      ...model.weights(slot),
      ...head,
      ...this.#memory.placement(),
      [IDS]: idValue(this.#memory.ids, [tokens]),
    };
    if (!hasValues) for (const name of [VALUE_HEAD_WEIGHT, VALUE_HEAD_BIAS]) delete feeds[name];
    if (mode.terms.divergence !== true) delete feeds[REFERENCE_TABLE];
    if (!mode.gradients) return [feeds, fetches];
    if (this.#trainsEmbedding) {
      fetches[EMBEDDED_GRADIENT] = float32Value(this.#embeddedGradient, [tokens, model.config.hiddenSize]);
    }
    for (const { name } of denseEntries(model, mode)) {
      const gradient = lane[name] as Value;
      if (!replaces) feeds[accumulatedName(name)] = gradient;
      fetches[gradientName(name)] = gradient;
    }
    return [feeds, fetches];
  }
}
