/**
 * Data-parallel training: every engine runs the same update and computes its share of each minibatch. Sums over the
 * minibatch are exchanged, so that all engines see what one engine would see; of the parameters each owns a stretch, for
 * which it adds up the gradients of all engines and runs AdamW (as ZeRO stage 1, https://arxiv.org/abs/1910.02054), straight
 * into the parameter store they all map.
 *
 * Sums are taken in a fixed order: results are equal to the bit for equal inputs, threads and number of engines.
 */

import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import type { Learner } from "../trainer/learner.ts";
import { GradientSum } from "../trainer/optimizer.ts";
import { StoreOptimizer } from "../trainer/store-optimizer.ts";
import type { OptimizerSettings, PolicyLearner } from "../trainer/update.ts";
import type { Exchange } from "./exchange.ts";
import { cutByTokens, ownStretch } from "./shares.ts";

export class SharedLearner implements PolicyLearner {
  readonly #learner: Learner;
  readonly #store: ParameterStore;
  readonly #exchange: Exchange;
  readonly #sum: GradientSum | undefined;
  readonly #optimizer: StoreOptimizer;

  /** @param learner collects its gradients in `exchange.gradients(rank)`. */
  constructor(learner: Learner, store: ParameterStore, exchange: Exchange, threads: number) {
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
    this.#optimizer = new StoreOptimizer(store, exchange.gradients(rank), { threads, exemptNorms: false, stretch });
  }

  async logprobs(sequences: readonly Int32Array[], slot: Slot, temperature: number): Promise<Float32Array[]> {
    const shares = this.#cut(sequences);
    const mine = this.#learner.logprobs(this.#pick(shares, sequences), slot, temperature);
    const lengths = shares.map((share) => share.reduce((sum, i) => sum + (sequences[i] as Int32Array).length, 0));
    const all = await this.#exchange.gather("log-probabilities", concatenate(mine), lengths);
    const results = sequences.map((sequence) => new Float32Array(sequence.length));
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
  ): Promise<{ readonly loss: number; readonly entropy: number }> {
    const shares = this.#cut(sequences);
    const own = this.#learner.backward(this.#pick(shares, sequences), this.#pick(shares, weights), slot, temperature);
    const all = await this.#gatherNumbers("gradients", [own.loss, own.entropy * own.tokens, own.tokens]);
    const [loss = 0, entropy = 0, tokens = 0] = [0, 1, 2].map((k) =>
      all.reduce((sum, values) => sum + (values[k] as number), 0),
    );
    return { loss, entropy: tokens === 0 ? 0 : entropy / tokens };
  }

  /** All engines have told what `backward` found, so the gradients are complete. */
  async step(settings: OptimizerSettings, from: Slot, to: Slot): Promise<{ readonly gradNorm: number }> {
    this.#sum?.collect();
    const norms = await this.#gatherNumbers("gradient norm", [this.#optimizer.gradNorm()]);
    const gradNorm = Math.sqrt(norms.reduce((sum, [norm = 0]) => sum + norm * norm, 0));
    if (Number.isFinite(gradNorm)) {
      this.#optimizer.update(settings, gradNorm, from, to);
      if (this.#exchange.rank === 0) this.#store.setStep(to, this.#store.step(from) + 1);
    }
    // Nobody reads them any more: at the last meeting all sums were made.
    this.clearGradients();
    await this.#exchange.meet("new weights");
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
