/**
 * Data-parallel training: every engine runs the same update and computes its share of each minibatch. Sums over the
 * minibatch are exchanged, so that all engines see what one engine would see; of the parameters each owns a stretch, for
 * which it adds up the gradients of all engines and runs AdamW (as ZeRO stage 1, https://arxiv.org/abs/1910.02054), straight
 * into the parameter store they all map.
 *
 * Sums are taken in a fixed order: results are equal to the bit for equal inputs, threads and number of engines.
 */

import type { RecordSpan } from "../core/timeline.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import type { Learner } from "../trainer/learner.ts";
import type { BackwardTerms, ForwardResult, ForwardTerms } from "../trainer/loss-terms.ts";
import { GradientSum, type NoDecay } from "../trainer/optimizer.ts";
import { StoreOptimizer } from "../trainer/store-optimizer.ts";
import type { OptimizerSettings, PolicyLearner } from "../trainer/update.ts";
import type { Exchange } from "./exchange.ts";
import { cutByTokens, ownStretch } from "./shares.ts";

/** An engine's own learner; its gradients are added to the engine's part of the exchange. */
export type SharingLearner = Pick<Learner, "forward" | "referenceLogprobs" | "backward" | "clearGradients">;

export interface SharedLearnerOptions {
  readonly threads: number;
  /** As in `LearnerOptions`. */
  readonly noDecay?: readonly NoDecay[] | undefined;
  /** Told of each sum of gradients and each update of parameters. */
  readonly record?: RecordSpan | undefined;
  /** Called when the engines have written a slot of the store. */
  readonly onStep?: ((slot: Slot) => void) | undefined;
}

export class SharedLearner implements PolicyLearner {
  readonly #learner: SharingLearner;
  readonly #onStep: (slot: Slot) => void;
  readonly #record: RecordSpan | undefined;
  readonly #store: ParameterStore;
  readonly #exchange: Exchange;
  readonly #sum: GradientSum | undefined;
  readonly #optimizer: StoreOptimizer;

  /** @param learner collects its gradients in `exchange.gradients(rank)`. */
  constructor(learner: SharingLearner, store: ParameterStore, exchange: Exchange, options: SharedLearnerOptions) {
    const { threads, noDecay, record, onStep = () => {} } = options;
    this.#onStep = onStep;
    this.#record = record;
    this.#learner = learner;
    this.#store = store;
    this.#exchange = exchange;
    const { rank, size } = exchange;
    const stretch = ownStretch(store.layout.length, rank, size);
    // A model can be smaller than one cache line per engine.
    if (stretch.begin < stretch.end) {
      const others = Array.from({ length: size - 1 }, (_, i) => (rank + 1 + i) % size);
      const parts = [rank, ...others].map((from) => exchange.gradients(from).subarray(stretch.begin, stretch.end));
      this.#sum = new GradientSum(parts, threads);
    }
    this.#optimizer = new StoreOptimizer(store, exchange.gradients(rank), { threads, noDecay, stretch });
  }

