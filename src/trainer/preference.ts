/** Learning from preferences: pairs of episodes of one task, one of which was better (DPO, cDPO, IPO). */

import { countOnes } from "../algorithms/levels.ts";
import { type PreferenceOptions, preferenceLoss } from "../algorithms/preference.ts";
import type { Experiment, SftStage } from "../config/experiment.ts";
import type { TokenRecord } from "../core/types.ts";
import type { Slot } from "../models/parameter-store.ts";
import type { OptimizerSettings, PolicyLearner } from "./update.ts";

/** What is read of an episode; sums run over the tokens the policy wrote. */
type Answer = Pick<TokenRecord, "ids" | "mask">;

export interface PreferencePairOf<T> {
  readonly chosen: T;
  readonly rejected: T;
}

/** One minibatch of pairs; the mean of their losses is minimised. */
export interface PreferenceJob {
  readonly kind: "preference";
  readonly pairs: readonly PreferencePairOf<Answer>[];
  readonly preference: PreferenceOptions;
  readonly optimizer: OptimizerSettings;
}

/** The job of a step of a stage whose objective is a preference. */
export function preferenceJob(
  { optimizer }: Experiment,
  { objective, beta = 0.1, labelSmoothing = 0 }: SftStage,
  pairs: PreferenceJob["pairs"],
  lr: number,
): PreferenceJob {
  const { betas, eps, weightDecay, clip } = optimizer;
  return {
    kind: "preference",
    pairs: pairs.map(({ chosen, rejected }) => ({ chosen: answerOf(chosen), rejected: answerOf(rejected) })),
    preference: { type: objective === "ipo" ? "ipo" : "dpo", beta, labelSmoothing },
    optimizer: { betas, eps, weightDecay, clip, lr },
  };
}

/** No more of an episode than the engine reads. */
function answerOf({ ids, mask }: Answer): Answer {
  return { ids, mask };
}

export interface PreferenceResult {
  readonly loss: number;
  readonly entropy: number;
  readonly tokens: number;
  /** Under TRL's names. */
  readonly metrics: Readonly<Record<string, number>>;
}

/**
 * Pairs the successes of a group with its failures, in their order; none of a group where all end alike.
 * @param isBetter whether an episode can be chosen. @param atMost pairs of one group.
 */
export function pairUp<T>(
  group: readonly T[],
  isBetter: (episode: T) => boolean,
  atMost = Number.POSITIVE_INFINITY,
): PreferencePairOf<T>[] {
  const better = group.filter(isBetter);
  const worse = group.filter((episode) => !isBetter(episode));
  const count = Math.min(better.length, worse.length, atMost);
  return Array.from({ length: count }, (_, i) => ({ chosen: better[i] as T, rejected: worse[i] as T }));
}

/** Adds the gradients of a job's loss under the weights of `slot`. */
export async function preferenceGradients(
  learner: PolicyLearner,
  { pairs, preference }: PreferenceJob,
  slot: Slot,
): Promise<PreferenceResult> {
  const answers = pairs.flatMap(({ chosen, rejected }) => [chosen, rejected]);
  const sequences = answers.map(({ ids }) => ids);
  const { logprobs } = await learner.forward(sequences, slot, 1);
  const references = await learner.referenceLogprobs(sequences, 1);
  const sumsOf = (rows: readonly Float32Array[]) => rows.map((row, i) => maskedSum(row, (answers[i] as Answer).mask));
  const sums = sumsOf(logprobs);
  const referenceSums = sumsOf(references);
  const outputs = pairs.map((_, p) =>
    preferenceLoss(
      {
        chosen: sums[2 * p] as number,
        rejected: sums[2 * p + 1] as number,
        referenceChosen: referenceSums[2 * p] as number,
        referenceRejected: referenceSums[2 * p + 1] as number,
      },
      preference,
    ),
  );
  const mean = (pick: (output: (typeof outputs)[number]) => number) =>
    outputs.reduce((sum, output) => sum + pick(output), 0) / outputs.length;
  const weights = answers.map(({ mask }, i) => {
    const { gradient } = outputs[i >> 1] as (typeof outputs)[number];
    const weight = ((i % 2 === 0 ? -1 : 1) * gradient) / outputs.length;
    return Float32Array.from(mask, (bit) => bit * weight);
  });
  const { entropy } = await learner.backward(sequences, weights, slot, 1);
  return {
    loss: mean(({ loss }) => loss),
    entropy,
    tokens: answers.reduce((sum, { mask }) => sum + countOnes(mask), 0),
    metrics: {
      "rewards/chosen": mean(({ chosenReward }) => chosenReward),
      "rewards/rejected": mean(({ rejectedReward }) => rejectedReward),
      "rewards/margins": mean(({ chosenReward, rejectedReward }) => chosenReward - rejectedReward),
      "rewards/accuracies": mean(({ isCorrect }) => (isCorrect ? 1 : 0)),
    },
  };
}

function maskedSum(row_T: Float32Array, mask_T: Uint8Array): number {
  let sum = 0;
  for (let t = 0; t < mask_T.length; t++) if (mask_T[t] === 1) sum += row_T[t] as number;
  return sum;
}
