/**
 * The training side of the numeric engine: log-probabilities, gradients and optimizer steps of a decoder whose parameters
 * lie in a `ParameterStore`. Not tied to any algorithm: a loss is given as one weight per token.
 */

import { AleError } from "../core/errors.ts";
import type { DecoderConfig } from "../models/config.ts";
import type { AdaptedBase } from "../models/frozen-parameters.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { DecoderRunners } from "./decoder-runner.ts";
import type { BatchRunner, Executor, RunnerMode } from "./executor.ts";
import { LayeredRunners } from "./layered-runner.ts";
import { type MicroBatch, planMicroBatches } from "./micro-batches.ts";
import { GradientSum } from "./optimizer.ts";
import { type StepSettings, StoreOptimizer } from "./store-optimizer.ts";

export interface LearnerOptions {
  /**
   * Threads. Each works on micro-batches of its own and on gradients of its own, which costs the cores no waiting for one
   * another within an operator; results depend on the number of threads in the last bits.
   */
  readonly threads: number;
  /** Tokens in work at once, all threads together; sums over micro-batches equal those of one pass. Default 2048. */
  readonly maxTokensPerMicroBatch?: number;
  /** Leave norm weights out of weight decay. Default false. */
  readonly exemptNorms?: boolean;
  /**
   * `graph`: one graph for the whole model, the fastest way while its activations fit. `layers`: layer by layer, each layer's
   * forward pass computed again on the way back; one lane, whose operators use all threads. Default `graph`.
   */
  readonly executor?: "graph" | "layers";
  /** Bytes of logits at a time in executor `layers`; default 64 MiB. */
  readonly logitBytes?: number;
  /** The frozen model whose adapters the store holds; without it the store holds all parameters. */
  readonly base?: AdaptedBase | undefined;
  /** Where the sum of the gradients is collected, zeros at first, in the store's layout; memory of its own by default. */
  readonly gradients?: Float32Array;
}

export interface BackwardResult {
  /** −Σ weight · logprob − Σ entropyWeight · entropy. */
  readonly loss: number;
  /** log p of every token, as `logprobs` gives them. */
  readonly logprobs: Float32Array[];
  /** Mean entropy in nats over the tokens whose weight is not 0. */
  readonly entropy: number;
  /** How many tokens those are. */
  readonly tokens: number;
}

export class Learner {
  readonly #config: DecoderConfig;
  readonly #store: ParameterStore;
  readonly #maxTokens: number;
  /** One flat array per thread; the first collects the sum. */
  readonly #gradients: readonly Float32Array[];
  readonly #sum: GradientSum;
  readonly #executor: Executor;
  readonly #optimizer: StoreOptimizer;

  constructor(config: DecoderConfig, store: ParameterStore, options: LearnerOptions) {
    this.#config = config;
    this.#store = store;
    this.#maxTokens = options.maxTokensPerMicroBatch ?? 2048;
    const { threads, exemptNorms = false } = options;
    const layered = options.executor === "layers";
    this.#gradients = Array.from({ length: layered ? 1 : threads }, (_, lane) =>
      lane === 0 && options.gradients !== undefined ? options.gradients : allocateFloat32(store.layout.length),
    );
    this.#sum = new GradientSum(this.#gradients, threads);
    this.#executor = layered
      ? new LayeredRunners({ ...options, config, store, gradients: this.gradients })
      : new DecoderRunners(config, store, this.#gradients, options.base);
    this.#optimizer = new StoreOptimizer(store, this.gradients, { threads, exemptNorms });
  }

  /** Gradients accumulated so far, flat in the store's layout. */
  get gradients(): Float32Array {
    return this.#gradients[0] as Float32Array;
  }

