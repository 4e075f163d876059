/** How far an update has moved the probabilities of its tokens when each of its minibatches begins, whatever the loss makes of it. */

import { type PolicyLossInput, policyRatios } from "../algorithms/policy-loss.ts";
import type { Composition } from "../config/composition.ts";

type Tokens = Pick<
  PolicyLossInput,
  "logprobs_T" | "behaviour_T" | "proximal_T" | "advantages_T" | "mask_T" | "turnIds_T"
>;

/** Ratios π/π_old, at the level of the clipped surrogate where that is the loss, else token by token. Names are ROLL's and verl's. */
export class RatioMeter {
  readonly #algorithm: Pick<Composition, "loss" | "ratio" | "clip" | "clipHigh" | "dualClip">;
  #tokens = 0;
  #logRatios = 0;
  #ratios = 0;
  #max = Number.NEGATIVE_INFINITY;
  #min = Number.POSITIVE_INFINITY;
  #high = 0;
  #low = 0;
  #bounded = 0;

  constructor(algorithm: Pick<Composition, "loss" | "ratio" | "clip" | "clipHigh" | "dualClip">) {
    this.#algorithm = algorithm;
  }

  /** Adds a sequence. */
  add(input: Tokens): void {
    const { loss, ratio, clip, clipHigh = clip, dualClip } = this.#algorithm;
    const ratio_T = policyRatios(input, loss === "ppo" ? ratio : "token");
    const old_T = input.proximal_T ?? input.behaviour_T;
    for (let t = 0; t < ratio_T.length; t++) {
      if (input.mask_T[t] !== 1) continue;
      const value = ratio_T[t] as number;
      this.#tokens++;
      this.#logRatios += (input.logprobs_T[t] as number) - (old_T[t] as number);
      this.#ratios += value;
      this.#max = Math.max(this.#max, value);
      this.#min = Math.min(this.#min, value);
      if (value > 1 + clipHigh) this.#high++;
      if (value < 1 - clip) this.#low++;
      if (dualClip !== undefined && (input.advantages_T[t] as number) < 0 && value > dualClip) this.#bounded++;
    }
  }

  /** Nothing where no token was added; shares of tokens beyond the bounds only where the loss has some. */
  metrics(): Record<string, number> {
    const tokens = this.#tokens;
    if (tokens === 0) return {};
    const { loss, dualClip } = this.#algorithm;
    return {
      "actor/policykl": this.#logRatios / tokens,
      "actor/ratio_mean": this.#ratios / tokens,
      "actor/ratio_max": this.#max,
      "actor/ratio_min": this.#min,
      ...(loss === "ppo" && {
        "actor/ppo_ratio_clipfrac": (this.#high + this.#low) / tokens,
        "actor/ppo_ratio_high_clipfrac": this.#high / tokens,
        "actor/ppo_ratio_low_clipfrac": this.#low / tokens,
      }),
      ...(loss === "ppo" && dualClip !== undefined && { "actor/pg_clipfrac_lower": this.#bounded / tokens }),
    };
  }
}
