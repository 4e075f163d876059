/** The loss an experiment asks for; which advantages it works on is `estimators.ts`. */

import type { Composition } from "../config/composition.ts";
import type { Denominators } from "./aggregation.ts";
import { cispoLoss } from "./cispo.ts";
import { gspoLoss } from "./gspo.ts";
import { ipaLoss } from "./ipa.ts";
import { kimiLoss } from "./kimi.ts";
import { type PolicyLossInput, type PolicyLossOutput, ppoLoss, vanillaLoss } from "./policy-loss.ts";
import { tisLoss } from "./tis.ts";
import { toprLoss } from "./topr.ts";

/** As `PolicyLossOutput`, with weights as the engine takes them. */
export type TrainerLoss = Omit<PolicyLossOutput, "weights_T"> & { readonly weights_T: Float32Array };

/** Loss of one trajectory; `denominators` count the response masks of the whole minibatch. */
export function policyLoss(settings: Composition, input: PolicyLossInput, denominators: Denominators): TrainerLoss {
  const output = float64Loss(settings, input, denominators);
  return { ...output, weights_T: Float32Array.from(output.weights_T) };
}

function float64Loss(settings: Composition, input: PolicyLossInput, denominators: Denominators): PolicyLossOutput {
  const options = { ...settings, ...denominators };
  const { clipLow, clipHigh = clipLow } = settings;
  switch (settings.loss) {
    case "vanilla":
      return vanillaLoss(input, options);
    case "ppo":
      return ppoLoss(input, options);
    case "topr":
      return toprLoss(input, options);
    case "tis":
      return tisLoss(input, options);
    case "cispo":
      return cispoLoss(input, { ...options, clipHigh });
    case "kimi":
      return kimiLoss(input, options);
    case "gspo":
      return gspoLoss(input, { ...options, clipHigh });
    case "ipa":
      return ipaLoss(input, options);
  }
}
