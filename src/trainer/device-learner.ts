/**
 * Training on a GPU: `Learner`'s work with parameters, gradients and moments that stay on the device. Only token ids and
 * per-token numbers travel, and a gradient norm per step.
 */

import type { Profile } from "../autodiff/graph.ts";
import { AleError } from "../core/errors.ts";
import type { RecordSpan } from "../core/timeline.ts";
import type { DecoderConfig } from "../models/config.ts";
import { accumulatedName, decoderGraph, gradientName, IDS, trainableLayout } from "../models/decoder-graph.ts";
import { LOGPROBS, REFERENCE_STATES, REFERENCE_TABLE, STATES, VALUE_HEAD_WEIGHT } from "../models/decoder-head.ts";
import { type DeviceParameters, type DeviceTensors, download } from "../models/device-parameters.ts";
import type { AdaptedBase, FrozenParameters } from "../models/frozen-parameters.ts";
import type { Adapters } from "../models/lora.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import { headName, parameterLayout } from "../models/parameters.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import type { DeviceValue } from "../runtime/provider.ts";
import { type PreparedCall, Session } from "../runtime/session.ts";
import type { Bindable } from "../runtime/value.ts";
import { BatchMemory, idValue } from "./batch-memory.ts";
import { DeviceAdamW, DeviceGradients, DeviceNorm } from "./device-optimizer.ts";
import { type LaidOut, modeKey, type RunnerMode, type WeightColumns } from "./executor.ts";
import { noReference } from "./learner.ts";
import {
  type BackwardResult,
  type BackwardTerms,
  type ForwardResult,
  type ForwardTerms,
  forwardOutputs,
  forwardResult,
  forwardTerms,
  lossTerms,
  weightColumns,
} from "./loss-terms.ts";
import { countTokens, type MicroBatch, planMicroBatches } from "./micro-batches.ts";
import { finish, type MicroOperations } from "./micro-operations.ts";
import { clipScale, type NoDecay, optimizerGroup } from "./optimizer.ts";
import type { StepResult, StepSettings } from "./store-optimizer.ts";

export interface DeviceLearnerOptions {
  /** Tokens per forward and backward pass. Default 2048. */
  readonly maxTokensPerMicroBatch?: number;
  /** What weight decay leaves alone besides the value head. Default nothing. */
  readonly noDecay?: readonly NoDecay[] | undefined;
  /** The frozen model whose adapters the store holds; without it the store holds all parameters. */
  readonly base?: AdaptedBase | undefined;
  /** The model that `referenceLogprobs` asks; default the base of the adapters. */
  readonly reference?: FrozenParameters | undefined;
  /** On the host: where `backward` adds its gradients, in the store's layout, so that others see them. They stay on the device when omitted. */
  readonly gradients?: Float32Array | undefined;
  /** Told of each micro-batch and of each optimizer step. */
  readonly record?: RecordSpan | undefined;
}

export class DeviceLearner {
  readonly #config: DecoderConfig;
  readonly #store: ParameterStore;
  readonly #parameters: DeviceParameters;
  readonly #base: AdaptedBase | undefined;
  readonly #reference: DeviceTensors | undefined;
  readonly #maxTokens: number;
  readonly #record: RecordSpan | undefined;
  readonly #gradients: DeviceGradients;
  readonly #adamW: DeviceAdamW;
  readonly #norm: DeviceNorm;
  readonly #runners = new Map<string, DeviceRunner>();
  readonly #hostGradients: Float32Array | undefined;

  /** @param parameters the store's slots on the device; they decide which device it is. */
  constructor(
    config: DecoderConfig,
    store: ParameterStore,
    parameters: DeviceParameters,
    options: DeviceLearnerOptions = {},
  ) {
    const { provider, layout } = parameters;
    const { noDecay = [] } = options;
    this.#config = config;
    this.#store = store;
    this.#parameters = parameters;
    this.#base = options.base;
    this.#reference = options.reference && parameters.copyFrozen(options.reference);
    this.#hostGradients = options.gradients;
    this.#maxTokens = options.maxTokensPerMicroBatch ?? 2048;
    this.#record = options.record;
    this.#gradients = new DeviceGradients(provider, layout);
    this.#adamW = new DeviceAdamW(parameters, this.#gradients, ({ kind }) => optimizerGroup(kind, noDecay));
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
    return this.forward(sequences, slot, temperature).logprobs;
  }

  /** As `Learner.forward`. */
  forward(sequences: readonly Int32Array[], slot: Slot, temperature = 1, asked: ForwardTerms = {}): ForwardResult {
    return finish(this.forwarding(sequences, slot, temperature, asked));
  }

  /** As `Learner.forwarding`. */
  forwarding(
    sequences: readonly Int32Array[],
    slot: Slot,
    temperature: number,
    asked: ForwardTerms = {},
  ): MicroOperations<ForwardResult> {
    return this.#forwarding("policy", sequences, slot, temperature, asked);
  }

