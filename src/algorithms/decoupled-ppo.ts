/**
 * Decoupled PPO: `sg[min(π_old/μ, bound)] · PPO`, where the clipped ratio is π/π_old and μ is what was really sampled from
 * (Hilton et al., arXiv 2110.00641; AReaL, arXiv 2505.24298). Corrects for stale weights and for the difference
 * between the generating and the training engine. The truncated importance weights of ROLL's `train_infer_correction`.
 */

import { AleError } from "../core/errors.ts";
import type { Level } from "./levels.ts";
import { importanceWeights, mismatchRatios } from "./mismatch.ts";
import { type PolicyLossInput, type PolicyLossOutput, type PpoOptions, ppoLoss } from "./policy-loss.ts";

export interface DecoupledPpoOptions extends PpoOptions {
  /** Level of π_old/μ. */
  readonly weight: Level;
  /** Largest π_old/μ that counts. */
  readonly weightBound: number;
}

export function decoupledPpoLoss(input: PolicyLossInput, options: DecoupledPpoOptions): PolicyLossOutput {
  const { proximal_T, behaviour_T } = input;
  if (proximal_T === undefined) throw new AleError("internal", "decoupled PPO needs the proximal log-probabilities");
  const ratio_T = mismatchRatios({ ...input, proximal_T, behaviour_T }, options.weight);
  return ppoLoss(input, { ...options, factors_T: importanceWeights(ratio_T, options.weightBound) });
}
