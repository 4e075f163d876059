/**
 * Generalised advantage estimation: `δ_t = r_t + γ V_{t+1} − V_t`, `A_t = δ_t + γ λ A_{t+1}`, return `A_t + V_t`, with
 * V = 0 after the end (Schulman et al., arXiv 1506.02438).
 *
 * `gae` runs over all positions, as ROLL does: a discount is paid for observation tokens too. `compactGae` runs over model
 * tokens only, which makes the result independent of how long observations are; prefer it for agents.
 */

import type { Numbers } from "./levels.ts";

export interface GaeInput {
  readonly rewards_T: Numbers;
  readonly values_T: Numbers;
  readonly mask_T: Numbers;
}

export interface GaeOptions {
  readonly discount: number;
  readonly lambda: number;
}

export interface GaeResult {
  readonly advantages_T: Float64Array;
  readonly returns_T: Float64Array;
}

/** Over all positions; results are 0 outside of the mask. */
export function gae(input: GaeInput, options: GaeOptions): GaeResult {
  const positions = Array.from({ length: input.mask_T.length }, (_, t) => t);
  return estimate(input, options, positions);
}

/** Over the positions of the mask, as if the others were not there. */
export function compactGae(input: GaeInput, options: GaeOptions): GaeResult {
  const positions = Array.from({ length: input.mask_T.length }, (_, t) => t).filter((t) => input.mask_T[t] === 1);
  return estimate(input, options, positions);
}

function estimate(
  { rewards_T, values_T, mask_T }: GaeInput,
  { discount, lambda }: GaeOptions,
  positions: readonly number[],
): GaeResult {
  const advantages_T = new Float64Array(mask_T.length);
  const returns_T = new Float64Array(mask_T.length);
  let nextValue = 0;
  let advantage = 0;
  for (const t of positions.toReversed()) {
    const value = values_T[t] as number;
    const reward = mask_T[t] === 1 ? (rewards_T[t] as number) : 0;
    advantage = reward + discount * nextValue - value + discount * lambda * advantage;
    nextValue = value;
    if (mask_T[t] !== 1) continue;
    advantages_T[t] = advantage;
    returns_T[t] = advantage + value;
  }
  return { advantages_T, returns_T };
}
