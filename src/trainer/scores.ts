/** What each episode of a step is worth: the half of credit assignment that needs no model. */

import { estimateAdvantages, finishAdvantages, shapeRewards } from "../algorithms/estimators.ts";
import { countOnes } from "../algorithms/levels.ts";
import { addMoments, NO_MOMENTS, type RunningMoments } from "../algorithms/normalization.ts";
import { difficultyWeight, lengthWeights } from "../algorithms/sample-weights.ts";
import { type Composition, hasCritic } from "../config/composition.ts";
import type { Group, Trajectory } from "../core/types.ts";

export interface EpisodeScore {
  readonly trajectory: Trajectory;
  /** Position of its group. */
  readonly group: number;
  readonly shapedReward: number;
  /** Of each token, 0 outside of the mask; all 0 where only the update can tell. */
  readonly advantages_T: Float32Array;
  /** Whether the update can learn anything from it. */
  readonly hasSignal: boolean;
  /** In the loss, beside 1. */
  readonly weight: number;
}

export interface Scores {
  readonly episodes: readonly EpisodeScore[];
  /** Moments with this step's rewards; only with running normalisation. */
  readonly rewardMoments?: RunningMoments;
}

/**
 * Scores the episodes of a step, in the order of `groups`.
 * @param isPenalised a divergence is taken off the rewards later, so no advantage is known yet.
 * @param before moments that the last step left.
 */
export function scoreEpisodes(
  settings: Composition,
  groups: readonly Group[],
  isPenalised: boolean,
  before: RunningMoments = NO_MOMENTS,
): Scores {
  const rewards = groups.map(({ trajectories }) => trajectories.map(({ reward }) => reward));
  const isRunning = settings.normMean === "running" || settings.normStd === "running";
  const moments = isRunning ? addMoments(before, rewards.flat()) : undefined;
  const shaped = shapeRewards(settings, rewards, moments).flat();
  const isLater = isPenalised || hasCritic(settings);
  const advantages = isLater ? undefined : advantagesOf(settings, groups, moments);
  const weights = weightsOf(settings, groups);
  const members = groups.flatMap(({ trajectories }, group) =>
    trajectories.map((trajectory) => ({ trajectory, group })),
  );
  const episodes = members.map(({ trajectory, group }, i) => {
    const advantages_T = Float32Array.from(advantages?.[i] ?? new Float32Array(trajectory.tokens.ids.length));
    const hasSignal = isLater || advantages_T.some((advantage) => advantage !== 0);
    const weight = weights[i] as number;
    return { trajectory, group, shapedReward: shaped[i] as number, advantages_T, hasSignal, weight };
  });
  return { episodes, ...(moments && { rewardMoments: moments }) };
}

function advantagesOf(settings: Composition, groups: readonly Group[], moments: RunningMoments | undefined) {
  const scored = groups.map(({ trajectories }) =>
    trajectories.map(({ tokens: { ids, mask, turnIds }, reward }) => ({
      ...{ ids_T: ids, mask_T: mask, turnIds_T: turnIds, reward },
    })),
  );
  const masks = scored.flat().map(({ mask_T }) => mask_T);
  return finishAdvantages(settings, estimateAdvantages(settings, scored, moments).flat(), masks);
}

function weightsOf(
  { lengthWeight, difficultyWeight: isByDifficulty }: Composition,
  groups: readonly Group[],
): number[] {
  const lengths = groups.flatMap(({ trajectories }) => trajectories.map(({ tokens }) => countOnes(tokens.mask)));
  const byLength = lengthWeight ? lengthWeights(lengths) : lengths.map(() => 1);
  const byDifficulty = groups.flatMap(({ trajectories }) => {
    const weight = isByDifficulty ? difficultyWeight(trajectories.map(({ reward }) => reward)) : 1;
    return trajectories.map(() => weight);
  });
  return byLength.map((weight, i) => weight * (byDifficulty[i] as number));
}
