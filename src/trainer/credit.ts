/** What an update works out once, under the weights that sampled, before it changes any: advantages, reference, values. */

import { correct } from "../algorithms/correction.ts";
import { estimateAdvantages, finishAdvantages } from "../algorithms/estimators.ts";
import { compactGae, gae } from "../algorithms/gae.ts";
import { klLoss } from "../algorithms/kl.ts";
import { countOnes } from "../algorithms/levels.ts";
import { whiten } from "../algorithms/normalization.ts";
import { placeReward } from "../algorithms/reward-placement.ts";
import { mean } from "../algorithms/statistics.ts";
import { hasCritic } from "../config/composition.ts";
import type { Slot } from "../models/parameter-store.ts";
import { taughtAdvantages, teacherMetrics } from "./distillation.ts";
import type { ForwardResult } from "./loss-terms.ts";
import { summaryOf } from "./metrics.ts";
import type { PolicyJob, PolicyLearner } from "./update.ts";

export interface Critic {
  readonly oldValues: readonly Float32Array[];
  readonly returns: readonly Float64Array[];
}

/** Arrays per sequence and token. */
export interface Credit {
  readonly advantages: readonly ArrayLike<number>[];
  /** What the training engine says under the weights that sampled; known where something needed it. */
  readonly old?: ForwardResult;
  /** As `old.logprobs`, where the loss tells the two engines apart. */
  readonly proximal?: readonly Float32Array[];
  /** Log-probabilities under the frozen reference, with a KL term. */
  readonly reference?: readonly Float32Array[];
  readonly critic?: Critic;
  /** Weights and filters for what generation and training make of the same tokens. */
  readonly corrections?: readonly ReturnType<typeof correct>[];
  readonly metrics: Readonly<Record<string, number>>;
}

export async function assignCredit(learner: PolicyLearner, job: PolicyJob, published: Slot): Promise<Credit> {
  const { algorithm, sequences, temperature, kl } = job;
  const isLearned = hasCritic(algorithm);
  const isRecomputed = algorithm.proximal === "recompute";
  const needsOld = isLearned || isRecomputed || kl?.in === "reward" || job.teacher?.in === "reward";
  const isFull = kl?.estimator === "full";
  const asked = { values: isLearned, divergence: isFull && kl.in === "reward" };
  const old = needsOld ? await learner.forward(sequences, published, temperature, asked) : undefined;
  const reference = kl && !isFull ? await learner.referenceLogprobs(sequences, temperature) : undefined;
  const corrections = old && corrected(job, old.logprobs);
  const known = {
    ...(old && { old }),
    ...(old && isRecomputed && { proximal: old.logprobs }),
    ...(reference && { reference }),
    ...(corrections && { corrections }),
  };
  const penalty = old && kl?.in === "reward" ? penalties(job, old, reference) : undefined;
  const metrics = {
    ...penaltyMetrics(job, penalty),
    ...correctionMetrics(job, corrections),
    ...teacherMetrics(job, old?.logprobs ?? job.behaviour),
  };
  if (isLearned && old !== undefined) {
    const { advantages, critic } = estimate(job, old.values, penalty);
    const taught = taughtAdvantages(job, advantages, old.logprobs);
    const learned = { ...advantageMetrics(job, advantages), ...criticMetrics(job, critic) };
    return { ...known, advantages: taught, critic, metrics: { ...metrics, ...learned } };
  }
  const advantages = penalty === undefined ? job.advantages : penalisedAdvantages(job, penalty);
  const taught = taughtAdvantages(job, advantages, old?.logprobs);
  return { ...known, advantages: taught, metrics: { ...metrics, ...advantageMetrics(job, advantages) } };
}

/** What the correction makes of each sequence; `undefined` without one. */
function corrected(job: PolicyJob, proximal: readonly Float32Array[]): Credit["corrections"] {
  const { correction } = job.algorithm;
  if (correction === undefined) return undefined;
  return proximal.map((proximal_T, i) => {
    const behaviour_T = job.behaviour[i] as Float32Array;
    const places = { mask_T: job.masks[i] as Uint8Array, turnIds_T: job.turnIds[i] };
    return correct({ ...places, proximal_T, behaviour_T }, correction);
  });
}

/** Under verl's names: mean importance weight, its effective sample size, and the share of tokens that filters left out. */
function correctionMetrics({ masks }: PolicyJob, corrections: Credit["corrections"] = []): Record<string, number> {
  const own = (pick: (i: number) => ArrayLike<number> | undefined) =>
    corrections.flatMap((_, i) => Array.from(pick(i) ?? []).filter((_, t) => masks[i]?.[t] === 1));
  const weights = own((i) => corrections[i]?.factors_T);
  const kept = own((i) => corrections[i]?.lossMask_T);
  const average = mean(weights);
  return {
    ...(weights.length > 0 && {
      "rollout_corr/rollout_is_mean": average,
      "rollout_corr/rollout_is_eff_sample_size": average ** 2 / mean(weights.map((weight) => weight ** 2)),
    }),
    ...(kept.length > 0 && { "rollout_corr/rollout_rs_masked_fraction": 1 - mean(kept) }),
  };
}

