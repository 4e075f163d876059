/** Groups of trajectories → the job of one training step. */

import { denseTurnIds } from "../algorithms/chunks.ts";
import { imitationLoss, ipaReturns } from "../algorithms/ipa.ts";
import type { RunningMoments } from "../algorithms/normalization.ts";
import { composeAlgorithm, hasCritic } from "../config/composition.ts";
import type { Experiment } from "../config/experiment.ts";
import type { Quantization } from "../core/quantization.ts";
import { type Group, MACHINE_FAULTS, type TokenRecord } from "../core/types.ts";
import type { ParityLimits } from "./mismatch.ts";
import { learningRate } from "./schedule.ts";
import { scoreEpisodes } from "./scores.ts";
import type { OptimizerSettings, PolicyJob, SupervisedJob } from "./update.ts";

export interface Batch {
  /** `undefined` when no trajectory carries a signal, e.g. because all groups are solved. */
  readonly job: PolicyJob | undefined;
  /** What is imitated where no trajectory carries a signal. */
  readonly imitation?: SupervisedJob;
  /** Moments of all rewards so far, for the next step; only with running normalisation. */
  readonly rewardMoments?: RunningMoments;
}

/** AdamW settings at a training step (1-based); the learning rate follows the schedule. */
export function optimizerAt(experiment: Experiment, step: number): OptimizerSettings {
  const { lr, schedule, warmupSteps, minRatio, betas, eps, weightDecay, clip } = experiment.optimizer;
  const rate = (base: number) =>
    learningRate({
      kind: schedule,
      base,
      warmup: warmupSteps,
      total: experiment.trainer.steps,
      minRatio,
      warmupFrom: "plus_one",
      update: step - 1,
    });
  const algorithm = composeAlgorithm(experiment.algorithm);
  const valueLr = hasCritic(algorithm) ? { valueLr: rate(algorithm.valueLr) } : {};
  return { betas, eps, weightDecay, clip, lr: rate(lr), ...valueLr };
}

/** An expert's trajectory of which the first `chunks` chunks are imitated. */
export interface Imitation {
  readonly tokens: TokenRecord;
  readonly chunks: number;
}

/** The episodes of a step. `forks` began in an expert's states; each state's are a group of their own. */
export interface Collected {
  readonly groups: readonly Group[];
  readonly forks: readonly Group[];
  readonly imitations: readonly Imitation[];
  readonly metrics: Readonly<Record<string, number>>;
}

/**
 * Weights of the imitation term of IPA's mixed loss (arXiv 2512.24873, equation 10): the expert's tokens of chunks
 * 1 … `chunks`, with the returns of a success; divided by the number of all imitated tokens.
 */
function imitationWeights(experiment: Experiment, imitations: readonly Imitation[]): PolicyJob["imitation"] {
  const { resampling } = experiment;
  if (imitations.length === 0 || resampling === undefined) return undefined;
  const algorithm = composeAlgorithm(experiment.algorithm);
  const discount = algorithm.advantage === "ipa" ? algorithm.discount : 1;
  const turns = imitations.map(({ tokens }) => denseTurnIds(tokens.turnIds));
  const tokens = imitations.reduce(
    (sum, { chunks }, i) => sum + (turns[i] as Int32Array).filter((turn) => turn >= 0 && turn < chunks).length,
    0,
  );
  const weights = imitations.map(({ tokens: record, chunks }, i) => {
    const turnIds_T = turns[i] as Int32Array;
    const input = { logprobs_T: record.logprobs, returns_T: ipaReturns(1, turnIds_T, discount), turnIds_T };
    const { weights_T } = imitationLoss(input, { fork: chunks, weight: "none", tokens });
    return Float32Array.from(weights_T, (weight) => resampling.imitation * weight);
  });
  return { sequences: imitations.map((imitation) => imitation.tokens.ids), weights };
}

/** An episode that ended for a reason of the machine says nothing about the policy, neither by itself nor in its group. */
function withoutFaults(group: Group): Group {
  return { ...group, trajectories: group.trajectories.filter(({ stopReason }) => !MACHINE_FAULTS.has(stopReason)) };
}

/**
 * Builds the policy-gradient job of `step`. Trajectories without sampled tokens are left out, and so are those whose
 * advantages are all 0, unless a critic, a divergence or a teacher has its own say about them.
 * @param klCoefficient β of this step, where it is not the experiment's.
 * @param rewardMoments what the step before this one left, with running normalisation.
 */
