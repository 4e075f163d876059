/**
 * Data-parallel training: every engine that takes part runs the same update and computes its share of each minibatch. Sums over the
 * minibatch are exchanged, so that all engines see what one engine would see; of the parameters each owns a stretch, for
 * which it adds up the gradients of all engines and runs AdamW (as ZeRO stage 1, https://arxiv.org/abs/1910.02054), straight
 * into the parameter store they all map.
 *
 * Sums are taken in a fixed order: results are equal to the bit for equal inputs, threads and number of engines.
 */

import type { RecordSpan } from "../core/timeline.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import type { BackwardResult, BackwardTerms, ForwardResult, ForwardTerms } from "../trainer/loss-terms.ts";
import { interleave, type Pause, paced } from "../trainer/micro-operations.ts";
import { GradientSum, type NoDecay } from "../trainer/optimizer.ts";
import { type StepResult, StoreOptimizer } from "../trainer/store-optimizer.ts";
import type { OptimizerSettings, PolicyLearner } from "../trainer/update.ts";
import type { Exchange } from "./exchange.ts";
import { cutByTokens, ownStretch } from "./shares.ts";

/** An engine's own learner; its gradients are added to the engine's part of the exchange. */
export interface SharingLearner extends Omit<PolicyLearner, "step"> {
  backward(...args: Parameters<PolicyLearner["backward"]>): BackwardResult | Promise<BackwardResult>;
}

export interface SharedLearnerOptions {
  readonly threads: number;
  /** As in `LearnerOptions`. */
  readonly noDecay?: readonly NoDecay[] | undefined;
  /** Told of each sum of gradients and each update of parameters. */
  readonly record?: RecordSpan | undefined;
  /** Called when the engines have written a slot of the store. */
  readonly onStep?: ((slot: Slot) => void) | undefined;
  /** Awaited between two micro-operations of the optimizer. */
  readonly pause?: Pause | undefined;
}

/** What an engine does with its stretch of the parameters. */
class OwnStretch {
  readonly sum: GradientSum | undefined;
  readonly optimizer: StoreOptimizer;

  constructor(store: ParameterStore, exchange: Exchange, options: SharedLearnerOptions) {
    const { threads, noDecay } = options;
    const { rank, members } = exchange;
    const place = members.indexOf(rank);
    const stretch = ownStretch(store.layout.length, place, members.length);
    // A model can be smaller than one cache line per engine.
    if (stretch.begin < stretch.end) {
      const inTurn = members.map((_, i) => members[(place + i) % members.length] as number);
      const parts = inTurn.map((from) => exchange.gradients(from).subarray(stretch.begin, stretch.end));
      this.sum = new GradientSum(parts, threads);
    }
    this.optimizer = new StoreOptimizer(store, exchange.gradients(rank), { threads, noDecay, stretch });
  }

  release(): void {
    this.sum?.release();
    this.optimizer.release();
  }
}

export class SharedLearner implements PolicyLearner {
  readonly #learner: SharingLearner;
  readonly #options: SharedLearnerOptions;
  readonly #store: ParameterStore;
  readonly #exchange: Exchange;
  /** For the engines that work on the attempt; made again when they are others. */
  #own: { readonly members: string; readonly stretch: OwnStretch } | undefined;

  /** @param learner collects its gradients in `exchange.gradients(rank)`. */
  constructor(learner: SharingLearner, store: ParameterStore, exchange: Exchange, options: SharedLearnerOptions) {
    this.#options = options;
    this.#learner = learner;
    this.#store = store;
    this.#exchange = exchange;
  }