  /** As `Learner.referenceForwarding`. */
  referenceForwarding(sequences: readonly Int32Array[], temperature: number): MicroOperations<ForwardResult> {
    if (this.#base === undefined && this.#reference === undefined) throw noReference();
    return this.#forwarding("reference", sequences, 0, temperature, {});
  }

  *#forwarding(
    model: DeviceModel,
    sequences: readonly Int32Array[],
    slot: Slot,
    temperature: number,
    asked: ForwardTerms,
  ): MicroOperations<ForwardResult> {
    const outputs = forwardOutputs(asked, sequences);
    const mode = { gradients: false, terms: forwardTerms(asked) };
    for (const batch of this.#plan(sequences)) {
      const began = performance.now();
      const runner = this.#runner(mode, batch, model);
      const fixed = this.#referenceStates(mode, batch, sequences);
      runner.load(laidOut(batch, sequences), fixed, asked.candidates && pick(batch, asked.candidates.ids));
      runner.run(slot, temperature);
      for (const [name, rows] of Object.entries(outputs)) copyOutputs(runner, batch, name, rows);
      this.#record?.("forward", began, countTokens([batch], sequences));
      yield;
    }
    return forwardResult(outputs);
  }

  /** As `Learner.backward`. */
  backward(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: Slot,
    temperature = 1,
    terms: BackwardTerms = {},
  ): BackwardResult {
    return finish(this.backwarding(sequences, weights, slot, temperature, terms));
  }

  /** As `Learner.backwarding`. */
  *backwarding(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: Slot,
    temperature: number,
    terms: BackwardTerms = {},
  ): MicroOperations<BackwardResult> {
    const logprobs = sequences.map((sequence) => new Float32Array(sequence.length));
    const sums = { loss: 0, entropy: 0, tokens: 0, divergence: 0 };
    if (terms.values === undefined && this.#parameters.layout.byName.has(VALUE_HEAD_WEIGHT)) {
      throw new AleError("internal", "a store with a value head is trained with values");
    }
    const columns = Object.entries(weightColumns(weights, terms));
    const mode = { gradients: true, terms: lossTerms(terms) };
    for (const batch of this.#plan(sequences)) {
      const began = performance.now();
      const runner = this.#runner(mode, batch, "policy");
      const picked = {
        ...Object.fromEntries(columns.map(([name, rows]) => [name, pick(batch, rows)])),
        ...this.#referenceStates(mode, batch, sequences),
      };
      runner.load(laidOut(batch, sequences), picked, terms.candidates && pick(batch, terms.candidates.ids));
      runner.run(slot, temperature);
      this.#gradients.swap();
      copyOutputs(runner, batch, LOGPROBS, logprobs);
      runner.addSums(sums);
      this.#record?.("backward", began, countTokens([batch], sequences));
      yield;
    }
    this.#share();
    const { loss, entropy, tokens, divergence } = sums;
    return { loss, logprobs, entropy: tokens === 0 ? 0 : entropy / tokens, tokens, divergence };
  }

