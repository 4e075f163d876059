/** What an update works out once, under the weights that sampled, before it changes any: advantages, reference, values. */

import { compactGae, gae } from "../algorithms/gae.ts";
import { episodeAdvantages, needsProximal, tokenAdvantages } from "../algorithms/index.ts";
import { klLoss } from "../algorithms/kl.ts";
import { countOnes } from "../algorithms/levels.ts";
import { whiten } from "../algorithms/normalization.ts";
import { placeReward } from "../algorithms/reward-placement.ts";
import { mean } from "../algorithms/statistics.ts";
import type { AlgorithmConfig } from "../config/experiment.ts";
import type { Slot } from "../models/parameter-store.ts";
import type { PolicyJob, PolicyLearner } from "./update.ts";

type PpoConfig = Extract<AlgorithmConfig, { type: "ppo" }>;

export interface Critic {
  readonly oldValues: readonly Float32Array[];
  readonly returns: readonly Float64Array[];
}

/** Arrays per sequence and token. */
export interface Credit {
  readonly advantages: readonly ArrayLike<number>[];
  /** What the training engine says under the weights that sampled; known where something needed it. */
  readonly old?: { readonly logprobs: readonly Float32Array[]; readonly values: readonly Float32Array[] };
  /** As `old.logprobs`, where the loss tells the two engines apart. */
  readonly proximal?: readonly Float32Array[];
  /** Log-probabilities under the frozen reference, with a KL term. */
  readonly reference?: readonly Float32Array[];
  readonly critic?: Critic;
  readonly metrics: Readonly<Record<string, number>>;
}

export async function assignCredit(learner: PolicyLearner, job: PolicyJob, published: Slot): Promise<Credit> {
  const { algorithm, sequences, temperature, kl } = job;
  const isPpo = algorithm.type === "ppo";
  const needsOld = isPpo || needsProximal(algorithm) || kl?.in === "reward";
  const old = needsOld
    ? await learner.forward(sequences, published, temperature, isPpo ? { values: true } : {})
    : undefined;
  const reference = kl && (await learner.referenceLogprobs(sequences, temperature));
  const known = {
    ...(old && { old }),
    ...(old && needsProximal(algorithm) && { proximal: old.logprobs }),
    ...(reference && { reference }),
  };
  const penalty = old && reference && kl?.in === "reward" ? penalties(job, old.logprobs, reference) : undefined;
  const metrics = penaltyMetrics(job, penalty);
  if (isPpo && old !== undefined) {
    const { advantages, critic } = estimate(job, algorithm, old.values, penalty);
    return { ...known, advantages, critic, metrics: { ...metrics, ...criticMetrics(job, critic, advantages) } };
  }
  const perEpisode = penalty === undefined ? job.advantages : penalisedAdvantages(job, penalty);
  const advantages = sequences.map((_, i) => {
    const places = { mask_T: job.masks[i] as Uint8Array, turnIds_T: job.turnIds[i] };
    return tokenAdvantages(algorithm, perEpisode[i] as number, places);
  });
  return { ...known, advantages, metrics };
}

/** Divergence of each token from the reference, before the coefficient. */
function penalties(
  { kl, masks }: PolicyJob,
  logprobs: readonly Float32Array[],
  reference: readonly Float32Array[],
): readonly Float64Array[] {
  const kind = (kl as NonNullable<PolicyJob["kl"]>).estimator;
  return masks.map((mask_T, i) => {
    const input = { logprobs_T: logprobs[i] as Float32Array, reference_T: reference[i] as Float32Array, mask_T };
    return klLoss(input, { kind, tokens: 1 }).losses_T;
  });
}

/** Advantages of episodes whose reward is less the divergence of their tokens, group by group. */
function penalisedAdvantages(job: PolicyJob, penalty: readonly Float64Array[]): readonly number[] {
  const beta = job.kl?.coefficient ?? 0;
  const members = new Map<number, number[]>();
  for (const [i, group] of job.groups.entries()) members.set(group, [...(members.get(group) ?? []), i]);
  const groups = [...members.values()];
  const rewards = groups.map((group) =>
    group.map((i) => (job.rewards[i] as number) - beta * sum(penalty[i] as Float64Array)),
  );
  const advantages = new Array<number>(job.sequences.length).fill(0);
  for (const [g, values] of episodeAdvantages(job.algorithm, rewards).entries()) {
    for (const [k, value] of values.entries()) advantages[groups[g]?.[k] as number] = value;
  }
  return advantages;
}

/** Generalised advantages and returns of PPO; the reward is on the last token the policy wrote. */
function estimate(
  job: PolicyJob,
  algorithm: PpoConfig,
  oldValues: readonly Float32Array[],
  penalty: readonly Float64Array[] | undefined,
): { readonly advantages: readonly Float64Array[]; readonly critic: Critic } {
  const beta = job.kl?.coefficient ?? 0;
  const run = algorithm.compact ? compactGae : gae;
  const results = job.masks.map((mask_T, i) => {
    const placed = placeReward(job.rewards[i] as number, mask_T);
    const rewards_T = placed.map((reward, t) => reward - beta * (penalty?.[i]?.[t] ?? 0));
    return run({ rewards_T, values_T: oldValues[i] as Float32Array, mask_T }, algorithm);
  });
  const raw = results.map(({ advantages_T }) => advantages_T);
  return {
    advantages: algorithm.whiten ? whiten(raw, job.masks) : raw,
    critic: { oldValues, returns: results.map(({ returns_T }) => returns_T) },
  };
}

function penaltyMetrics(
  { kl, masks }: PolicyJob,
  penalty: readonly Float64Array[] | undefined,
): Record<string, number> {
  if (kl === undefined || penalty === undefined) return {};
  const tokens = masks.reduce((total, mask) => total + countOnes(mask), 0);
  return {
    "actor/reward_kl_penalty": penalty.reduce((total, row) => total + sum(row), 0) / Math.max(1, tokens),
    "actor/reward_kl_penalty_coeff": kl.coefficient,
  };
}

function criticMetrics({ masks }: PolicyJob, critic: Critic, advantages: readonly Float64Array[]) {
  const masked = (rows: readonly ArrayLike<number>[]) =>
    rows.flatMap((row, i) => Array.from(row).filter((_, t) => masks[i]?.[t] === 1));
  const values = masked(critic.oldValues);
  const returns = masked(critic.returns);
  const variance = (numbers: readonly number[]) => {
    const centre = mean(numbers);
    return mean(numbers.map((value) => (value - centre) ** 2));
  };
  const spread = variance(returns);
  return {
    "critic/values/mean": mean(values),
    "critic/returns/mean": mean(returns),
    "critic/advantages/mean": mean(masked(advantages)),
    // 0 where there is nothing to explain
    "critic/vf_explained_var":
      spread === 0 ? 0 : 1 - variance(returns.map((r, k) => r - (values[k] as number))) / spread,
  };
}

function sum(values: Float64Array): number {
  return values.reduce((total, value) => total + value, 0);
}
