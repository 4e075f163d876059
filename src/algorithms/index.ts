/** `algorithm.type` → advantages and loss: the only place that knows which algorithms exist. */

import type { AlgorithmConfig } from "../config/experiment.ts";
import { grpoAdvantages } from "./grpo.ts";
import { type PolicyLossInput, type PolicyLossOutput, ppoLoss, vanillaLoss } from "./policy-loss.ts";
import { reinforceAdvantages } from "./reinforce.ts";

/** Rewards of each group → one advantage per episode, in the same shape. */
export function episodeAdvantages(algorithm: AlgorithmConfig, groups: readonly (readonly number[])[]): number[][] {
  switch (algorithm.type) {
    case "grpo":
      return groups.map((rewards) => grpoAdvantages(rewards, algorithm));
    case "reinforce":
      return reinforceAdvantages(groups, algorithm);
  }
}

/** Loss of one trajectory; `tokens` counts the response tokens of the whole minibatch. */
export function policyLoss(algorithm: AlgorithmConfig, input: PolicyLossInput, tokens: number): PolicyLossOutput {
  switch (algorithm.type) {
    case "grpo":
      return ppoLoss(input, { clip: algorithm.clip, tokens });
    case "reinforce":
      return vanillaLoss(input, { tokens });
  }
}
