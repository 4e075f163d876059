/**
 * GiGPO: `A = w_episode A^E + w_step A^S` (Feng et al., arXiv 2505.10978). A^E normalises the episode's score
 * within its trajectory group; A^S normalises the discounted step return among the steps of the group that started from
 * the same state.
 *
 * Ours counts each trajectory once in the statistics of A^E (`episodeStatistics = "trajectory"`). ROLL counts it once per
 * step, so that long trajectories weigh more (`"sample"`). States of different groups are never mixed. A state seen once
 * has A^S = 0.
 */

import { byKey, normalizeRewards } from "./normalization.ts";
import { type StepSample, stepReturns } from "./step-reinforce.ts";

export interface GigpoSample extends StepSample {
  readonly group: string;
  /** Key of the state the step started from. */
  readonly state: string;
  readonly episodeScore: number;
}

export interface GigpoOptions {
  readonly discount: number;
  readonly episodeWeight: number;
  readonly stepWeight: number;
  /** Divide by the standard deviation, or only subtract the mean. */
  readonly normalizeStd: boolean;
  readonly episodeStatistics: "trajectory" | "sample";
}

/** One element per sample, in their order. */
export interface GigpoAdvantages {
  readonly returns: number[];
  readonly episode: number[];
  readonly step: number[];
  readonly advantages: number[];
}

export function gigpoAdvantages(samples: readonly GigpoSample[], options: GigpoOptions): GigpoAdvantages {
  const spread = options.normalizeStd ? "group" : "none";
  const normalize = (groups: number[][]) => normalizeRewards(groups, { mean: "group", spread });
  const returns = stepReturns(samples, options.discount);
  const step = byKey(
    returns,
    samples.map(({ group, state }) => JSON.stringify([group, state])),
    normalize,
  );
  const episode = episodeAdvantages(samples, options, normalize);
  const advantages = samples.map(
    (_, i) => options.episodeWeight * (episode[i] as number) + options.stepWeight * (step[i] as number),
  );
  return { returns, episode, step, advantages };
}

function episodeAdvantages(
  samples: readonly GigpoSample[],
  { episodeStatistics }: GigpoOptions,
  normalize: (groups: number[][]) => number[][],
): number[] {
  const counted =
    episodeStatistics === "sample"
      ? samples
      : [...new Map(samples.map((sample) => [sample.trajectory, sample])).values()];
  const advantages = byKey(
    counted.map((sample) => sample.episodeScore),
    counted.map((sample) => sample.group),
    normalize,
  );
  if (episodeStatistics === "sample") return advantages;
  const ofTrajectory = new Map(counted.map((sample, i) => [sample.trajectory, advantages[i] as number]));
  return samples.map((sample) => ofTrajectory.get(sample.trajectory) as number);
}
