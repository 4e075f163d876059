/** `algorithm.type` → advantages and loss: the only place that knows which algorithms exist. */

import type { AlgorithmConfig } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import type { Denominators } from "./aggregation.ts";
import { denseTurnIds } from "./chunks.ts";
import { cispoLoss } from "./cispo.ts";
import { grpoAdvantages } from "./grpo.ts";
import { gspoLoss } from "./gspo.ts";
import { ipaFinalRewards, ipaLoss, ipaReturns } from "./ipa.ts";
import type { TokenPlaces } from "./levels.ts";
import { litePpoAdvantages } from "./lite-ppo.ts";
import { type PolicyLossInput, type PolicyLossOutput, ppoLoss, vanillaLoss } from "./policy-loss.ts";
import { reinforceAdvantages } from "./reinforce.ts";
import { reinforcePlusPlusAdvantages } from "./reinforce-plus-plus.ts";
import { rlooAdvantages } from "./rloo.ts";
import { tisLoss } from "./tis.ts";
import { toprLoss } from "./topr.ts";

/** Rewards of each group → one advantage per episode, in the same shape. */
export function episodeAdvantages(algorithm: AlgorithmConfig, groups: readonly (readonly number[])[]): number[][] {
  switch (algorithm.type) {
    case "grpo":
    case "topr":
    case "tis":
    case "cispo":
    case "gspo":
      return groups.map((rewards) => grpoAdvantages(rewards, algorithm));
    case "reinforce":
      return reinforceAdvantages(groups, algorithm);
    case "ppo":
      // A critic tells tokens apart (`trainer/credit.ts`); what an episode has is its reward.
      return groups.map((rewards) => [...rewards]);
    case "rloo":
      return groups.map(rlooAdvantages);
    case "reinforce_plus_plus":
      return reinforcePlusPlusAdvantages(groups);
    case "lite_ppo":
      return litePpoAdvantages(groups);
    case "ipa":
      return ipaFinalRewards(groups, algorithm.failure);
  }
}

/** Advantage of an episode → advantage of each of its tokens. Only `ipa` tells tokens apart, by their turns. */
export function tokenAdvantages(algorithm: AlgorithmConfig, advantage: number, places: TokenPlaces): Float32Array {
  if (algorithm.type !== "ipa") return new Float32Array(places.mask_T.length).fill(advantage);
  if (places.turnIds_T === undefined) throw new AleError("internal", "ipa needs the turn of each token");
  return Float32Array.from(ipaReturns(advantage, denseTurnIds(places.turnIds_T), algorithm.discount));
}

/**
 * Does the loss tell the training engine's probabilities under the weights that were sampled from (`proximal_T`) from those
 * of the generating engine?
 */
export function needsProximal(algorithm: AlgorithmConfig): boolean {
  return algorithm.type === "ipa";
}

/** As `PolicyLossOutput`, with weights as the engine takes them. */
export type TrainerLoss = Omit<PolicyLossOutput, "weights_T"> & { readonly weights_T: Float32Array };

/** Loss of one trajectory; `denominators` count the response masks of the whole minibatch. */
export function policyLoss(
  algorithm: AlgorithmConfig,
  input: PolicyLossInput,
  denominators: Denominators,
): TrainerLoss {
  const output = float64Loss(algorithm, input, denominators);
  return { ...output, weights_T: Float32Array.from(output.weights_T) };
}

function float64Loss(algorithm: AlgorithmConfig, input: PolicyLossInput, denominators: Denominators): PolicyLossOutput {
  const options = { ...algorithm, ...denominators };
  switch (options.type) {
    case "reinforce":
      return vanillaLoss(input, options);
    case "grpo":
    case "ppo":
    case "rloo":
    case "reinforce_plus_plus":
    case "lite_ppo":
      return ppoLoss(input, options);
    case "topr":
      return toprLoss(input, options);
    case "tis":
      return tisLoss(input, options);
    case "cispo":
      return cispoLoss(input, options);
    case "gspo":
      return gspoLoss(input, options);
    case "ipa":
      return ipaLoss(input, { ...options, positives: "advantage" });
  }
}
