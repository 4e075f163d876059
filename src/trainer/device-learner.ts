/**
 * Training on a GPU: `Learner`'s work with parameters, gradients and moments that stay on the device. Only token ids and
 * per-token numbers travel, and a gradient norm per step.
 */

import type { Profile } from "../autodiff/graph.ts";
import { AleError } from "../core/errors.ts";
import type { DecoderConfig } from "../models/config.ts";
import {
  accumulatedName,
  decoderGraph,
  ENTROPY,
  ENTROPY_WEIGHTS,
  gradientName,
  IDS,
  INVERSE_TEMPERATURE,
  LABELS,
  LOGPROBS,
  WEIGHTS,
} from "../models/decoder-graph.ts";
import { type DeviceParameters, type DeviceTensors, download } from "../models/device-parameters.ts";
import type { AdaptedBase } from "../models/frozen-parameters.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import { allocateFloat32, allocateInt32 } from "../runtime/memory.ts";
import type { DeviceValue } from "../runtime/provider.ts";
import { type PreparedCall, Session } from "../runtime/session.ts";
import { type Bindable, float32Value, int32Value } from "../runtime/value.ts";
import { DeviceAdamW, DeviceGradients, DeviceNorm } from "./device-optimizer.ts";
import type { RunnerMode } from "./executor.ts";
import type { BackwardResult } from "./learner.ts";
import { type MicroBatch, planMicroBatches } from "./micro-batches.ts";
import { clipScale } from "./optimizer.ts";
import type { StepSettings } from "./store-optimizer.ts";

export interface DeviceLearnerOptions {
  /** Tokens per forward and backward pass. Default 2048. */
  readonly maxTokensPerMicroBatch?: number;
  /** Leave norm weights out of weight decay. Default false. */
  readonly exemptNorms?: boolean;
  /** The frozen model whose adapters the store holds; without it the store holds all parameters. */
  readonly base?: AdaptedBase | undefined;
}

export class DeviceLearner {
  readonly #config: DecoderConfig;
  readonly #store: ParameterStore;
  readonly #parameters: DeviceParameters;
  readonly #base: AdaptedBase | undefined;
  readonly #maxTokens: number;
  readonly #gradients: DeviceGradients;
  readonly #adamW: DeviceAdamW;
  readonly #norm: DeviceNorm;
  readonly #runners = new Map<string, DeviceRunner>();

  /** @param parameters the store's slots on the device; they decide which device it is. */
  constructor(
    config: DecoderConfig,
    store: ParameterStore,
    parameters: DeviceParameters,
    options: DeviceLearnerOptions = {},
  ) {
    const { provider, layout } = parameters;
    const { exemptNorms = false } = options;
    this.#config = config;
    this.#store = store;
    this.#parameters = parameters;
    this.#base = options.base;
    this.#maxTokens = options.maxTokensPerMicroBatch ?? 2048;
    this.#gradients = new DeviceGradients(provider, layout);
    this.#adamW = new DeviceAdamW(parameters, this.#gradients, ({ kind }) => !(exemptNorms && kind === "norm"));
    this.#norm = new DeviceNorm(provider, this.#gradients);
  }