/** Divergence of each token from the reference, before the coefficient. */
function penalties(
  { kl, masks }: PolicyJob,
  { logprobs, divergences }: Pick<ForwardResult, "logprobs" | "divergences">,
  reference: readonly Float32Array[] | undefined,
): readonly Float64Array[] {
  const { estimator: kind } = kl as NonNullable<PolicyJob["kl"]>;
  return masks.map((mask_T, i) => {
    const full_T = divergences[i];
    if (kind === "full") return Float64Array.from(mask_T, (bit, t) => bit * (full_T?.[t] as number));
    const reference_T = reference?.[i] as Float32Array;
    return klLoss({ logprobs_T: logprobs[i] as Float32Array, reference_T, mask_T }, { kind, tokens: 1 }).losses_T;
  });
}

/** Advantages of episodes whose reward is less the divergence of their tokens, group by group. */
function penalisedAdvantages(job: PolicyJob, penalty: readonly Float64Array[]): readonly Float32Array[] {
  const beta = job.kl?.coefficient ?? 0;
  const members = [...Map.groupBy(job.groups.keys(), (i) => job.groups[i] as number).values()];
  const groups = members.map((group) =>
    group.map((i) => ({
      ids_T: job.sequences[i] as Int32Array,
      mask_T: job.masks[i] as Uint8Array,
      turnIds_T: job.turnIds[i] as Int32Array,
      reward: (job.rewards[i] as number) - beta * sum(penalty[i] as Float64Array),
    })),
  );
  const order = members.flat();
  const masks = order.map((i) => job.masks[i] as Uint8Array);
  const rows = finishAdvantages(job.algorithm, estimateAdvantages(job.algorithm, groups).flat(), masks);
  const advantages = new Array<Float32Array>(order.length);
  for (const [k, i] of order.entries()) advantages[i] = Float32Array.from(rows[k] as Float64Array);
  return advantages;
}

/** Generalised advantages and returns of a critic; the reward is on the last token the policy wrote. */
function estimate(
  job: PolicyJob,
  oldValues: readonly Float32Array[],
  penalty: readonly Float64Array[] | undefined,
): { readonly advantages: readonly Float64Array[]; readonly critic: Critic } {
  const { algorithm, masks } = job;
  const beta = job.kl?.coefficient ?? 0;
  const run = algorithm.compact ? compactGae : gae;
  const placed = masks.map((mask_T, i) =>
    placeReward(job.shapedRewards[i] as number, mask_T).map((reward, t) => reward - beta * (penalty?.[i]?.[t] ?? 0)),
  );
  const rewards = algorithm.whitenRewards ? whiten(placed, masks, { shiftMean: false }) : placed;
  const results = masks.map((mask_T, i) => {
    const input = { rewards_T: rewards[i] as Float64Array, values_T: oldValues[i] as Float32Array, mask_T };
    return run(input, algorithm);
  });
  const raw = results.map(({ advantages_T }) => advantages_T);
  return {
    advantages: finishAdvantages(algorithm, raw, masks),
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

/** Of the tokens the policy wrote. */
function masked({ masks }: PolicyJob, rows: readonly ArrayLike<number>[]): number[] {
  return rows.flatMap((row, i) => Array.from(row).filter((_, t) => masks[i]?.[t] === 1));
}

function advantageMetrics(job: PolicyJob, advantages: readonly ArrayLike<number>[]): Record<string, number> {
  return summaryOf("critic/advantages", masked(job, advantages));
}

function criticMetrics(job: PolicyJob, critic: Critic): Record<string, number> {
  const values = masked(job, critic.oldValues);
  const returns = masked(job, critic.returns);
  const variance = (numbers: readonly number[]) => {
    const centre = mean(numbers);
    return mean(numbers.map((value) => (value - centre) ** 2));
  };
  const spread = variance(returns);
  return {
    ...summaryOf("critic/values", values),
    ...summaryOf("critic/returns", returns),
    // 0 where there is nothing to explain
    "critic/vf_explained_var":
      spread === 0 ? 0 : 1 - variance(returns.map((r, k) => r - (values[k] as number))) / spread,
  };
}

function sum(values: Float64Array): number {
  return values.reduce((total, value) => total + value, 0);
}