  async forward(
    sequences: readonly Int32Array[],
    slot: Slot,
    temperature: number,
    { values, candidates, divergence }: ForwardTerms = {},
  ): Promise<ForwardResult> {
    const shares = this.#cut(sequences);
    const picked = candidates && { ...candidates, ids: this.#pick(shares, candidates.ids) };
    const terms = {
      ...(values && { values }),
      ...(picked && { candidates: picked }),
      ...(divergence && { divergence }),
    };
    const mine = await this.#learner.forward(this.#pick(shares, sequences), slot, temperature, terms);
    return {
      logprobs: await this.#gatherRows("log-probabilities", shares, sequences, mine.logprobs, 1),
      values: values ? await this.#gatherRows("values", shares, sequences, mine.values, 1) : [],
      candidateLogprobs:
        candidates === undefined
          ? []
          : await this.#gatherRows("candidates", shares, sequences, mine.candidateLogprobs, candidates.count),
      // Only teachers are asked for these, and a teacher is one engine.
      topIds: [],
      topLogprobs: [],
      divergences: divergence ? await this.#gatherRows("divergence", shares, sequences, mine.divergences, 1) : [],
    };
  }

  async referenceLogprobs(sequences: readonly Int32Array[], temperature: number): Promise<Float32Array[]> {
    const shares = this.#cut(sequences);
    const mine = await this.#learner.referenceLogprobs(this.#pick(shares, sequences), temperature);
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
    for (const [member, share] of shares.entries()) {
      let offset = 0;
      for (const i of share) {
        const target = results[i] as Float32Array;
        target.set((all[member] as Float64Array).subarray(offset, offset + target.length));
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
    { entropyWeights, values, candidates, divergenceWeights }: BackwardTerms = {},
  ): Promise<{ readonly loss: number; readonly entropy: number; readonly divergence: number }> {
    const shares = this.#cut(sequences);
    const pick = <T>(items: readonly T[]) => this.#pick(shares, items);
    const own = await this.#learner.backward(pick(sequences), pick(weights), slot, temperature, {
      entropyWeights: entropyWeights && pick(entropyWeights),
      values: values && { ...values, weights: pick(values.weights) },
      candidates: candidates && { ...candidates, ids: pick(candidates.ids), weights: pick(candidates.weights) },
      divergenceWeights: divergenceWeights && pick(divergenceWeights),
    });
    const mine = [own.loss, own.entropy * own.tokens, own.tokens, own.divergence];
    const all = await this.#gatherNumbers("gradients", mine);
    const [loss = 0, entropy = 0, tokens = 0, divergence = 0] = [0, 1, 2, 3].map((k) =>
      all.reduce((sum, values) => sum + (values[k] as number), 0),
    );
    return { loss, entropy: tokens === 0 ? 0 : entropy / tokens, divergence };
  }

  /** All engines have told what `backward` found, so the gradients are complete. */
  async step(settings: OptimizerSettings, from: Slot, to: Slot): Promise<StepResult> {
    const { sum, optimizer } = this.#stretch();
    const { norm } = optimizer;
    await this.#optimize([...(sum?.calls ?? []), ...norm.calls]);
    const norms = await this.#gatherNumbers("gradient norm", [norm.result()]);
    const gradNorm = Math.sqrt(norms.reduce((total, [own = 0]) => total + own * own, 0));
    if (Number.isFinite(gradNorm)) {
      await this.#optimize(optimizer.updateCalls(settings, gradNorm, from, to));
      const { rank, members } = this.#exchange;
      if (rank === members[0]) this.#store.setStep(to, this.#store.step(from) + 1);
    }
    // Nobody reads them any more: at the last meeting all sums were made.
    this.clearGradients();
    await this.#exchange.meet("new weights");
    this.#options.onStep?.(to);
    return { gradNorm };
  }

  async #optimize(calls: readonly (() => void)[]): Promise<void> {
    const { record, pause = () => Promise.resolve() } = this.#options;
    const onPause = (began: number) => void record?.("optimizer", began);
    onPause(await interleave(paced(calls, onPause), pause));
  }

  #stretch(): OwnStretch {
    const members = this.#exchange.members.join();
    if (this.#own?.members !== members) {
      this.#own?.stretch.release();
      this.#own = { members, stretch: new OwnStretch(this.#store, this.#exchange, this.#options) };
    }
    return this.#own.stretch;
  }

  clearGradients(): void {
    this.#learner.clearGradients();
  }

  release(): void {
    this.#own?.stretch.release();
    this.#own = undefined;
  }

  #cut(sequences: readonly Int32Array[]): readonly number[][] {
    return cutByTokens(
      sequences.map(({ length }) => length),
      this.#exchange.members.length,
    );
  }

  #pick<T>(shares: readonly number[][], items: readonly T[]): T[] {
    const { rank, members } = this.#exchange;
    return (shares[members.indexOf(rank)] as number[]).map((i) => items[i] as T);
  }

  #gatherNumbers(what: string, numbers: readonly number[]): Promise<Float64Array[]> {
    return this.#exchange.gather(
      what,
      numbers,
      this.#exchange.members.map(() => numbers.length),
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
