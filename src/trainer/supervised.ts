/** Supervised training on recorded demonstrations: batches, weights and learning rate. */

import type { Experiment, SftStage } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";
import type { SupervisedRecord } from "./turn-masks.ts";
import type { SupervisedJob } from "./update.ts";

/** Demonstrations that share a length bucket are drawn from this many batches at a time, to save padding. */
const BATCHES_PER_POOL = 4;

/**
 * Learning rate of a stage's `step` (1-based): linear warm-up, then the peak, then after `decayFrom` of the stage a straight
 * line down to `minRatio` of the peak.
 */
export function stageRate(stage: SftStage, warmupSteps: number, step: number): number {
  const warmup = Math.min(1, step / Math.max(1, warmupSteps));
  const decayStart = stage.steps * stage.decayFrom;
  const progress = stage.steps > decayStart ? Math.max(0, (step - decayStart) / (stage.steps - decayStart)) : 0;
  return stage.lr * warmup * Math.max(stage.minRatio, 1 - progress);
}

/**
 * Order of demonstrations, batch by batch: each pass is shuffled, and within a few batches demonstrations of similar length
 * stand together. A function of `key` and `step` alone, so a resumed run sees the same batches.
 */
export class DemonstrationOrder {
  readonly #lengths: readonly number[];
  readonly #batch: number;
  readonly #key: string;
  #pass = -1;
  #batches: number[][] = [];

  constructor(lengths: readonly number[], batch: number, key: string) {
    if (lengths.length === 0 || batch < 1) throw new AleError("internal", "there are no demonstrations to train on");
    this.#lengths = lengths;
    this.#batch = Math.min(batch, lengths.length);
    this.#key = key;
  }

  /** Indices of the demonstrations of `step` (0-based). */
  at(step: number): readonly number[] {
    const perPass = Math.max(1, Math.floor(this.#lengths.length / this.#batch));
    const pass = Math.floor(step / perPass);
    if (pass !== this.#pass) this.#shuffle(pass);
    return this.#batches[step % perPass] as readonly number[];
  }

  #shuffle(pass: number): void {
    const rng = new Rng(`${this.#key}/${pass}`);
    const order = rng.shuffle(this.#lengths.map((_, i) => i));
    const pool = this.#batch * BATCHES_PER_POOL;
    this.#batches = [];
    for (let start = 0; start + this.#batch <= order.length; start += pool) {
      const members = order.slice(start, start + pool);
      members.sort((a, b) => (this.#lengths[a] as number) - (this.#lengths[b] as number) || a - b);
      const batches: number[][] = [];
      for (let i = 0; i + this.#batch <= members.length; i += this.#batch)
        batches.push(members.slice(i, i + this.#batch));
      this.#batches.push(...rng.shuffle(batches));
    }
    this.#pass = pass;
  }
}

/**
 * Share of each token in a loss that is averaged over the batch: tokens count 1 where the policy speaks and is to be imitated,
 * `contextWeight` where others speak, nothing where the policy's own turn is left out.
 */
export function tokenShares({ sft }: Experiment, records: readonly SupervisedRecord[]): Float32Array[] {
  const weights = records.map(({ tokens, trained_T }) =>
    Float32Array.from(tokens.mask, (bit, t) => (bit === 1 ? (trained_T[t] as number) : sft.contextWeight)),
  );
  // the first token has nothing before it
  for (const row of weights) row[0] = 0;
  const total = weights.reduce((sum, row) => sum + row.reduce((a, b) => a + b, 0), 0);
  return weights.map((row) => row.map((weight) => weight / Math.max(total, Number.MIN_VALUE)));
}

/** Cross-entropy, averaged over the batch. */
export function supervisedJob(experiment: Experiment, records: readonly SupervisedRecord[], lr: number): SupervisedJob {
  const { betas, eps, weightDecay, clip } = experiment.optimizer;
  return {
    kind: "supervised",
    sequences: records.map(({ tokens }) => tokens.ids),
    weights: tokenShares(experiment, records),
    optimizer: { betas, eps, weightDecay, clip, lr },
  };
}