  /**
   * Teacher-forced log p(token t | tokens < t) of each sequence under the weights of `slot`, at `temperature`; element 0
   * is 0. Padding and the other sequences have no part in it beyond rounding.
   * @throws AleError("engine") for a sequence longer than the context.
   */
  logprobs(sequences: readonly Int32Array[], slot: number, temperature = 1): Float32Array[] {
    const results = sequences.map((sequence) => new Float32Array(sequence.length));
    this.#runAll("logprobs", sequences, checkedSlot(slot), temperature, {
      load: (runner, pick) => runner.load(pick(sequences)),
      finish: (runner, batch) => copyLogprobs(runner, batch, results),
    });
    return results;
  }

  /**
   * Adds the gradients of −Σ_t weight_t · log p_t, minus Σ_t entropyWeight_t · entropy_t, to the accumulated ones. Weight t
   * belongs to token t of its sequence (element 0 is ignored), as does the entropy of the distribution it was drawn from.
   */
  backward(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: number,
    temperature = 1,
    entropyWeights?: readonly Float32Array[],
  ): BackwardResult {
    const logprobs = sequences.map((sequence) => new Float32Array(sequence.length));
    const sums = { loss: 0, entropy: 0, tokens: 0 };
    const mode = entropyWeights === undefined ? "gradients" : "entropy-gradients";
    this.#runAll(mode, sequences, checkedSlot(slot), temperature, {
      load: (runner, pick) => runner.load(pick(sequences), pick(weights), entropyWeights && pick(entropyWeights)),
      finish: (runner, batch) => {
        runner.scatterEmbeddedGradient();
        copyLogprobs(runner, batch, logprobs);
        runner.addSums(sums);
      },
    });
    this.#sum.collect();
    for (const lane of this.#gradients.slice(1)) lane.fill(0);
    const { loss, entropy, tokens } = sums;
    return { loss, logprobs, entropy: tokens === 0 ? 0 : entropy / tokens, tokens };
  }

  /**
   * One AdamW step with the accumulated gradients, clipped by their global norm: reads slot `from`, writes the unpublished
   * slot `to`, and clears the gradients. A norm that is not finite leaves `to` as it was.
   */
  step(settings: StepSettings, from: number, to: number): { readonly gradNorm: number } {
    const source = checkedSlot(from);
    const target = checkedSlot(to);
    this.#store.assertWritable(target);
    const gradNorm = this.#optimizer.gradNorm();
    if (Number.isFinite(gradNorm)) {
      this.#optimizer.update(settings, gradNorm, source, target);
      this.#store.setStep(target, this.#store.step(source) + 1);
    }
    this.clearGradients();
    return { gradNorm };
  }

  /** Forgets accumulated gradients. */
  clearGradients(): void {
    for (const gradients of this.#gradients) gradients.fill(0);
  }

  /** Frees the compiled graphs. */
  release(): void {
    this.#executor.release();
    this.#optimizer.release();
    this.#sum.release();
  }

  /** Runs the micro-batches, as many at a time as there are lanes; `finish` is called in the order of the plan. */
  #runAll(mode: RunnerMode, sequences: readonly Int32Array[], slot: Slot, temperature: number, work: BatchWork): void {
    const plan = this.#plan(sequences);
    const { lanes } = this.#executor;
    for (let begin = 0; begin < plan.length; begin += lanes) {
      const group = plan.slice(begin, begin + lanes).map((batch, lane) => {
        const runner = this.#executor.get(mode, batch, lane);
        const pick = <T>(items: readonly T[]): T[] => batch.members.map((index) => items[index] as T);
        work.load(runner, pick);
        return { batch, runner };
      });
      this.#executor.run(
        group.map(({ runner }) => runner),
        slot,
        temperature,
      );
      for (const { runner, batch } of group) work.finish(runner, batch);
    }
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
    return planMicroBatches(lengths, { tokens, contextLength });
  }
}

/** What is done with each micro-batch before and after it runs. */
interface BatchWork {
  load(runner: BatchRunner, pick: <T>(items: readonly T[]) => T[]): void;
  finish(runner: BatchRunner, batch: MicroBatch): void;
}

function checkedSlot(slot: number): Slot {
  if (slot !== 0 && slot !== 1 && slot !== 2) throw new AleError("internal", `there is no slot ${slot}`);
  return slot;
}

function copyLogprobs(runner: BatchRunner, batch: MicroBatch, results: readonly Float32Array[]): void {
  for (const [row, index] of batch.members.entries()) runner.copyLogprobs(row, results[index] as Float32Array);
}