export function buildBatch(
  experiment: Experiment,
  collected: Collected,
  step: number,
  klCoefficient = experiment.kl?.coefficient,
  rewardMoments?: RunningMoments,
): Batch {
  const { kl } = experiment;
  const algorithm = composeAlgorithm(experiment.algorithm);
  const groups = [...collected.groups, ...collected.forks].map(withoutFaults);
  const scores = scoreEpisodes(algorithm, groups, kl?.in === "reward", rewardMoments);
  // A teacher and a divergence in the loss say something about every episode, whatever its reward.
  const isJudged = experiment.distillation !== undefined || kl?.in === "loss";
  const used = scores.episodes.filter(
    ({ trajectory, hasSignal }) => (hasSignal || isJudged) && trajectory.tokens.mask.includes(1),
  );
  const result = scores.rewardMoments === undefined ? {} : { rewardMoments: scores.rewardMoments };
  const imitation = imitationWeights(experiment, collected.imitations);
  const optimizer = optimizerAt(experiment, step);
  if (used.length === 0) {
    return {
      job: undefined,
      ...(imitation && { imitation: { kind: "supervised", ...imitation, optimizer } }),
      ...result,
    };
  }
  const tokens = used.map(({ trajectory }) => trajectory.tokens);
  const job: PolicyJob = {
    kind: "policy",
    sequences: tokens.map(({ ids }) => ids),
    masks: tokens.map(({ mask }) => mask),
    behaviour: tokens.map(({ logprobs }) => logprobs),
    advantages: used.map(({ advantages_T }) => advantages_T),
    shapedRewards: used.map(({ shapedReward }) => shapedReward),
    turnIds: tokens.map(({ turnIds }) => turnIds),
    rewards: used.map(({ trajectory }) => trajectory.reward),
    groups: used.map(({ group }) => group),
    ...(used.some(({ weight }) => weight !== 1) && { episodeWeights: used.map(({ weight }) => weight) }),
    ...(kl && { kl: { in: kl.in, estimator: kl.estimator, coefficient: klCoefficient ?? kl.coefficient } }),
    algorithm,
    temperature: experiment.rollout.temperature,
    minibatches: experiment.trainer.minibatches,
    epochs: experiment.trainer.epochs,
    ...untruncated(experiment, tokens),
    versions: tokens.map(({ versions }) => versions),
    kvOldest: tokens.map(({ kvOldest }) => kvOldest),
    parityLimits: parityLimits(experiment),
    orderKey: `${experiment.seed}/minibatches/${step}`,
    optimizer,
    ...(imitation === undefined ? {} : { imitation }),
  };
  return { job, ...result };
}

/**
 * Limits of a quantised model where the experiment sets none: twice the mean and the KL divergence measured on the worst
 * of several models (docs/adr/0012-quantised-base.md). Single tokens may be off by more. Activations rounded in larger blocks
 * are off by 1.6 times as much, and KL by twice as much.
 */
const QUANTIZED_LIMITS: Readonly<Record<Exclude<Quantization, "none">, ParityLimits>> = {
  int8: { max: 0, mean: 0.06, kl: 4e-3 },
  int4: { max: 0, mean: 0.06, kl: 4e-3 },
  "int4-128": { max: 0, mean: 0.1, kl: 8e-3 },
};

/** Generation rounds activations where the model is quantised, so `parityLimit`, made for float32, does not hold there. */
export function parityLimits({ model, trainer }: Experiment): ParityLimits {
  const { parityLimit: max, parityMeanLimit: mean, parityKlLimit: kl } = trainer;
  if (model.quantization === "none") return { max, mean, kl };
  return { ...QUANTIZED_LIMITS[model.quantization], ...(mean > 0 ? { mean } : {}), ...(kl > 0 ? { kl } : {}) };
}

/** Log-probabilities at the rollout's temperature without truncation or penalty, where the records hold them. */
function untruncated({ rollout }: Experiment, tokens: readonly TokenRecord[]): Pick<PolicyJob, "untruncated"> {
  const { temperature, topK, topP, minP, repetitionPenalty } = rollout;
  const whole = topK === 0 && topP === 1 && minP === 0 && repetitionPenalty === 1;
  if (whole) return { untruncated: tokens.map(({ logprobs }) => logprobs) };
  return temperature === 1 ? { untruncated: tokens.map(({ logprobsT1 }) => logprobsT1) } : {};
}
