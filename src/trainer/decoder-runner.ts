/** Decoder graphs of fixed rectangles with the memory they read and write, compiled when first needed. */

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
import { OnnxBuilder } from "../onnx/builder.ts";
import { allocateFloat32, allocateInt64 } from "../runtime/memory.ts";
import { type BackgroundCall, type PreparedCall, Session, type Values } from "../runtime/session.ts";
import { float32Value, int64Value, type Value } from "../runtime/value.ts";

export type RunnerMode = "logprobs" | "gradients" | "entropy-gradients";

interface Rectangle {
  readonly rows: number;
  readonly length: number;
}

/** Gradient accumulators of one lane, a thread with micro-batches of its own, by parameter name. */
type Lane = Readonly<Record<string, Value>>;

/** All runners of one learner. Lanes share the compiled graphs and have everything else to themselves. */
export class DecoderRunners {
  readonly #config: DecoderConfig;
  readonly #store: ParameterStore;
  readonly #base: AdaptedBase | undefined;
  readonly #lanes: readonly Lane[];
  readonly #sessions = new Map<string, Session>();
  readonly #scatter = new Session(scatterGraph(), { threads: 1 });
  readonly #runners = new Map<string, DecoderRunner>();

  /** @param gradients flat accumulators, one per lane. @param base what the store's adapters belong to, if it holds any. */
  constructor(config: DecoderConfig, store: ParameterStore, gradients: readonly Float32Array[], base?: AdaptedBase) {
    this.#config = config;
    this.#store = store;
    this.#base = base;
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
      scatter: this.#scatter,
      mode,
      rows,
      length,
    });
    this.#runners.set(`${key} ${lane}`, runner);
    return runner;
  }

  release(): void {
    for (const session of this.#sessions.values()) session.release();
    this.#scatter.release();
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

/**
 * table[ids[i]] += rows[i], in place. To be run on one thread: with more, ONNX Runtime's CPU provider loses updates where ids
 * repeat (https://github.com/microsoft/onnxruntime/issues/18048).
 */
function scatterGraph(): Uint8Array {
  const graph = new OnnxBuilder("scatter");
  const table = graph.input("table", "float32", ["v", "d"]);
  const inputs = [table, graph.input("ids", "int64", ["n", 1]), graph.input("rows", "float32", ["n", "d"])];
  graph.node("ScatterND", inputs, { outputs: ["sum"], attributes: { reduction: { string: "add" } } });
  graph.output("sum", "float32", ["v", "d"]);
  return graph.encode();
}

interface RunnerOptions extends Rectangle {
  readonly config: DecoderConfig;
  readonly store: ParameterStore;
  readonly base: AdaptedBase | undefined;
  readonly lane: Lane;
  readonly session: Session;
  readonly scatter: Session;
  readonly mode: RunnerMode;
}

/** A value no log-probability can have: still there after a background run, it shows that the run failed. */
const UNWRITTEN = Number.POSITIVE_INFINITY;

/** One rectangle in one lane. Row r, position t predicts token t + 1 of the sequence in that row. */
export class DecoderRunner {
  readonly #options: RunnerOptions;
  readonly #ids: BigInt64Array;
  readonly #labels: BigInt64Array;
  readonly #weights: Float32Array;
  readonly #entropyWeights: Float32Array;
  readonly #inverseTemperature = allocateFloat32(1);
  readonly #logprobs: Float32Array;
  readonly #entropy: Float32Array;
  readonly #trainsEmbedding: boolean;
  readonly #embeddedGradient: Float32Array;
  readonly #calls = new Map<Slot, PreparedCall>();
  #scatter: PreparedCall | undefined;
  readonly #backgroundCalls = new Map<Slot, BackgroundCall>();
  #lengths: readonly number[] = [];

  constructor(options: RunnerOptions) {
    this.#options = options;
    const { config, rows, length, mode, base } = options;
    const tokens = rows * length;
    this.#ids = allocateInt64(tokens);
    this.#labels = allocateInt64(tokens);
    this.#weights = allocateFloat32(tokens);
    this.#entropyWeights = allocateFloat32(tokens);
    this.#logprobs = allocateFloat32(tokens);
    this.#entropy = allocateFloat32(tokens);
    this.#trainsEmbedding = mode !== "logprobs" && trainsEmbedding(base?.adapters);
    this.#embeddedGradient = allocateFloat32(this.#trainsEmbedding ? tokens * config.hiddenSize : 0);
  }

  /** Lays out sequences, one per row, with the weights of their tokens; everything else becomes padding. */
  load(
    sequences: readonly Int32Array[],
    weights?: readonly Float32Array[],
    entropyWeights?: readonly Float32Array[],
  ): void {
    const { length } = this.#options;
    this.#ids.fill(0n);
    this.#labels.fill(0n);
    this.#lengths = sequences.map((sequence) => sequence.length - 1);
    for (const [row, sequence] of sequences.entries()) {
      const start = row * length;
      for (let t = 1; t < sequence.length; t++) {
        this.#ids[start + t - 1] = this.#checkedId(sequence[t - 1] as number);
        this.#labels[start + t - 1] = this.#checkedId(sequence[t] as number);
      }
    }
    if (weights !== undefined) this.#layWeights(this.#weights, weights);
    if (entropyWeights !== undefined) this.#layWeights(this.#entropyWeights, entropyWeights);
  }

  /** Runs the graph on what was loaded. */
  run(slot: Slot, temperature: number): void {
    this.#inverseTemperature[0] = 1 / temperature;
    const call = this.#calls.get(slot) ?? this.#options.session.prepare(...this.#bindings(slot));
    this.#calls.set(slot, call);
    call();
  }

  /** As `run`, on another thread; returns what waits for the end. */
  start(slot: Slot, temperature: number): () => void {
    this.#inverseTemperature[0] = 1 / temperature;
    const call = this.#backgroundCalls.get(slot) ?? this.#options.session.prepareBackground(...this.#bindings(slot));
    this.#backgroundCalls.set(slot, call);
    this.#logprobs[0] = UNWRITTEN;
    call.start();
    return () => {
      call.wait();
      if (this.#logprobs[0] === UNWRITTEN)
        throw new AleError("engine", "a graph failed while it ran in the background");
    };
  }

  /** Writes log p of the sequence in `row` to `target`, from element 1 on. */
  copyLogprobs(row: number, target: Float32Array): void {
    const start = row * this.#options.length;
    target.set(this.#logprobs.subarray(start, start + target.length - 1), 1);
  }

  /** Adds the gradients of the embedded tokens, if it is trained, to the rows of the embedding's gradient, in order of position. */
  scatterEmbeddedGradient(): void {
    if (!this.#trainsEmbedding) return;
    this.#scatter ??= this.#prepareScatter();
    this.#scatter();
  }

  /** Adds this run's loss, and entropy and number of the tokens with a weight, to `sums`. */
  addSums(sums: { loss: number; entropy: number; tokens: number }): void {
    const { length, mode } = this.#options;
    for (const [row, count] of this.#lengths.entries()) {
      for (let token = row * length; token < row * length + count; token++) {
        const weight = this.#weights[token] as number;
        const entropy = this.#entropy[token] as number;
        if (mode === "entropy-gradients") sums.loss -= (this.#entropyWeights[token] as number) * entropy;
        if (weight === 0) continue;
        sums.loss -= weight * (this.#logprobs[token] as number);
        sums.entropy += entropy;
        sums.tokens++;
      }
    }
  }

  #checkedId(id: number): bigint {
    const { vocabularySize } = this.#options.config;
    if (id < 0 || id >= vocabularySize) {
      throw new AleError("engine", `token ${id} is outside the vocabulary of ${vocabularySize}`, {
        hint: "the tokenizer and the model must belong together",
      });
    }
    return BigInt(id);
  }

  #layWeights(target: Float32Array, weights: readonly Float32Array[]): void {
    target.fill(0);
    for (const [row, values] of weights.entries()) target.set(values.subarray(1), row * this.#options.length);
  }

  /** Padding takes part with gradients that are exactly 0. */
  #prepareScatter(): PreparedCall {
    const { scatter, lane, rows, length, config } = this.#options;
    const tokens = rows * length;
    const table = lane[EMBEDDING] as Value;
    return scatter.prepare(
      {
        table,
        ids: int64Value(this.#ids, [tokens, 1]),
        rows: float32Value(this.#embeddedGradient, [tokens, config.hiddenSize]),
      },
      { sum: table },
    );
  }

  #bindings(slot: Slot): [feeds: Values, fetches: Values] {
    const { store, base, mode, rows, length, config, lane } = this.#options;
    const tokens = rows * length;
    const feeds: Record<string, Value> = {
      ...base?.parameters.values,
      ...parameterValues(store, slot),
      [IDS]: int64Value(this.#ids, [tokens]),
      [LABELS]: int64Value(this.#labels, [tokens]),
      [INVERSE_TEMPERATURE]: float32Value(this.#inverseTemperature, []),
    };
    const fetches: Record<string, Value> = { [LOGPROBS]: float32Value(this.#logprobs, [tokens, 1]) };
    if (mode !== "logprobs") {
      feeds[WEIGHTS] = float32Value(this.#weights, [tokens, 1]);
      if (mode === "entropy-gradients") feeds[ENTROPY_WEIGHTS] = float32Value(this.#entropyWeights, [tokens, 1]);
      fetches[ENTROPY] = float32Value(this.#entropy, [tokens, 1]);
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
