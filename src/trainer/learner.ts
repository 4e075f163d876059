/**
 * The training side of the numeric engine: log-probabilities, gradients and optimizer steps of a decoder whose parameters
 * lie in a `ParameterStore`. Not tied to any algorithm: a loss is given as one weight per token.
 */

import { AleError } from "../core/errors.ts";
import type { RecordSpan } from "../core/timeline.ts";
import type { DecoderConfig } from "../models/config.ts";
import { LOGPROBS, REFERENCE_TABLE } from "../models/decoder-head.ts";
import type { AdaptedBase, FrozenParameters } from "../models/frozen-parameters.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import { parameterValues } from "../models/parameter-values.ts";
import { headName } from "../models/parameters.ts";
import type { Value } from "../runtime/value.ts";
import { DecoderRunners } from "./decoder-runner.ts";
import type { Executor, RunnerMode, RunnerModel } from "./executor.ts";
import { LaneGradients } from "./lane-gradients.ts";
import { LayeredRunners } from "./layered-runner.ts";
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
import { copyOutputs, runMicroBatches } from "./micro-batch-runs.ts";
import { type MicroBatch, type Packing, planMicroBatches } from "./micro-batches.ts";
import { finish, type MicroOperations, paced } from "./micro-operations.ts";
import type { NoDecay } from "./optimizer.ts";
import { type StepResult, type StepSettings, StoreOptimizer } from "./store-optimizer.ts";

export interface LearnerOptions {
  /**
   * Threads. Each works on micro-batches of its own and on gradients of its own, which costs the cores no waiting for one
   * another within an operator; results depend on the number of threads in the last bits.
   */
  readonly threads: number;
  /** Tokens in work at once, all threads together; sums over micro-batches equal those of one pass. Default 2048. */
  readonly maxTokensPerMicroBatch?: number;
  /** Whether several sequences share a row. Default `off`. */
  readonly packing?: Packing | undefined;
  /** What weight decay leaves alone besides the value head. Default nothing. */
  readonly noDecay?: readonly NoDecay[] | undefined;
  /**
   * `graph`: one graph for the whole model, the fastest way while its activations fit. `layers`: layer by layer, each layer's
   * forward pass computed again on the way back; one lane, whose operators use all threads. Default `graph`.
   */
  readonly executor?: "graph" | "layers";
  /** Bytes of logits at a time in executor `layers`; default 64 MiB. */
  readonly logitBytes?: number;
  /** The frozen model whose adapters the store holds; without it the store holds all parameters. */
  readonly base?: AdaptedBase | undefined;
  /** The model that `referenceLogprobs` asks; default the base of the adapters. */
  readonly reference?: FrozenParameters | undefined;
  /** Elements from which on the first micro-batch replaces gradients instead of adding to zeros; tests set less. */
  readonly replaceFrom?: number;
  /** Where the sum of the gradients is collected, zeros at first, in the store's layout; memory of its own by default. */
  readonly gradients?: Float32Array;
  /** Told of each micro-batch, or of those that run together, and of each optimizer step. */
  readonly record?: RecordSpan | undefined;
}

export class Learner {
  readonly #config: DecoderConfig;
  readonly #store: ParameterStore;
  readonly #maxTokens: number;
  readonly #record: RecordSpan | undefined;
  readonly #packing: Packing | undefined;
  /** One lane per thread. */
  readonly #gradients: LaneGradients;
  readonly #executor: Executor;
  readonly #reference: Executor | undefined;
  readonly #optimizer: StoreOptimizer;

