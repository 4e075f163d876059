/** How far two computations of the same log-probabilities are apart. */

/** Differences Δ = log p(training) − log p(generation) over some tokens. */
export interface DifferenceSummary {
  readonly tokens: number;
  /** max |Δ|. */
  readonly max: number;
  /**
   * max |Δ| / max(1, |log p|): rounding errors of log p grow with the logits, so those of a token that is nearly impossible are
   * large without anything being wrong.
   */
  readonly scaledMax: number;
  /** mean |Δ|. */
  readonly mean: number;
  /** Estimate of KL(generation ‖ training): the mean of e^Δ − 1 − Δ (Schulman, http://joschu.net/blog/kl-approx.html, k3). */
  readonly kl: number;
}

/** Sums up differences. NaN is kept, whatever else comes. */
export class Differences {
  #tokens = 0;
  #max = 0;
  #scaledMax = 0;
  #absolute = 0;
  #kl = 0;

  add(training: number, generation: number): void {
    const delta = training - generation;
    this.#tokens++;
    this.#max = Math.max(this.#max, Math.abs(delta));
    this.#scaledMax = Math.max(this.#scaledMax, Math.abs(delta) / Math.max(1, -training));
    this.#absolute += Math.abs(delta);
    // expm1 keeps the digits that e^Δ − 1 loses
    this.#kl += Math.expm1(delta) - delta;
  }

  summary(): DifferenceSummary {
    const count = Math.max(1, this.#tokens);
    return {
      ...{ tokens: this.#tokens, max: this.#max, scaledMax: this.#scaledMax },
      ...{ mean: this.#absolute / count, kl: this.#kl / count },
    };
  }
}

/** One summary of several, over all their tokens. */
export function mergeSummaries(parts: readonly DifferenceSummary[]): DifferenceSummary {
  const tokens = parts.reduce((sum, part) => sum + part.tokens, 0);
  const mean = (key: "mean" | "kl") =>
    parts.reduce((sum, part) => sum + part[key] * part.tokens, 0) / Math.max(1, tokens);
  const largest = (key: "max" | "scaledMax") => Math.max(0, ...parts.map((part) => part[key]));
  return { tokens, max: largest("max"), scaledMax: largest("scaledMax"), mean: mean("mean"), kl: mean("kl") };
}
