/** Requests that come one by one, scored several at a time: what arrives while the teacher is busy goes together. */

import type { ScoreOptions, Teacher } from "../../core/teacher.ts";

/** What the teacher says about one sequence; elements of the first token are 0. */
export interface SequenceScore {
  readonly logprobs: Float32Array;
  /** Element t · `count` + i is the i-th likeliest at token t. */
  readonly top: { readonly count: number; readonly ids: Int32Array; readonly logprobs: Float32Array } | undefined;
}

interface Waiting {
  readonly sequence: Int32Array;
  readonly top: number;
  resolve(score: SequenceScore): void;
  reject(error: unknown): void;
}

const MOST_AT_ONCE = 64;
const NEVER = new AbortController().signal;

export class ScoreQueue {
  readonly #teacher: Teacher;
  readonly #vocabularySize: number;
  #waiting: Waiting[] = [];
  #busy = false;

  constructor(teacher: Teacher, vocabularySize: number) {
    this.#teacher = teacher;
    this.#vocabularySize = vocabularySize;
  }

  /** At temperature 1. */
  score(sequence: Int32Array, top: number): Promise<SequenceScore> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ sequence, top, resolve, reject });
      if (!this.#busy) void this.#work();
    });
  }

  async #work(): Promise<void> {
    this.#busy = true;
    while (this.#waiting.length > 0) {
      // Those that ask for as many tokens as the first one.
      const top = this.#waiting[0]?.top ?? 0;
      const batch = this.#waiting.filter((waiting) => waiting.top === top).slice(0, MOST_AT_ONCE);
      this.#waiting = this.#waiting.filter((waiting) => !batch.includes(waiting));
      await this.#answer(batch, { temperature: 1, top, vocabularySize: this.#vocabularySize });
    }
    this.#busy = false;
  }

  async #answer(batch: readonly Waiting[], options: ScoreOptions): Promise<void> {
    try {
      const sequences = batch.map(({ sequence }) => sequence);
      const { logprobs, top } = await this.#teacher.score(sequences, options, NEVER);
      for (const [i, { resolve }] of batch.entries()) {
        resolve({
          logprobs: logprobs[i] as Float32Array,
          top: top && {
            count: top.count,
            ids: top.ids[i] as Int32Array,
            logprobs: top.logprobs[i] as Float32Array,
          },
        });
      }
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  }
}
