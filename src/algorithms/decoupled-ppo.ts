/**
 * Decoupled PPO: `sg[min(π_old/μ, bound)] · PPO`, where the clipped ratio is π/π_old and μ is what was really sampled from
 * (Hilton et al., arXiv 2110.00641; AReaL, arXiv 2505.24298). It is PPO with a correction (`correction.ts`) by weights.
 */

import { correct } from "./correction.ts";
import type { Level } from "./levels.ts";
import { type PolicyLossInput, type PolicyLossOutput, type PpoOptions, ppoLoss } from "./policy-loss.ts";

export interface DecoupledPpoOptions extends PpoOptions {
  /** Level of π_old/μ. */
  readonly weight: Level;
  /** Largest π_old/μ that counts. */
  readonly weightBound: number;
}

export function decoupledPpoLoss(input: PolicyLossInput, options: DecoupledPpoOptions): PolicyLossOutput {
  return ppoLoss({ ...input, ...correct(input, options) }, options);
}
