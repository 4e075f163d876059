/** Normalisation of rewards within groups, over the batch or over the run; whitening and clipping of advantages. */

import { clamp, type Numbers } from "./levels.ts";
import { mean, standardDeviation, ZERO_SPREAD } from "./statistics.ts";

/** Over what a mean or a spread is taken; `none` leaves it out. */
export type Scope = "group" | "batch" | "none";

/**
 * `(x − μ) / (σ + 1e-6)` with μ and σ (n − 1) of the group or of the whole batch; the result has the shape of `groups`.
 *
 * ROLL's `reward_normalization`. Where a spread is asked for, a spread ≤ 1e-6 and a group of one give exactly 0.
 */
export function normalizeRewards(
  groups: readonly (readonly number[])[],
  options: { readonly mean: Scope; readonly spread: Scope },
): number[][] {
  const all = groups.flat();
  const over = (scope: Scope, rewards: readonly number[], statistic: (values: readonly number[]) => number) =>
    scope === "none" ? 0 : statistic(scope === "group" ? rewards : all);
  return groups.map((rewards) => {
    const centre = over(options.mean, rewards, mean);
    if (options.spread === "none") return rewards.map((reward) => reward - centre);
    const spread = over(options.spread, rewards, standardDeviation);
    const hasSignal = rewards.length > 1 && spread > ZERO_SPREAD;
    return rewards.map((reward) => (hasSignal ? (reward - centre) / (spread + ZERO_SPREAD) : 0));
  });
}

/** Applies `advantages` to the values of each key; the result is in the order of `values`. */
export function byKey(
  values: readonly number[],
  keys: readonly string[],
  advantages: (groups: number[][]) => readonly (readonly number[])[],
): number[] {
  const members = new Map<string, number[]>();
  keys.forEach((key, i) => {
    members.set(key, [...(members.get(key) ?? []), i]);
  });
  const groups = [...members.values()];
  const results = advantages(groups.map((ids) => ids.map((i) => values[i] as number)));
  const flat = new Array<number>(values.length).fill(0);
  groups.forEach((ids, g) => {
    ids.forEach((i, k) => {
      flat[i] = results[g]?.[k] as number;
    });
  });
  return flat;
}

/** Count, mean and sum of squared deviations of everything seen so far. */
export interface RunningMoments {
  readonly count: number;
  readonly mean: number;
  readonly squares: number;
}

export const NO_MOMENTS: RunningMoments = { count: 0, mean: 0, squares: 0 };

/** Moments with `values` added (Welford 1962, doi 10.1080/00401706.1962.10490022). */
export function addMoments(moments: RunningMoments, values: readonly number[]): RunningMoments {
  let { count, mean: centre, squares } = moments;
  for (const value of values) {
    count++;
    const before = value - centre;
    centre += before / count;
    squares += before * (value - centre);
  }
  return { count, mean: centre, squares };
}

/** `(x − μ) / (σ + 1e-6)` with the moments of the run so far; 0 while they have no spread. */
export function normalizeRunning(rewards: readonly number[], moments: RunningMoments): number[] {
  const spread = moments.count < 2 ? 0 : Math.sqrt(moments.squares / (moments.count - 1));
  return rewards.map((reward) => (spread > ZERO_SPREAD ? (reward - moments.mean) / (spread + ZERO_SPREAD) : 0));
}

/**
 * `(x − μ) / sqrt(σ² + 1e-8)` over the masked entries of a batch, variance with n − 1; `shiftMean = false` keeps the mean.
 * 0 outside of the masks; fewer than two masked entries stay as they are.
 */
export function whiten(
  rows_B: readonly Numbers[],
  masks_B: readonly Numbers[],
  { shiftMean = true }: { readonly shiftMean?: boolean } = {},
): Float64Array[] {
  const entries: number[] = [];
  rows_B.forEach((row_T, i) => {
    for (let t = 0; t < row_T.length; t++) if (masks_B[i]?.[t] === 1) entries.push(row_T[t] as number);
  });
  const isOff = entries.length < 2;
  const centre = isOff ? 0 : mean(entries);
  const scale = isOff ? 1 : Math.sqrt(standardDeviation(entries) ** 2 + 1e-8);
  const shift = shiftMean ? 0 : centre;
  return rows_B.map((row_T, i) =>
    Float64Array.from(row_T, (value, t) => (masks_B[i]?.[t] === 1 ? (value - centre) / scale + shift : 0)),
  );
}

/** Advantages held within [−limit, limit], and how many of them lay outside. */
export function clipAdvantages(
  row_T: Numbers,
  limit: number,
): { readonly advantages_T: Float64Array; readonly clipped: number } {
  let clipped = 0;
  const advantages_T = Float64Array.from(row_T, (value) => {
    if (Math.abs(value) > limit) clipped++;
    return clamp(value, -limit, limit);
  });
  return { advantages_T, clipped };
}
