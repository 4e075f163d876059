/** Golden vectors of returns and advantages (`01`). */

import { z } from "zod";
import { chunkReturns } from "../../src/algorithms/chunk-return.ts";
import { shapeRewards } from "../../src/algorithms/estimators.ts";
import { compactGae, type GaeInput, type GaeOptions, type GaeResult, gae } from "../../src/algorithms/gae.ts";
import { type GigpoSample, gigpoAdvantages } from "../../src/algorithms/gigpo.ts";
import { ipaReturns } from "../../src/algorithms/ipa.ts";
import { byKey, clipAdvantages, normalizeRewards, whiten } from "../../src/algorithms/normalization.ts";
import { discountedReturns } from "../../src/algorithms/reinforce.ts";
import { placeReward, placeRewardOnAttended } from "../../src/algorithms/reward-placement.ts";
import { stepReturns } from "../../src/algorithms/step-reinforce.ts";
import { AlgorithmSchema } from "../../src/config/algorithm.ts";
import { composeAlgorithm } from "../../src/config/composition.ts";
import {
  at,
  compareExact,
  compareNumber,
  compareNumbers,
  compareRows,
  type Operation,
  Row,
  Rows,
  report,
  requireZeros,
  sum,
} from "./compare.ts";

const ReturnsSchema = z.object({
  inputs: z.object({ rewards: Rows, mask: Rows, gamma: z.number() }),
  expected: z.object({ returns: Rows }),
});

function checkReinforce(golden: unknown): string {
  const { inputs, expected } = ReturnsSchema.parse(golden);
  const got = inputs.rewards.map((rewards, i) => discountedReturns(rewards, at(inputs.mask, i), inputs.gamma));
  requireZeros("returns", got, inputs.mask);
  return report(compareRows("returns", got, expected.returns));
}

const GaeSchema = z.object({
  inputs: z.object({ rewards: Rows, values: Rows, mask: Rows, gamma: z.number(), lambda: z.number() }),
  expected: z.object({ advantages: Rows, returns: Rows }),
});

function checkGae(estimate: (input: GaeInput, options: GaeOptions) => GaeResult) {
  return (golden: unknown): string => {
    const { inputs, expected } = GaeSchema.parse(golden);
    const { gamma: discount, lambda } = inputs;
    const results = inputs.rewards.map((rewards_T, i) =>
      estimate({ rewards_T, values_T: at(inputs.values, i), mask_T: at(inputs.mask, i) }, { discount, lambda }),
    );
    const advantages = results.map((result) => result.advantages_T);
    const returns = results.map((result) => result.returns_T);
    requireZeros("advantages", advantages, inputs.mask);
    return report(
      compareRows("advantages", advantages, expected.advantages),
      compareRows("returns", returns, expected.returns),
    );
  };
}

const GroupSchema = z.object({
  inputs: z.object({ scores: Row, groups: z.array(z.string()) }),
  expected: z.object({
    grpo: Row,
    rloo: Row,
    reinforce_pp: Row,
    lite_ppo: Row,
    group_mean_only: Row,
    batch_mean_only: Row,
  }),
});

function checkGroup(golden: unknown): string {
  const { inputs, expected } = GroupSchema.parse(golden);
  /** What experiments with these settings make of the rewards. */
  const shaped = (settings: z.input<typeof AlgorithmSchema>) =>
    byKey(inputs.scores, inputs.groups, (groups) =>
      shapeRewards(composeAlgorithm(AlgorithmSchema.parse(settings)), groups),
    );
  return report(
    compareNumbers("grpo", shaped({ type: "grpo" }), expected.grpo),
    compareNumbers("rloo", shaped({ type: "rloo" }), expected.rloo),
    compareNumbers("reinforce_pp", shaped({ type: "reinforce_plus_plus" }), expected.reinforce_pp),
    compareNumbers("lite_ppo", shaped({ type: "lite_ppo" }), expected.lite_ppo),
    compareNumbers("group_mean_only", shaped({ type: "reinforce" }), expected.group_mean_only),
    compareNumbers("batch_mean_only", shaped({ type: "reinforce", baseline: "batch" }), expected.batch_mean_only),
  );
}

const SampleSchema = z
  .object({
    traj_group_id: z.string(),
    traj_id: z.string(),
    step: z.number(),
    state_hash: z.string(),
    step_score: z.number(),
    episode_score: z.number(),
  })
  .transform(
    (sample): GigpoSample => ({
      group: sample.traj_group_id,
      trajectory: sample.traj_id,
      step: sample.step,
      state: sample.state_hash,
      stepScore: sample.step_score,
      episodeScore: sample.episode_score,
    }),
  );

const GigpoSchema = z.object({
  inputs: z.object({
    samples: z.array(SampleSchema),
    gamma: z.number(),
    w_episode: z.number(),
    w_step: z.number(),
    norm: z.enum(["mean_std", "mean"]),
    episode_stats: z.enum(["trajectory", "sample"]),
  }),
  expected: z.object({ step_returns: Row, episode_advantage: Row, step_advantage: Row, advantage: Row }),
});

