/** Groups of trajectories → the job of one training step. */

import { denseTurnIds } from "../algorithms/chunks.ts";
import { episodeAdvantages } from "../algorithms/index.ts";
import { imitationLoss, ipaReturns } from "../algorithms/ipa.ts";
import type { Experiment } from "../config/experiment.ts";
import type { Quantization } from "../core/quantization.ts";
import type { Group, TokenRecord, Trajectory } from "../core/types.ts";
import type { ParityLimits } from "./mismatch.ts";
import { learningRate } from "./schedule.ts";
import type { OptimizerSettings, PolicyJob } from "./update.ts";

export interface Batch {
  /** `undefined` when no trajectory carries a signal, e.g. because all groups are solved. */
  readonly job: PolicyJob | undefined;
  /** Groups whose rewards were all equal; they are left out. */
  readonly zeroSpreadGroups: number;
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
  const { algorithm } = experiment;
  const valueLr = algorithm.type === "ppo" ? { valueLr: rate(algorithm.valueLr) } : {};
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
  const { algorithm, resampling } = experiment;
  if (imitations.length === 0 || resampling === undefined) return undefined;
  const discount = algorithm.type === "ipa" ? algorithm.discount : 1;
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

/**
 * Builds the policy-gradient job of `step`. Trajectories without sampled tokens are left out, and so are those with advantage
 * 0, unless a critic or a divergence inside the reward has its own say about them.
 * @param klCoefficient β of this step, where it is not the experiment's.
 */
export function buildBatch(
  experiment: Experiment,
  collected: Collected,
  step: number,
  klCoefficient = experiment.kl?.coefficient,
): Batch {
  const { algorithm, kl } = experiment;
  const keepsAll = algorithm.type === "ppo" || kl?.in === "reward";
  const groups = [...collected.groups, ...collected.forks];
  const rewards = groups.map((group) => group.trajectories.map((trajectory) => trajectory.reward));
  const advantages = episodeAdvantages(experiment.algorithm, rewards);
  const used: { trajectory: Trajectory; advantage: number; group: number }[] = [];
  groups.forEach((group, g) => {
    group.trajectories.forEach((trajectory, i) => {
      const advantage = advantages[g]?.[i] ?? 0;
      if ((keepsAll || advantage !== 0) && trajectory.tokens.mask.includes(1)) {
        used.push({ trajectory, advantage, group: g });
      }
    });
  });
  const zeroSpreadGroups = advantages.filter((group) => group.every((advantage) => advantage === 0)).length;
  if (used.length === 0) return { job: undefined, zeroSpreadGroups };
  const imitation = imitationWeights(experiment, collected.imitations);
  const job: PolicyJob = {
    kind: "policy",
    sequences: used.map(({ trajectory }) => trajectory.tokens.ids),
    masks: used.map(({ trajectory }) => trajectory.tokens.mask),
    behaviour: used.map(({ trajectory }) => trajectory.tokens.logprobs),
    advantages: used.map(({ advantage }) => advantage),
    turnIds: used.map(({ trajectory }) => trajectory.tokens.turnIds),
    rewards: used.map(({ trajectory }) => trajectory.reward),
    groups: used.map(({ group }) => group),
    ...(kl && { kl: { in: kl.in, estimator: kl.estimator, coefficient: klCoefficient ?? kl.coefficient } }),
    algorithm,
    temperature: experiment.rollout.temperature,
    minibatches: experiment.trainer.minibatches,
    epochs: experiment.trainer.epochs,
    ...untruncated(
      experiment,
      used.map(({ trajectory }) => trajectory.tokens),
    ),
    versions: used.map(({ trajectory }) => trajectory.tokens.versions),
    kvOldest: used.map(({ trajectory }) => trajectory.tokens.kvOldest),
    parityLimits: parityLimits(experiment),
    orderKey: `${experiment.seed}/minibatches/${step}`,
    optimizer: optimizerAt(experiment, step),
    ...(imitation === undefined ? {} : { imitation }),
  };
  return { job, zeroSpreadGroups };
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
