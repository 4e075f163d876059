/**
 * From the rewards of a step's episodes to the advantage of every token the policy wrote, as the components of an experiment
 * say: normalise → clip → estimate, and then whiten → clip.
 *
 * | estimator | before normalisation | advantage of a token in turn k of K |
 * |---|---|---|
 * | `grpo`, `reinforce_plus_plus`, `lite_ppo` | R | R̃; they differ in what they normalise by |
 * | `reinforce` | R | γ^(tokens after it) R̃ |
 * | `rloo` | | R − mean of the others |
 * | `ipa` | R, or ±1 | γ^(K−1−k) R̃ |
 * | `step_reinforce` | γ^(K−1−k) R of each turn | the normalised return of its turn |
 * | `gigpo` | | episode's and step's advantage, weighted (`gigpo.ts`) |
 *
 * `gae` needs values: `shapeRewards` is its first half, `trainer/credit.ts` the second.
 */

import type { Composition } from "../config/composition.ts";
import { AleError } from "../core/errors.ts";
import { countChunks, denseTurnIds } from "./chunks.ts";
import { compactGae } from "./gae.ts";
import { type GigpoSample, gigpoAdvantages } from "./gigpo.ts";
import { ipaReturns, signedRewards } from "./ipa.ts";
import { clamp, type Numbers, type TokenPlaces } from "./levels.ts";
import { byKey, clipAdvantages, normalizeRewards, type RunningMoments, whiten } from "./normalization.ts";
import { discountedReturns } from "./reinforce.ts";
import { placeReward } from "./reward-placement.ts";
import { rlooAdvantages } from "./rloo.ts";
import { stepReturns } from "./step-reinforce.ts";
import { turnStates } from "./turn-states.ts";

/** An episode as the estimators see it. */
export interface ScoredEpisode extends TokenPlaces {
  readonly ids_T: Int32Array;
  readonly turnIds_T: Numbers;
  readonly reward: number;
}

/**
 * Rewards after normalisation and clipping, in the shape of `groups`.
 * @param moments of the run so far, this step included; needed by `running`.
 */
export function shapeRewards(
  settings: Composition,
  groups: readonly (readonly number[])[],
  moments?: RunningMoments,
): number[][] {
  const rewards = settings.failure === "minus-one" ? signedRewards(groups) : groups;
  const shaped = settings.advantage === "rloo" ? rewards.map(rlooAdvantages) : normalize(settings, rewards, moments);
  return shaped.map((group) => clip(group, settings.rewardClip));
}

/** The advantage of every token, 0 outside of the masks, before `finishAdvantages`; per group and episode. */
export function estimateAdvantages(
  settings: Composition,
  groups: readonly (readonly ScoredEpisode[])[],
  moments?: RunningMoments,
): Float64Array[][] {
  if (settings.advantage === "gigpo") return gigpo(settings, groups);
  if (settings.advantage === "step_reinforce") return stepReinforce(settings, groups);
  const rewards = groups.map((group) => group.map(({ reward }) => reward));
  const shaped = shapeRewards(settings, rewards, moments);
  return groups.map((group, g) => group.map((episode, i) => spread(settings, episode, shaped[g]?.[i] as number)));
}

/** Whitening over the step, then clipping. */
export function finishAdvantages(
  { whiten: isWhitened, advantageClip }: Composition,
  rows_B: readonly Float64Array[],
  masks_B: readonly Numbers[],
): readonly Float64Array[] {
  const whitened_B = isWhitened ? whiten(rows_B, masks_B) : rows_B;
  if (advantageClip === undefined) return whitened_B;
  return whitened_B.map((row_T) => clipAdvantages(row_T, advantageClip).advantages_T);
}

function normalize(settings: Composition, groups: readonly (readonly number[])[], moments?: RunningMoments) {
  return normalizeRewards(groups, { mean: settings.normMean, spread: settings.normStd }, moments);
}

function clip(values: readonly number[], limit: number | undefined): number[] {
  return limit === undefined ? [...values] : values.map((value) => clamp(value, -limit, limit));
}

/** Gives an episode's reward to its tokens. */
function spread(settings: Composition, episode: ScoredEpisode, reward: number): Float64Array {
  const { advantage, discount, compact } = settings;
  const { mask_T, turnIds_T } = episode;
  if (advantage === "ipa") return ipaReturns(reward, denseTurnIds(turnIds_T), discount);
  if (advantage === "gae") throw new AleError("internal", "gae needs values");
  if (advantage !== "reinforce" || discount === 1) {
    return Float64Array.from(mask_T, (bit) => (bit === 1 ? reward : 0));
  }
  const rewards_T = placeReward(reward, mask_T);
  if (!compact) return discountedReturns(rewards_T, mask_T, discount);
  // With values of 0 and λ = 1 the generalised advantage is the discounted return.
  const values_T = new Float64Array(mask_T.length);
  return compactGae({ rewards_T, values_T, mask_T }, { discount, lambda: 1 }).advantages_T;
}

/** One sample per turn; the episode's reward is the score of its last one. */
function samplesOf(groups: readonly (readonly ScoredEpisode[])[], settings: Composition): GigpoSample[] {
  return groups.flatMap((group, g) =>
    group.flatMap(({ ids_T, turnIds_T, reward }, i) => {
      const turns = denseTurnIds(turnIds_T);
      // only gigpo compares states
      const states =
        settings.advantage === "gigpo"
          ? turnStates(ids_T, turns, settings.state)
          : new Array<string>(countChunks(turns)).fill("");
      return states.map((state, step) => ({
        ...{ group: String(g), trajectory: `${g}/${i}`, step, state, episodeScore: reward },
        stepScore: step === states.length - 1 ? reward : 0,
      }));
    }),
  );
}

/** Values of the turns, in the order of `samplesOf`, given to their tokens. */
function toTokens(groups: readonly (readonly ScoredEpisode[])[], values: readonly number[]): Float64Array[][] {
  let first = 0;
  return groups.map((group) =>
    group.map(({ turnIds_T }) => {
      const turns = denseTurnIds(turnIds_T);
      const begin = first;
      first += countChunks(turns);
      return Float64Array.from(turns, (turn) => (turn < 0 ? 0 : (values[begin + turn] as number)));
    }),
  );
}

function stepReinforce(settings: Composition, groups: readonly (readonly ScoredEpisode[])[]): Float64Array[][] {
  const samples = samplesOf(groups, settings);
  const returns = stepReturns(samples, settings.discount);
  const keys = samples.map(({ group }) => group);
  const normalized = byKey(returns, keys, (values) => normalize(settings, values));
  return toTokens(groups, clip(normalized, settings.rewardClip));
}

function gigpo(settings: Composition, groups: readonly (readonly ScoredEpisode[])[]): Float64Array[][] {
  const { discount, episodeWeight, stepWeight, normStd } = settings;
  const options = { discount, episodeWeight, stepWeight, normalizeStd: normStd !== "none" };
  const samples = samplesOf(groups, settings);
  return toTokens(groups, gigpoAdvantages(samples, { ...options, episodeStatistics: "trajectory" }).advantages);
}