function checkGigpo(golden: unknown): string {
  const { inputs, expected } = GigpoSchema.parse(golden);
  const got = gigpoAdvantages(inputs.samples, {
    discount: inputs.gamma,
    episodeWeight: inputs.w_episode,
    stepWeight: inputs.w_step,
    normalizeStd: inputs.norm === "mean_std",
    episodeStatistics: inputs.episode_stats,
  });
  return report(
    compareNumbers("step_returns", got.returns, expected.step_returns),
    compareNumbers("episode_advantage", got.episode, expected.episode_advantage),
    compareNumbers("step_advantage", got.step, expected.step_advantage),
    compareNumbers("advantage", got.advantages, expected.advantage),
  );
}

const StepSchema = z.object({
  inputs: z.object({ samples: z.array(SampleSchema), gamma: z.number() }),
  expected: z.object({ step_returns: Row, identity: Row, group_mean_std: Row }),
});

function checkStepReinforce(golden: unknown): string {
  const { inputs, expected } = StepSchema.parse(golden);
  const returns = stepReturns(inputs.samples, inputs.gamma);
  const groups = inputs.samples.map((sample) => sample.group);
  const normalized = byKey(returns, groups, (values) => normalizeRewards(values, { mean: "group", spread: "group" }));
  return report(
    compareNumbers("step_returns", returns, expected.step_returns),
    compareNumbers("identity", returns, expected.identity),
    compareNumbers("group_mean_std", normalized, expected.group_mean_std),
  );
}

const ChunkSchema = z.object({
  inputs: z.object({ rewards: Rows, chunk_ids: Rows, gamma: z.number(), reward_of: z.enum(["last", "sum"]) }),
  expected: z.object({ returns: Rows }),
});

function checkChunkReturn(golden: unknown): string {
  const { inputs, expected } = ChunkSchema.parse(golden);
  const options = { discount: inputs.gamma, rewardOf: inputs.reward_of };
  const got = inputs.rewards.map((rewards, i) => chunkReturns(rewards, at(inputs.chunk_ids, i), options));
  return report(compareRows("returns", got, expected.returns));
}

const IpaSchema = z.object({
  inputs: z.union([
    z.object({ final: Row, chunk_ids: Rows, gamma: z.number() }),
    z.object({ raw: Row, groups: z.array(z.string()), chunk_ids: Rows, gamma: z.number() }),
  ]),
  expected: z.object({ centred: Row.optional(), returns: Rows }),
});

function checkIpa(golden: unknown): string {
  const { inputs, expected } = IpaSchema.parse(golden);
  const final =
    "final" in inputs
      ? inputs.final
      : byKey(inputs.raw, inputs.groups, (groups) =>
          shapeRewards(composeAlgorithm(AlgorithmSchema.parse({ type: "ipa" })), groups),
        );
  const returns = inputs.chunk_ids.map((ids, i) => ipaReturns(at(final, i), ids, inputs.gamma));
  return report(
    compareNumbers("centred", final, expected.centred ?? final),
    compareRows("returns", returns, expected.returns),
  );
}

const PlaceSchema = z.object({
  inputs: z.object({ scores: Row, attention_mask: Rows, mask: Rows, where: z.enum(["attended", "response"]) }),
  expected: z.object({ token_rewards: Rows }),
});

function checkPlaceReward(golden: unknown): string {
  const { inputs, expected } = PlaceSchema.parse(golden);
  const got = inputs.scores.map((score, i) =>
    inputs.where === "response"
      ? placeReward(score, at(inputs.mask, i))
      : placeRewardOnAttended(score, at(inputs.mask, i), at(inputs.attention_mask, i)),
  );
  compareExact(
    "token_rewards",
    got.map((row) => [...row]),
    expected.token_rewards,
  );
  return "";
}

const WhitenSchema = z.object({
  inputs: z.object({ x: Rows, mask: Rows }),
  expected: z.object({ whitened: Rows, without_mean_shift: Rows.optional() }),
});

function checkWhiten(golden: unknown): string {
  const { inputs, expected } = WhitenSchema.parse(golden);
  const whitened = whiten(inputs.x, inputs.mask);
  requireZeros("whitened", whitened, inputs.mask);
  const unshifted = whiten(inputs.x, inputs.mask, { shiftMean: false });
  return report(
    compareRows("whitened", whitened, expected.whitened),
    expected.without_mean_shift === undefined
      ? 0
      : compareRows("without_mean_shift", unshifted, expected.without_mean_shift),
  );
}

const ClipSchema = z.object({
  inputs: z.object({ x: Rows, mask: Rows, clip: z.number() }),
  expected: z.object({ advantages: Rows, clip_fraction: z.number() }),
});

function checkClip(golden: unknown): string {
  const { inputs, expected } = ClipSchema.parse(golden);
  const clipped = whiten(inputs.x, inputs.mask).map((row) => clipAdvantages(row, inputs.clip));
  const entries = sum(inputs.x.map((row) => row.length));
  return report(
    compareRows(
      "advantages",
      clipped.map((row) => row.advantages_T),
      expected.advantages,
    ),
    compareNumber("clip_fraction", sum(clipped.map((row) => row.clipped)) / entries, expected.clip_fraction),
  );
}

export const ADVANTAGES: readonly Operation[] = [
  ["reinforce/", checkReinforce],
  ["gae/", checkGae(gae)],
  ["gae_compact/", checkGae(compactGae)],
  ["group/", checkGroup],
  ["gigpo/", checkGigpo],
  ["step_reinforce/", checkStepReinforce],
  ["chunk_return/", checkChunkReturn],
  ["ipa/", checkIpa],
  ["place_reward/", checkPlaceReward],
  ["whiten/", checkWhiten],
  ["advantage_clip/", checkClip],
];
