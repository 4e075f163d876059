/** Normalisation of rewards within groups, over the batch or over the run; whitening and clipping of advantages. */

import type { Scope } from "../config/components.ts";
import { clamp, type Numbers } from "./levels.ts";
import { mean, standardDeviation, ZERO_SPREAD } from "./statistics.ts";

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

/** What a statistic is taken over; its spread has the denominator n − 1. */
interface Statistics {
  readonly mean: number;
  readonly spread: number;
}

function statisticsOf(values: readonly number[]): Statistics {
  return { mean: mean(values), spread: standardDeviation(values) };
}

function statisticsOfRun({ count, mean: centre, squares }: RunningMoments): Statistics {
  return { mean: centre, spread: count < 2 ? 0 : Math.sqrt(squares / (count - 1)) };
}

/**
 * `(x − μ) / (σ + 1e-6)` with μ and σ (n − 1) of the group, of the whole batch, or of the run so far (`moments`); `none`
 * leaves one out. The result has the shape of `groups`.
 *
 * | μ | σ | |
 * |---|---|---|
 * | group | group | GRPO, arXiv 2402.03300, section 4.1 |
 * | group | none | REINFORCE with the group's mean as baseline; Dr. GRPO, arXiv 2503.20783 |
 * | batch | batch | REINFORCE++, arXiv 2501.03262; ours has no KL term inside the reward |
 * | group | batch | Lite PPO, arXiv 2508.08221: a group that is nearly solved is not blown up |
 *
 * ROLL's `reward_normalization`. Ours is exactly 0 wherever what μ or σ is taken over has no spread (≤ 1e-6), a group of one
 * included, so that episodes that cannot be told apart can be left out.
 */
export function normalizeRewards(
  groups: readonly (readonly number[])[],
  options: { readonly mean: Scope; readonly spread: Scope },
  moments: RunningMoments = NO_MOMENTS,
): number[][] {
  const all = statisticsOf(groups.flat());
  const over = (scope: Scope, group: readonly number[]): Statistics | undefined =>
    ({
      group: () => statisticsOf(group),
      batch: () => all,
      running: () => statisticsOfRun(moments),
      none: () => undefined,
    })[scope]();
  return groups.map((rewards) => {
    const centre = over(options.mean, rewards);
    const scale = over(options.spread, rewards);
    if ([centre, scale].some((part) => part !== undefined && part.spread <= ZERO_SPREAD)) return rewards.map(() => 0);
    return rewards.map(
      (reward) => (reward - (centre?.mean ?? 0)) / (scale === undefined ? 1 : scale.spread + ZERO_SPREAD),
    );
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

/**
 * `(x − μ) / sqrt(σ² + 1e-8)` over the masked entries of a batch, variance with n − 1; `shiftMean = false` keeps the mean.
 * 0 outside of the masks; fewer than two masked entries stay as they are. Entries that are all equal (spread ≤ 1e-6) leave
 * no trace of rounding, which the division would blow up.
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
  const spread = standardDeviation(entries);
  const isFlat = !isOff && spread <= ZERO_SPREAD;
  const scale = isOff ? 1 : isFlat ? Number.POSITIVE_INFINITY : Math.sqrt(spread ** 2 + 1e-8);
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