  constructor(config: DecoderConfig, store: ParameterStore, options: LearnerOptions) {
    this.#config = config;
    this.#store = store;
    this.#maxTokens = options.maxTokensPerMicroBatch ?? 2048;
    this.#record = options.record;
    this.#packing = options.packing;
    const { threads, base, reference = base?.parameters, noDecay } = options;
    const layered = options.executor === "layers";
    const { layout } = store;
    this.#gradients = new LaneGradients(layout, {
      lanes: layered ? 1 : threads,
      threads,
      first: options.gradients,
      replaces: !layered,
      replaceFrom: options.replaceFrom,
    });
    const { memory } = this.#gradients;
    const executor = (model: RunnerModel) =>
      layered
        ? new LayeredRunners({ ...options, model, layout, gradients: memory })
        : new DecoderRunners(model, this.#gradients);
    const table = base === undefined && reference && { [REFERENCE_TABLE]: reference.values[headName(config)] as Value };
    const weights = (slot: Slot) => ({ ...base?.parameters.values, ...parameterValues(store, slot), ...table });
    this.#executor = executor({ config, adapters: base?.adapters, weights });
    this.#reference = reference && executor({ config, adapters: undefined, weights: () => reference.values });
    this.#optimizer = new StoreOptimizer(store, memory, { threads, noDecay });
  }

  /** Gradients accumulated so far, flat in the store's layout. Ask again after they were cleared. */
  get gradients(): Float32Array {
    return this.#gradients.sum;
  }

  /**
   * Teacher-forced log p(token t | tokens < t) of each sequence under the weights of `slot`, at `temperature`; element 0
   * is 0. Padding and the other sequences have no part in it beyond rounding.
   * @throws AleError("engine") for a sequence longer than the context.
   */
  logprobs(sequences: readonly Int32Array[], slot: number, temperature = 1): Float32Array[] {
    return this.forward(sequences, slot, temperature).logprobs;
  }

  /** As `logprobs`, with what else `terms` ask for. */
  forward(sequences: readonly Int32Array[], slot: number, temperature = 1, terms: ForwardTerms = {}): ForwardResult {
    return finish(this.forwarding(sequences, slot, temperature, terms));
  }

  /** `forward` in micro-operations. */
  forwarding(
    sequences: readonly Int32Array[],
    slot: number,
    temperature: number,
    terms: ForwardTerms = {},
  ): MicroOperations<ForwardResult> {
    return this.#forwarding(this.#executor, sequences, checkedSlot(slot), temperature, terms);
  }

  /** As `forwarding`, under the frozen reference. @throws AleError("internal") when the learner was given none. */
  referenceForwarding(sequences: readonly Int32Array[], temperature: number): MicroOperations<ForwardResult> {
    if (this.#reference === undefined) throw noReference();
    return this.#forwarding(this.#reference, sequences, 0, temperature, {});
  }

  /** As `logprobs`, under the frozen reference. @throws AleError("internal") when the learner was given none. */
  referenceLogprobs(sequences: readonly Int32Array[], temperature = 1): Float32Array[] {
    return finish(this.referenceForwarding(sequences, temperature)).logprobs;
  }

  *#forwarding(
    executor: Executor,
    sequences: readonly Int32Array[],
    slot: Slot,
    temperature: number,
    asked: ForwardTerms,
  ): MicroOperations<ForwardResult> {
    const outputs = forwardOutputs(asked, sequences);
    const mode = { gradients: false, terms: forwardTerms(asked) };
    yield* runMicroBatches(
      { ...this.#work(sequences, mode), executor, slot, temperature },
      {
        load: (runner, laidOut, pick, fixed) =>
          runner.load(laidOut, fixed, asked.candidates && pick(asked.candidates.ids)),
        finish: (runner, batch) => {
          for (const [name, rows] of Object.entries(outputs)) copyOutputs(runner, batch, name, rows);
        },
      },
    );
    return forwardResult(outputs);
  }

  /**
   * Adds the gradients of −Σ_t weight_t · log p_t, and of the other terms, to the accumulated ones. Weight t belongs to token
   * t of its sequence (element 0 is ignored), as do entropy and value of the context before it.
   */
  backward(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: number,
    temperature = 1,
    terms: BackwardTerms = {},
  ): BackwardResult {
    return finish(this.backwarding(sequences, weights, slot, temperature, terms));
  }

  /** `backward` in micro-operations. */
  *backwarding(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: number,
    temperature: number,
    terms: BackwardTerms = {},
  ): MicroOperations<BackwardResult> {
    const logprobs = sequences.map((sequence) => new Float32Array(sequence.length));
    const sums = { loss: 0, entropy: 0, tokens: 0, divergence: 0 };
    const columns = Object.entries(weightColumns(weights, terms));
    const mode = { gradients: true, terms: lossTerms(terms) };
    yield* runMicroBatches(
      { ...this.#work(sequences, mode), slot: checkedSlot(slot), temperature },
      {
        load: (runner, laidOut, pick, fixed) => {
          const picked = Object.fromEntries(columns.map(([name, rows]) => [name, pick(rows)]));
          runner.load(laidOut, { ...picked, ...fixed }, terms.candidates && pick(terms.candidates.ids));
        },
        finish: (runner, batch) => {
          runner.scatterEmbeddedGradient();
          copyOutputs(runner, batch, LOGPROBS, logprobs);
          runner.addSums(sums);
        },
      },
    );
    const began = yield* this.#optimizing(this.#gradients.collect());
    this.#record?.("optimizer", began);
    const { loss, entropy, tokens, divergence } = sums;
    return { loss, logprobs, entropy: tokens === 0 ? 0 : entropy / tokens, tokens, divergence };
  }

  /**
   * One AdamW step with the accumulated gradients, clipped by their global norm: reads slot `from`, writes the unpublished
   * slot `to`, and clears the gradients. A norm that is not finite leaves `to` as it was.
   */
  step(settings: StepSettings, from: number, to: number): StepResult {
    return finish(this.stepping(settings, from, to));
  }

  /** `step` in micro-operations. */
  *stepping(settings: StepSettings, from: number, to: number): MicroOperations<StepResult> {
    const source = checkedSlot(from);
    const target = checkedSlot(to);
    this.#store.assertWritable(target);
    const { norm } = this.#optimizer;
    this.#gradients.settle();
    const known = this.#gradients.norm;
    let began = yield* this.#optimizing(known === undefined ? norm.calls : []);
    const gradNorm = known ?? norm.result();
    if (Number.isFinite(gradNorm)) {
      const calls = this.#optimizer.updateCalls(settings, gradNorm, source, target);
      began = yield* this.#optimizing(calls, began);
      this.#store.setStep(target, this.#store.step(source) + 1);
    }
    this.#gradients.clear();
    this.#record?.("optimizer", began);
    return { gradNorm };
  }

  /** Returns when the last micro-operation began. */
  #optimizing(calls: readonly (() => void)[], began?: number): MicroOperations<number> {
    return paced(calls, (from) => this.#record?.("optimizer", from), began);
  }

  /** Forgets accumulated gradients. */
  clearGradients(): void {
    this.#gradients.clear();
  }

  /** Frees the compiled graphs. */
  release(): void {
    this.#executor.release();
    this.#reference?.release();
    this.#optimizer.release();
    this.#gradients.release();
  }

  /** @throws AleError("internal") for a divergence when there is no reference to measure it from. */
  #work(sequences: readonly Int32Array[], mode: RunnerMode) {
    if (mode.terms.divergence === true && this.#reference === undefined) throw noReference();
    const reference = this.#reference && { executor: this.#reference, width: this.#config.hiddenSize };
    return { plan: this.#plan(sequences), executor: this.#executor, reference, mode, sequences, record: this.#record };
  }

  /** A sequence of n tokens has n − 1 predictions, so that is the length it takes. */
  #plan(sequences: readonly Int32Array[]): MicroBatch[] {
    const { contextLength } = this.#config;
    for (const { length } of sequences) {
      if (length - 1 > contextLength) {
        throw new AleError("engine", `a sequence of ${length} tokens does not fit the context of ${contextLength}`);
      }
    }
    const lengths = sequences.map((sequence) => sequence.length - 1);
    const tokens = Math.ceil(this.#maxTokens / this.#executor.lanes);
    return planMicroBatches(lengths, { tokens, contextLength }, this.#packing);
  }
}

/** What a divergence cannot be measured without. */
export function noReference(): AleError {
  return new AleError("internal", "this learner has no reference to compare with");
}

function checkedSlot(slot: number): Slot {
  if (slot !== 0 && slot !== 1 && slot !== 2) throw new AleError("internal", `there is no slot ${slot}`);
  return slot;
}