  async forward(
    sequences: readonly Int32Array[],
    slot: Slot,
    temperature: number,
    { values, candidates }: ForwardTerms = {},
  ): Promise<ForwardResult> {
    const shares = this.#cut(sequences);
    const picked = candidates && { ...candidates, ids: this.#pick(shares, candidates.ids) };
    const terms = { ...(values && { values }), ...(picked && { candidates: picked }) };
    const mine = this.#learner.forward(this.#pick(shares, sequences), slot, temperature, terms);
    return {
      logprobs: await this.#gatherRows("log-probabilities", shares, sequences, mine.logprobs, 1),
      values: values ? await this.#gatherRows("values", shares, sequences, mine.values, 1) : [],
      candidateLogprobs:
        candidates === undefined
          ? []
          : await this.#gatherRows("candidates", shares, sequences, mine.candidateLogprobs, candidates.count),
    };
  }

  referenceLogprobs(sequences: readonly Int32Array[], temperature: number): Promise<Float32Array[]> {
    const shares = this.#cut(sequences);
    const mine = this.#learner.referenceLogprobs(this.#pick(shares, sequences), temperature);
    return this.#gatherRows("reference", shares, sequences, mine, 1);
  }

  /** Rows of `width` numbers per token, from the engines that computed them, in the order of the sequences. */
  async #gatherRows(
    what: string,
    shares: readonly number[][],
    sequences: readonly Int32Array[],
    mine: readonly Float32Array[],
    width: number,
  ): Promise<Float32Array[]> {
    const sizeOf = (i: number) => (sequences[i] as Int32Array).length * width;
    const lengths = shares.map((share) => share.reduce((sum, i) => sum + sizeOf(i), 0));
    const all = await this.#exchange.gather(what, concatenate(mine), lengths);
    const results = sequences.map((_, i) => new Float32Array(sizeOf(i)));
    for (const [rank, share] of shares.entries()) {
      let offset = 0;
      for (const i of share) {
        const target = results[i] as Float32Array;
        target.set((all[rank] as Float64Array).subarray(offset, offset + target.length));
        offset += target.length;
      }
    }
    return results;
  }

  async backward(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: Slot,
    temperature: number,
    { entropyWeights, values, candidates }: BackwardTerms = {},
  ): Promise<{ readonly loss: number; readonly entropy: number }> {
    const shares = this.#cut(sequences);
    const pick = <T>(items: readonly T[]) => this.#pick(shares, items);
    const own = this.#learner.backward(pick(sequences), pick(weights), slot, temperature, {
      entropyWeights: entropyWeights && pick(entropyWeights),
      values: values && { ...values, weights: pick(values.weights) },
      candidates: candidates && { ...candidates, ids: pick(candidates.ids), weights: pick(candidates.weights) },
    });
    const all = await this.#gatherNumbers("gradients", [own.loss, own.entropy * own.tokens, own.tokens]);
    const [loss = 0, entropy = 0, tokens = 0] = [0, 1, 2].map((k) =>
      all.reduce((sum, values) => sum + (values[k] as number), 0),
    );
    return { loss, entropy: tokens === 0 ? 0 : entropy / tokens };
  }

  /** All engines have told what `backward` found, so the gradients are complete. */
  async step(settings: OptimizerSettings, from: Slot, to: Slot): Promise<{ readonly gradNorm: number }> {
    const summed = performance.now();
    this.#sum?.collect();
    const mine = this.#optimizer.gradNorm();
    this.#record?.("optimizer", summed);
    const norms = await this.#gatherNumbers("gradient norm", [mine]);
    const began = performance.now();
    const gradNorm = Math.sqrt(norms.reduce((sum, [norm = 0]) => sum + norm * norm, 0));
    if (Number.isFinite(gradNorm)) {
      this.#optimizer.update(settings, gradNorm, from, to);
      if (this.#exchange.rank === 0) this.#store.setStep(to, this.#store.step(from) + 1);
    }
    // Nobody reads them any more: at the last meeting all sums were made.
    this.clearGradients();
    this.#record?.("optimizer", began);
    await this.#exchange.meet("new weights");
    this.#onStep(to);
    return { gradNorm };
  }

  clearGradients(): void {
    this.#learner.clearGradients();
  }

  release(): void {
    this.#sum?.release();
    this.#optimizer.release();
  }

  #cut(sequences: readonly Int32Array[]): readonly number[][] {
    return cutByTokens(
      sequences.map(({ length }) => length),
      this.#exchange.size,
    );
  }

  #pick<T>(shares: readonly number[][], items: readonly T[]): T[] {
    return (shares[this.#exchange.rank] as number[]).map((i) => items[i] as T);
  }

  #gatherNumbers(what: string, numbers: readonly number[]): Promise<Float64Array[]> {
    return this.#exchange.gather(
      what,
      numbers,
      Array.from({ length: this.#exchange.size }, () => numbers.length),
    );
  }
}

function concatenate(parts: readonly Float32Array[]): Float64Array {
  const whole = new Float64Array(parts.reduce((sum, { length }) => sum + length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
