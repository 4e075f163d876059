/**
 * What training's and generation's log-probabilities make of all sampled tokens, whoever sampled them, in the measures that verl
 * (`rollout_corr_helper.py`, `debug/metrics.py`) and prime-rl draw. By what they differ is told apart in `mismatch.ts`.
 */
export class Agreement {
  #sequences = 0;
  /** Sums over sequences of what becomes of their mean log-probabilities. */
  readonly #perplexity = { training: 0, rollout: 0, logDifference: 0, ratio: 0 };
  readonly #kl = new Moments();
  readonly #differences = new Moments();
  readonly #trainingProbs = new Moments();
  readonly #rolloutProbs = new Moments();
  #products = 0;

  /** Adds a sequence; tokens count where the mask is 1. */
  add(training_T: ArrayLike<number>, rollout_T: ArrayLike<number>, mask_T: ArrayLike<number>): void {
    let [tokens, training, rollout] = [0, 0, 0];
    for (let t = 0; t < mask_T.length; t++) {
      if (mask_T[t] !== 1) continue;
      const [own, given] = [training_T[t] as number, rollout_T[t] as number];
      tokens++;
      training += own;
      rollout += given;
      this.#kl.add(Math.expm1(own - given) - (own - given));
      const [p, q] = [Math.exp(own), Math.exp(given)];
      this.#differences.add(Math.abs(p - q));
      this.#trainingProbs.add(p);
      this.#rolloutProbs.add(q);
      this.#products += p * q;
    }
    if (tokens === 0) return;
    const difference = (rollout - training) / tokens;
    this.#sequences++;
    this.#perplexity.training += Math.exp(-training / tokens);
    this.#perplexity.rollout += Math.exp(-rollout / tokens);
    this.#perplexity.logDifference += difference;
    this.#perplexity.ratio += Math.exp(difference);
  }

  /** Nothing where no token was added; neither spreads nor a correlation where there is none. */
  metrics(): Record<string, number> {
    if (this.#sequences === 0) return {};
    const perSequence = (sum: number) => sum / this.#sequences;
    const { training, rollout, logDifference, ratio } = this.#perplexity;
    const correlation = this.#correlation();
    return {
      "rollout_corr/training_ppl": perSequence(training),
      "rollout_corr/rollout_ppl": perSequence(rollout),
      "rollout_corr/log_ppl_diff": perSequence(logDifference),
      "rollout_corr/ppl_ratio": perSequence(ratio),
      "rollout_corr/k3_kl": this.#kl.mean,
      "rollout_corr/k3_kl_max": this.#kl.max,
      "training/rollout_probs_diff_mean": this.#differences.mean,
      "training/rollout_probs_diff_max": this.#differences.max,
      ...(this.#kl.count > 1 && {
        "rollout_corr/k3_kl_std": this.#kl.deviation,
        "training/rollout_probs_diff_std": this.#differences.deviation,
      }),
      ...(Number.isFinite(correlation) && { "training/rollout_actor_probs_pearson_corr": correlation }),
    };
  }

  /** Pearson's, of the probabilities of the tokens; not finite where one side has no spread. */
  #correlation(): number {
    const [p, q] = [this.#trainingProbs, this.#rolloutProbs];
    const covariance = this.#products / p.count - p.mean * q.mean;
    const spread = (p.deviation * q.deviation * (p.count - 1)) / p.count;
    return spread > 0 ? Math.min(1, Math.max(-1, covariance / spread)) : Number.NaN;
  }
}

/** Mean, largest and standard deviation (n − 1) of values, one pass (Welford). */
class Moments {
  count = 0;
  mean = 0;
  max = Number.NEGATIVE_INFINITY;
  #squares = 0;

  add(value: number): void {
    this.count++;
    const before = value - this.mean;
    this.mean += before / this.count;
    this.#squares += before * (value - this.mean);
    this.max = Math.max(this.max, value);
  }

  get deviation(): number {
    return Math.sqrt(this.#squares / (this.count - 1));
  }
}