  /** What a divergence is measured from: the states of the micro-batch under the reference. */
  #referenceStates(mode: RunnerMode, batch: MicroBatch, sequences: readonly Int32Array[]): WeightColumns {
    if (mode.terms.divergence !== true) return {};
    if (this.#base === undefined && this.#reference === undefined) throw noReference();
    const runner = this.#runner({ gradients: false, terms: { states: true } }, batch, "reference");
    runner.load(laidOut(batch, sequences));
    runner.run(0, 1);
    const states = pick(batch, sequences).map(({ length }) => new Float32Array(length * this.#config.hiddenSize));
    for (const [i, rows] of states.entries()) runner.copyOutput(STATES, i, rows);
    return { [REFERENCE_STATES]: states };
  }

  /** Moves the gradients to the host, if others are to see them there. */
  #share(): void {
    const host = this.#hostGradients;
    if (host === undefined) return;
    const own = this.gradients;
    for (let i = 0; i < host.length; i++) host[i] = (host[i] as number) + (own[i] as number);
    this.#gradients.clear();
  }

  /** As `Learner.step`; the store's copy of `to` is out of date until `DeviceParameters.toStore`. */
  step(settings: StepSettings, from: Slot, to: Slot): StepResult {
    return finish(this.stepping(settings, from, to));
  }

  /** As `Learner.stepping`. */
  *stepping(settings: StepSettings, from: Slot, to: Slot): MicroOperations<StepResult> {
    this.#store.assertWritable(to);
    const started = performance.now();
    const gradNorm = this.#norm.compute();
    this.#record?.("optimizer", started);
    yield;
    const began = performance.now();
    if (Number.isFinite(gradNorm)) {
      const step = this.#store.step(from) + 1;
      this.#adamW.update(from, to, settings, step, clipScale(gradNorm, settings.clip));
      this.#store.setStep(to, step);
    }
    this.clearGradients();
    this.#record?.("optimizer", began);
    return { gradNorm };
  }

  /** Forgets accumulated gradients. */
  clearGradients(): void {
    this.#hostGradients?.fill(0);
    this.#gradients.clear();
  }

  /** Frees graphs and gradients, not the parameters. */
  release(): void {
    for (const runner of this.#runners.values()) runner.release();
    this.#runners.clear();
    this.#adamW.release();
    this.#norm.release();
    this.#gradients.release();
    for (const value of Object.values(this.#reference ?? {})) value.release();
  }

  #runner(mode: RunnerMode, { rows, length }: MicroBatch, model: DeviceModel): DeviceRunner {
    const key = `${model} ${modeKey(mode)} ${rows}x${length}`;
    const found = this.#runners.get(key);
    if (found !== undefined) return found;
    const runner = new DeviceRunner({
      config: this.#config,
      parameters: this.#parameters,
      gradients: this.#gradients,
      adapters: model === "policy" ? this.#base?.adapters : undefined,
      fixed: model === "reference" ? this.#reference : undefined,
      referenceTable: model === "policy" ? this.#reference?.[headName(this.#config)] : undefined,
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

function laidOut(batch: MicroBatch, sequences: readonly Int32Array[]): LaidOut {
  return { sequences: pick(batch, sequences), starts: batch.starts };
}

function copyOutputs(runner: DeviceRunner, batch: MicroBatch, name: string, results: readonly Float32Array[]): void {
  for (const [i, index] of batch.members.entries()) runner.copyOutput(name, i, results[index] as Float32Array);
}

/** The policy with its adapters, or the frozen model that it is compared with. */
type DeviceModel = "policy" | "reference";

/** Equal nodes are left apart: a matrix in bfloat16 is widened for each product, not once for all of them (`widened`). */
const WIDEN_ANEW = { "optimization.disable_specified_optimizers": "CommonSubexpressionElimination" };

interface DeviceRunnerOptions {
  readonly config: DecoderConfig;
  readonly parameters: DeviceParameters;
  readonly gradients: DeviceGradients;
  readonly adapters: Adapters | undefined;
  /** Weights that no slot changes; those of the slot when omitted. */
  readonly fixed: DeviceTensors | undefined;
  /** The reference's output projection, for a divergence; none with adapters, whose base has the policy's. */
  readonly referenceTable: DeviceTensors[string] | undefined;
  readonly mode: RunnerMode;
  readonly rows: number;
  readonly length: number;
}

/** One rectangle of tokens. Row r, position t predicts token t + 1 of the sequence in that row. */
class DeviceRunner {
  readonly #options: DeviceRunnerOptions;
  readonly #session: Session;
  readonly #memory: BatchMemory;
  readonly #calls = new Map<string, PreparedCall>();
  readonly load: BatchMemory["load"];
  readonly copyOutput: BatchMemory["copyOutput"];
  readonly addSums: BatchMemory["addSums"];

  constructor(options: DeviceRunnerOptions) {
    const { config, parameters, adapters, mode, rows, length } = options;
    const { provider, storage } = parameters;
    this.#options = options;
    const profile: Profile = provider.device.kind;
    const graphMode = mode.gradients ? "gradients" : "logprobs";
    const model = decoderGraph(config, {
      profile,
      adapters,
      mode: graphMode,
      terms: mode.terms,
      rows,
      length,
      storage,
    });
    this.#session = new Session(model, { threads: 1, provider, config: WIDEN_ANEW });
    const { vocabularySize, hiddenSize } = config;
    const memory = new BatchMemory({ vocabularySize, hiddenSize, integers: "int32" }, mode, { rows, length });
    this.#memory = memory;
    this.load = memory.load.bind(memory);
    this.copyOutput = memory.copyOutput.bind(memory);
    this.addSums = memory.addSums.bind(memory);
  }

  /** Runs the graph and waits for it: log-probabilities come back to the host. */
  run(slot: Slot, temperature: number): void {
    const { parameters, gradients, fixed } = this.#options;
    this.#memory.temperature = temperature;
    // Also brings the slot up to date on the device.
    const weights = fixed ?? parameters.values(slot);
    const key = `${slot} ${gradients.turn}`;
    const call = this.#calls.get(key) ?? this.#prepare(weights);
    this.#calls.set(key, call);
    call();
  }

  release(): void {
    this.#session.release();
  }

  #prepare(parameters: DeviceTensors): PreparedCall {
    const { config, adapters, gradients, mode, referenceTable } = this.#options;
    const { ids, tokens } = this.#memory;
    const head = this.#memory.head();
    const trained = trainableLayout(config, { adapters, valueHead: mode.terms.values !== undefined }).entries;
    const read = [...parameterLayout(config).entries, ...trained].map(({ name }) => [name, parameters[name]] as const);
    const feeds: Record<string, Bindable> = {
      ...(Object.fromEntries(read) as Record<string, Bindable>),
      ...head.feeds,
      ...(mode.terms.divergence && referenceTable && { [REFERENCE_TABLE]: referenceTable }),
      [IDS]: idValue(ids, [tokens]),
    };
    const fetches: Record<string, Bindable> = { ...head.fetches };
    if (!mode.gradients) return this.#session.prepare(feeds, fetches);
    for (const { name } of trained) {
      feeds[accumulatedName(name)] = gradients.sum[name] as DeviceValue;
      fetches[gradientName(name)] = gradients.next[name] as DeviceValue;
    }
    return this.#session.prepare(feeds, fetches);
  }
}
