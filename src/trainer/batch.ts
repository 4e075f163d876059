/** Groups of trajectories → the job of one training step. */

import { episodeAdvantages } from "../algorithms/index.ts";
import type { Experiment } from "../config/experiment.ts";
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
  const { lr, schedule, warmupSteps, minRatio, ...rest } = experiment.optimizer;
  const rate = learningRate({
    kind: schedule,
    base: lr,
    warmup: warmupSteps,
    total: experiment.trainer.steps,
    minRatio,
    warmupFrom: "plus_one",
    update: step - 1,
  });
  return { ...rest, lr: rate };
}

/** Builds the policy-gradient job of `step`. Trajectories without sampled tokens or with advantage 0 are left out. */
export function buildBatch(experiment: Experiment, groups: readonly Group[], step: number): Batch {
  const rewards = groups.map((group) => group.trajectories.map((trajectory) => trajectory.reward));
  const advantages = episodeAdvantages(experiment.algorithm, rewards);
  const used: { trajectory: Trajectory; advantage: number }[] = [];
  groups.forEach((group, g) => {
    group.trajectories.forEach((trajectory, i) => {
      const advantage = advantages[g]?.[i] ?? 0;
      if (advantage !== 0 && trajectory.tokens.mask.includes(1)) used.push({ trajectory, advantage });
    });
  });
  const zeroSpreadGroups = advantages.filter((group) => group.every((advantage) => advantage === 0)).length;
  if (used.length === 0) return { job: undefined, zeroSpreadGroups };
  const job: PolicyJob = {
    kind: "policy",
    sequences: used.map(({ trajectory }) => trajectory.tokens.ids),
    masks: used.map(({ trajectory }) => trajectory.tokens.mask),
    behaviour: used.map(({ trajectory }) => trajectory.tokens.logprobs),
    advantages: used.map(({ advantage }) => advantage),
    turnIds: used.map(({ trajectory }) => trajectory.tokens.turnIds),
    rewards: used.map(({ trajectory }) => trajectory.reward),
    algorithm: experiment.algorithm,
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
  };
  return { job, zeroSpreadGroups };
}

export function parityLimits({ trainer }: Experiment): ParityLimits {
  return { max: trainer.parityLimit, mean: trainer.parityMeanLimit, kl: trainer.parityKlLimit };
}

/** Log-probabilities at the rollout's temperature without truncation or penalty, where the records hold them. */
function untruncated({ rollout }: Experiment, tokens: readonly TokenRecord[]): Pick<PolicyJob, "untruncated"> {
  const { temperature, topK, topP, minP, repetitionPenalty } = rollout;
  const whole = topK === 0 && topP === 1 && minP === 0 && repetitionPenalty === 1;
  if (whole) return { untruncated: tokens.map(({ logprobs }) => logprobs) };
  return temperature === 1 ? { untruncated: tokens.map(({ logprobsT1 }) => logprobsT1) } : {};
}
