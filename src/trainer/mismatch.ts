/**
 * How far generation's log-probabilities are from training's, in three measures that are never added up, because they have
 * different causes. Each sampled token counts in exactly one of them, by who computed what it was sampled from:
 *
 * - *parity*: sampled by the weights that training starts from, with a cache those weights computed. Any difference is an
 *   error of computation.
 * - *cache mix*: sampled by those weights, but over cache entries of older ones (`kvOldest` < version). The difference to
 *   training's forward pass, which computes everything anew, is what keeping or not yet recomputing a cache costs.
 * - *staleness*: sampled by older weights. The ratio π(training) / π(sampling) is what off-policy corrections act on.
 */

import { AleError } from "../core/errors.ts";
import { type DifferenceSummary, Differences } from "../policy/generation/differences.ts";
import { Agreement } from "./agreement.ts";

/** Importance ratios e^Δ over some tokens. */
export interface RatioSummary {
  readonly tokens: number;
  readonly mean: number;
  readonly max: number;
}

export interface Mismatch {
  readonly parity: DifferenceSummary;
  readonly cacheMix: DifferenceSummary;
  readonly staleness: RatioSummary;
}

/** Bounds on parity; 0 turns one off. */
export interface ParityLimits {
  readonly max: number;
  readonly mean: number;
  readonly kl: number;
}

/** What a token was sampled from; arrays are per sequence and token. */
export interface SampledBy {
  readonly masks: readonly Uint8Array[];
  /** Log-probabilities at training's temperature, before truncation and penalty. */
  readonly generation: readonly Float32Array[];
  readonly versions: readonly Int32Array[];
  readonly kvOldest: readonly Int32Array[];
}

export class MismatchMeter {
  readonly #version: number;
  readonly #sampled: SampledBy;
  readonly #parity = new Differences();
  readonly #cacheMix = new Differences();
  readonly #agreement = new Agreement();
  #stale = 0;
  #ratios = 0;
  #largest = 0;

  /** @param version of the weights that training starts from. */
  constructor(version: number, sampled: SampledBy) {
    this.#version = version;
    this.#sampled = sampled;
  }

  /** Adds training's log-probabilities of sequence `index`, under the weights that training starts from. */
  add(index: number, training_T: Float32Array): void {
    const { masks, generation, versions, kvOldest } = this.#sampled;
    const mask_T = masks[index] ?? new Uint8Array(0);
    this.#agreement.add(training_T, generation[index] ?? [], mask_T);
    for (const [t, bit] of mask_T.entries()) {
      if (bit === 0) continue;
      const training = training_T[t] as number;
      const sampled = generation[index]?.[t] as number;
      if (versions[index]?.[t] !== this.#version) this.#addRatio(Math.exp(training - sampled));
      else if (kvOldest[index]?.[t] === this.#version) this.#parity.add(training, sampled);
      else this.#cacheMix.add(training, sampled);
    }
  }

  summary(): Mismatch {
    return {
      parity: this.#parity.summary(),
      cacheMix: this.#cacheMix.summary(),
      staleness: { tokens: this.#stale, mean: this.#ratios / Math.max(1, this.#stale), max: this.#largest },
    };
  }

  /** All of the tokens together, in the measures of other trainers. */
  agreement(): Record<string, number> {
    return this.#agreement.metrics();
  }

  #addRatio(ratio: number): void {
    this.#stale++;
    this.#ratios += ratio;
    this.#largest = Math.max(this.#largest, ratio);
  }
}

export const NO_MISMATCH: Mismatch = new MismatchMeter(0, {
  masks: [],
  generation: [],
  versions: [],
  kvOldest: [],
}).summary();

/** @throws AleError("engine") naming the limit that is passed; `where` says what was compared. */
export function checkParity(parity: Omit<DifferenceSummary, "tokens">, limits: ParityLimits, where: string): void {
  for (const [name, value, limit, setting] of [
    ["max |Δ log p| / max(1, |log p|)", parity.scaledMax, limits.max, "parityLimit"],
    ["mean |Δ log p|", parity.mean, limits.mean, "parityMeanLimit"],
    ["KL", parity.kl, limits.kl, "parityKlLimit"],
  ] as const) {
    if (limit === 0 || value <= limit) continue;
    throw new AleError(
      "engine",
      `generation and training disagree: ${name} = ${value.toExponential(2)} > ${limit} for the same weights (${where})`,
      { hint: `this is a fault of the engine, not of the run; report it, or raise trainer.${setting} to go on` },
    );
  }
}

/** Rows of a step's metrics; the last two measures only where there are such tokens. */
export function mismatchMetrics({ parity, cacheMix, staleness }: Mismatch): Record<string, number> {
  return {
    "rollout_corr/logprob_abs_diff_max": parity.max,
    "rollout_corr/logprob_abs_diff_mean": parity.mean,
    "rollout_corr/kl": parity.kl,
    "rollout_corr/cache_mix/tokens": cacheMix.tokens,
    "rollout_corr/staleness/tokens": staleness.tokens,
    ...(cacheMix.tokens > 0 && {
      "rollout_corr/cache_mix/abs_diff_max": cacheMix.max,
      "rollout_corr/cache_mix/abs_diff_mean": cacheMix.mean,
      "rollout_corr/cache_mix/kl": cacheMix.kl,
    }),
    ...(staleness.tokens > 0 && {
      "rollout_corr/staleness/ratio_mean": staleness.mean,
      "rollout_corr/staleness/ratio_max": staleness.max,
    }),
  };
}
