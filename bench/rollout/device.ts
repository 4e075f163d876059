/**
 * A simulated device: one micro-operation at a time (a decode step of all its sequences with the prefill before it, a
 * training micro-batch, a slice of the optimizer), after each of which it may switch between generation and training.
 */

import { type Work, WorkShare } from "../../src/device/work-share.ts";
import type { Clock } from "./clock.ts";
import type { Costs } from "./setup.ts";

/** An answer to be generated. */
export interface Answer {
  /** Tokens to be computed before the first one is sampled. */
  context: number;
  /** Tokens still to be sampled. */
  left: number;
  /** Whether some of its context is computed. */
  isBegun?: boolean;
  readonly done: () => void;
}

/** A part of an update that is not interrupted. */
export interface TrainingOperation {
  readonly ms: number;
  readonly done: () => void;
}

export class Device {
  /** Time spent so far. */
  readonly busyMs: Record<Work, number> = { generate: 0, train: 0 };
  /** Sequences that have their cache here. */
  open = 0;
  /** Answers that are waited for. */
  awaited = 0;
  readonly #clock: Clock;
  readonly #costs: Costs;
  readonly #share: WorkShare;
  readonly #waiting: Answer[] = [];
  #rows: Answer[] = [];
  readonly #training: TrainingOperation[] = [];
  #isBusy = false;

  constructor(clock: Clock, costs: Costs, trainShare: number) {
    this.#clock = clock;
    this.#costs = costs;
    this.#share = new WorkShare(trainShare);
  }

  generate(answer: Answer): void {
    this.awaited++;
    this.#waiting.push(answer);
    this.#go();
  }

  /** Nobody waits for the answer any more. */
  cancel(answer: Answer): void {
    if (!this.#waiting.includes(answer) && !this.#rows.includes(answer)) return;
    this.awaited--;
    this.#rows = this.#rows.filter((row) => row !== answer);
    if (this.#waiting.includes(answer)) this.#waiting.splice(this.#waiting.indexOf(answer), 1);
  }

  train(operation: TrainingOperation): void {
    this.#training.push(operation);
    this.#go();
  }

  /** Looks for work as soon as everything that happens now has happened. */
  #go(): void {
    if (this.#isBusy) return;
    this.#isBusy = true;
    this.#clock.after(0, () => {
      this.#isBusy = false;
      this.#begin();
    });
  }

  #begin(): void {
    const generate = this.#rows.length + this.#waiting.length > 0;
    const work = this.#share.next({ generate, train: this.#training.length > 0 });
    if (work === undefined) return;
    const { ms, done } = work === "train" ? (this.#training.shift() as TrainingOperation) : this.#generation();
    this.#share.spent(work, ms);
    this.#isBusy = true;
    this.#clock.after(ms, () => {
      this.#isBusy = false;
      this.busyMs[work] += ms;
      done();
      this.#go();
    });
  }

  /** Prefill as far as the limit between two decode steps allows, and a decode step of whoever has its context. */
  #generation(): TrainingOperation {
    const { decode, prefill, slots, prefillTokens } = this.#costs;
    let [room, begun] = [prefillTokens, 0];
    while (this.#waiting.length > 0 && this.#rows.length < slots && room > 0) {
      const answer = this.#waiting[0] as Answer;
      if (!answer.isBegun) begun++;
      answer.isBegun = true;
      const tokens = Math.min(room, answer.context);
      answer.context -= tokens;
      room -= tokens;
      if (answer.context > 0) break;
      this.#rows.push(answer);
      this.#waiting.shift();
    }
    const prefillMs = prefill.base * begun + prefill.perToken * (prefillTokens - room);
    const decodeMs = this.#rows.length > 0 ? decode.base + decode.perRow * this.#rows.length : 0;
    const stepped = this.#rows;
    return { ms: prefillMs + decodeMs, done: () => this.#sampled(stepped) };
  }

  #sampled(rows: readonly Answer[]): void {
    for (const answer of rows) answer.left--;
    const finished = this.#rows.filter(({ left }) => left <= 0);
    this.#rows = this.#rows.filter(({ left }) => left > 0);
    this.awaited -= finished.length;
    for (const answer of finished) answer.done();
  }
}