  /** A copy of the gradients accumulated so far, flat in the store's layout. */
  get gradients(): Float32Array {
    const flat = allocateFloat32(this.#parameters.layout.length);
    download(this.#parameters.layout, this.#gradients.sum, flat);
    return flat;
  }

  /** As `Learner.logprobs`. */
  logprobs(sequences: readonly Int32Array[], slot: Slot, temperature = 1): Float32Array[] {
    const results = sequences.map((sequence) => new Float32Array(sequence.length));
    for (const batch of this.#plan(sequences)) {
      const runner = this.#runner("logprobs", batch);
      runner.load(pick(batch, sequences));
      runner.run(slot, temperature);
      copyLogprobs(runner, batch, results);
    }
    return results;
  }

  /** As `Learner.backward`. */
  backward(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: Slot,
    temperature = 1,
    entropyWeights?: readonly Float32Array[],
  ): BackwardResult {
    const logprobs = sequences.map((sequence) => new Float32Array(sequence.length));
    const sums = { loss: 0, entropy: 0, tokens: 0 };
    const mode = entropyWeights === undefined ? "gradients" : "entropy-gradients";
    for (const batch of this.#plan(sequences)) {
      const runner = this.#runner(mode, batch);
      runner.load(pick(batch, sequences), pick(batch, weights), entropyWeights && pick(batch, entropyWeights));
      runner.run(slot, temperature);
      this.#gradients.swap();
      copyLogprobs(runner, batch, logprobs);
      runner.addSums(sums);
    }
    const { loss, entropy, tokens } = sums;
    return { loss, logprobs, entropy: tokens === 0 ? 0 : entropy / tokens, tokens };
  }

  /** As `Learner.step`; the store's copy of `to` is out of date until `DeviceParameters.toStore`. */
  step(settings: StepSettings, from: Slot, to: Slot): { readonly gradNorm: number } {
    this.#store.assertWritable(to);
    const gradNorm = this.#norm.compute();
    if (Number.isFinite(gradNorm)) {
      const step = this.#store.step(from) + 1;
      this.#adamW.update(from, to, settings, step, clipScale(gradNorm, settings.clip));
      this.#store.setStep(to, step);
    }
    this.clearGradients();
    return { gradNorm };
  }

  /** Forgets accumulated gradients. */
  clearGradients(): void {
    this.#gradients.clear();
  }

  /** Frees graphs and gradients, not the parameters. */
  release(): void {
    for (const runner of this.#runners.values()) runner.release();
    this.#runners.clear();
    this.#adamW.release();
    this.#norm.release();
    this.#gradients.release();
  }

  #runner(mode: RunnerMode, { rows, length }: MicroBatch): DeviceRunner {
    const key = `${mode} ${rows}x${length}`;
    const found = this.#runners.get(key);
    if (found !== undefined) return found;
    const runner = new DeviceRunner({
      config: this.#config,
      parameters: this.#parameters,
      gradients: this.#gradients,
      base: this.#base,
      mode,
      rows,
      length,
    });
    this.#runners.set(key, runner);
    return runner;
  }

  #plan(sequences: readonly Int32Array[]): MicroBatch[] {
    const { contextLength } = this.#config;
    for (const { length } of sequences) {
      if (length - 1 > contextLength) {
        throw new AleError("engine", `a sequence of ${length} tokens does not fit the context of ${contextLength}`);
      }
    }
    const lengths = sequences.map((sequence) => sequence.length - 1);
    return planMicroBatches(lengths, { tokens: this.#maxTokens, contextLength });
  }
}

function pick<T>(batch: MicroBatch, items: readonly T[]): T[] {
  return batch.members.map((index) => items[index] as T);
}

function copyLogprobs(runner: DeviceRunner, batch: MicroBatch, results: readonly Float32Array[]): void {
  for (const [row, index] of batch.members.entries()) runner.copyLogprobs(row, results[index] as Float32Array);
}

interface DeviceRunnerOptions {
  readonly config: DecoderConfig;
  readonly parameters: DeviceParameters;
  readonly gradients: DeviceGradients;
  readonly base: AdaptedBase | undefined;
  readonly mode: RunnerMode;
  readonly rows: number;
  readonly length: number;
}

/** One rectangle of tokens. Row r, position t predicts token t + 1 of the sequence in that row. */
class DeviceRunner {
  readonly #options: DeviceRunnerOptions;
  readonly #session: Session;
  readonly #ids: Int32Array;
  readonly #labels: Int32Array;
  readonly #weights: Float32Array;
  readonly #entropyWeights: Float32Array;
  readonly #inverseTemperature = allocateFloat32(1);
  readonly #logprobs: Float32Array;
  readonly #entropy: Float32Array;
  readonly #calls = new Map<string, PreparedCall>();
  #lengths: readonly number[] = [];

  constructor(options: DeviceRunnerOptions) {
    const { config, parameters, base, mode, rows, length } = options;
    const { provider } = parameters;
    this.#options = options;
    const profile: Profile = provider.device.kind;
    const model = decoderGraph(config, { profile, adapters: base?.adapters, mode, rows, length });
    this.#session = new Session(model, { threads: 1, provider });
    const tokens = rows * length;
    this.#ids = allocateInt32(tokens);
    this.#labels = allocateInt32(tokens);
    this.#weights = allocateFloat32(tokens);
    this.#entropyWeights = allocateFloat32(tokens);
    this.#logprobs = allocateFloat32(tokens);
    this.#entropy = allocateFloat32(tokens);
  }

  /** Lays out sequences, one per row, with the weights of their tokens; everything else becomes padding. */
  load(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[] = [],
    entropyWeights: readonly Float32Array[] = [],
  ): void {
    const { length } = this.#options;
    for (const array of [this.#ids, this.#labels, this.#weights, this.#entropyWeights]) array.fill(0);
    this.#lengths = sequences.map((sequence) => sequence.length - 1);
    for (const [row, sequence] of sequences.entries()) {
      for (const id of sequence) this.#checkId(id);
      this.#ids.set(sequence.subarray(0, -1), row * length);
      this.#labels.set(sequence.subarray(1), row * length);
    }
    for (const [row, values] of weights.entries()) this.#weights.set(values.subarray(1), row * length);
    for (const [row, values] of entropyWeights.entries()) this.#entropyWeights.set(values.subarray(1), row * length);
  }

  /** Runs the graph and waits for it: log-probabilities come back to the host. */
  run(slot: Slot, temperature: number): void {
    const { parameters, gradients } = this.#options;
    this.#inverseTemperature[0] = 1 / temperature;
    // Also brings the slot up to date on the device.
    const weights = parameters.values(slot);
    const key = `${slot} ${gradients.turn}`;
    const call = this.#calls.get(key) ?? this.#prepare(weights);
    this.#calls.set(key, call);
    call();
  }

  /** Writes log p of the sequence in `row` to `target`, from element 1 on. */
  copyLogprobs(row: number, target: Float32Array): void {
    const start = row * this.#options.length;
    target.set(this.#logprobs.subarray(start, start + target.length - 1), 1);
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

  release(): void {
    this.#session.release();
  }

  #checkId(id: number): void {
    const { vocabularySize } = this.#options.config;
    if (id < 0 || id >= vocabularySize) {
      throw new AleError("engine", `token ${id} is outside the vocabulary of ${vocabularySize}`, {
        hint: "the tokenizer and the model must belong together",
      });
    }
  }

  #prepare(parameters: DeviceTensors): PreparedCall {
    const { gradients, mode, rows, length } = this.#options;
    const tokens = rows * length;
    const column = (data: Float32Array) => float32Value(data, [tokens, 1]);
    const feeds: Record<string, Bindable> = {
      ...parameters,
      [IDS]: int32Value(this.#ids, [tokens]),
      [LABELS]: int32Value(this.#labels, [tokens]),
      [INVERSE_TEMPERATURE]: float32Value(this.#inverseTemperature, []),
    };
    const fetches: Record<string, Bindable> = { [LOGPROBS]: column(this.#logprobs) };
    if (mode !== "logprobs") {
      feeds[WEIGHTS] = column(this.#weights);
      if (mode === "entropy-gradients") feeds[ENTROPY_WEIGHTS] = column(this.#entropyWeights);
      fetches[ENTROPY] = column(this.#entropy);
      for (const { name } of gradients.layout.entries) {
        feeds[accumulatedName(name)] = gradients.sum[name] as DeviceValue;
        fetches[gradientName(name)] = gradients.next[name] as DeviceValue;
      }
    }
    return this.#session.prepare(feeds, fetches);
  }
}
