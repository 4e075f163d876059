/** A learner that lets the engine do something else between two micro-operations. */

import type { Slot } from "../models/parameter-store.ts";
import type { DeviceLearner } from "./device-learner.ts";
import type { Learner } from "./learner.ts";
import type { BackwardResult, BackwardTerms, ForwardResult, ForwardTerms } from "./loss-terms.ts";
import { interleave, type MicroOperations, type Pause } from "./micro-operations.ts";
import type { StepResult, StepSettings } from "./store-optimizer.ts";
import type { PolicyLearner } from "./update.ts";

export class PausingLearner implements PolicyLearner {
  readonly #learner: Learner | DeviceLearner;
  readonly #pause: Pause;

  /** @param pause is awaited after every micro-operation; while it lasts nobody else may use `learner`. */
  constructor(learner: Learner | DeviceLearner, pause: Pause) {
    this.#learner = learner;
    this.#pause = pause;
  }

  forward(
    sequences: readonly Int32Array[],
    slot: Slot,
    temperature: number,
    terms?: ForwardTerms,
  ): Promise<ForwardResult> {
    return this.#run(this.#learner.forwarding(sequences, slot, temperature, terms));
  }

  async referenceLogprobs(sequences: readonly Int32Array[], temperature: number): Promise<Float32Array[]> {
    return (await this.#run(this.#learner.referenceForwarding(sequences, temperature))).logprobs;
  }

  backward(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: Slot,
    temperature: number,
    terms?: BackwardTerms,
  ): Promise<BackwardResult> {
    return this.#run(this.#learner.backwarding(sequences, weights, slot, temperature, terms));
  }

  step(settings: StepSettings, from: Slot, to: Slot): Promise<StepResult> {
    return this.#run(this.#learner.stepping(settings, from, to));
  }

  clearGradients(): void {
    this.#learner.clearGradients();
  }

  #run<T>(work: MicroOperations<T>): Promise<T> {
    return interleave(work, this.#pause);
  }
}
