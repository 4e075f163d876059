/** The `algorithm` table of an experiment: one variant per type; docs/algorithms.md has the formulas. */

import { z } from "zod";

const range = (low: number, high: number, value: number, description: string) =>
  z.number().min(low).max(high).default(value).describe(description);

const AGGREGATIONS = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "chunk-mean"] as const;
const AGGREGATION_TEXT = "How token losses become one number; token-mean counts every token alike";
const aggregation = (value: (typeof AGGREGATIONS)[number]) =>
  z.enum(AGGREGATIONS).default(value).describe(AGGREGATION_TEXT);
/** Absent unless set, so that experiments of before the setting existed keep their hash. */
const optionalAggregation = z.enum(AGGREGATIONS).optional().describe(`${AGGREGATION_TEXT}; token-mean when omitted`);

const ratio = z
  .enum(["token", "chunk", "sequence"])
  .default("token")
  .describe("What an importance ratio is about: a token, the geometric mean of a turn, or that of an episode");
const normalizeStd = z
  .boolean()
  .default(true)
  .describe("Divide group-centred rewards by the group's standard deviation");

const PPO_CLIP = {
  clip: range(0.001, 10, 0.2, "Ratio clip ε: ratios stay in [1 − ε, 1 + ε]"),
  clipHigh: z
    .number()
    .min(0.001)
    .max(10)
    .optional()
    .describe("Upper ratio clip where it differs from clip (clip-higher)"),
  dualClip: z
    .number()
    .min(1)
    .max(100)
    .optional()
    .describe("Largest ratio that counts against a negative advantage, above 1 + clip; no such bound when omitted"),
};

const ReinforceSchema = z.strictObject({
  type: z.literal("reinforce"),
  baseline: z.enum(["group", "batch", "none"]).default("group").describe("What is subtracted from the reward"),
  aggregation: optionalAggregation,
});

const GrpoSchema = z.strictObject({
  type: z.literal("grpo"),
  ...PPO_CLIP,
  normalizeStd,
  aggregation: optionalAggregation,
});

const PpoSchema = z.strictObject({
  type: z.literal("ppo"),
  ...PPO_CLIP,
  discount: range(0, 1, 1, "γ per token"),
  lambda: range(0, 1, 0.95, "λ of generalised advantage estimation"),
  compact: z
    .boolean()
    .default(true)
    .describe("Estimate over the policy's own tokens only, so that the length of observations has no part in it"),
  whiten: z.boolean().default(true).describe("Bring advantages to mean 0 and variance 1 over the step"),
  valueClip: range(0.001, 1e9, 0.2, "Values stay within this of those before the step in the clipped value loss"),
  valueWeight: range(0, 1000, 0.5, "Weight of the value loss beside the policy's"),
  valueLr: range(0, 10, 1e-3, "Peak learning rate of the value head; it follows the optimizer's schedule"),
  trunk: z.boolean().default(true).describe("Let the value loss train the model too, not the value head alone"),
  aggregation: aggregation("token-mean"),
});

const RlooSchema = z.strictObject({ type: z.literal("rloo"), ...PPO_CLIP, aggregation: aggregation("token-mean") });

const ReinforcePlusPlusSchema = z.strictObject({
  type: z.literal("reinforce_plus_plus"),
  ...PPO_CLIP,
  aggregation: aggregation("token-mean"),
});

const LitePpoSchema = z.strictObject({
  type: z.literal("lite_ppo"),
  ...PPO_CLIP,
  aggregation: aggregation("token-mean"),
});

const ToprSchema = z.strictObject({
  type: z.literal("topr"),
  positives: z
    .enum(["advantage", "score"])
    .default("advantage")
    .describe("What makes a token positive: its advantage (safe), or the raw reward of its episode (as ROLL)"),
  positiveWeight: range(0, 100, 1, "Weight of positive tokens"),
  negativeWeight: range(0, 100, 1, "Weight of negative tokens"),
  ratio,
  normalizeStd,
  aggregation: aggregation("token-mean"),
});

const TisSchema = z.strictObject({
  type: z.literal("tis"),
  lower: range(0, 1, 0, "Smallest importance weight"),
  upper: range(1, 100, 1, "Largest importance weight"),
  ratio,
  normalizeStd,
  aggregation: aggregation("token-mean"),
});

const CispoSchema = z.strictObject({
  type: z.literal("cispo"),
  clipLow: range(0, 1, 1, "Importance weights stay above 1 − clipLow; 1 = no lower bound, as in the paper"),
  clipHigh: range(0, 100, 0.2, "Importance weights stay below 1 + clipHigh"),
  unifiedMask: z.boolean().default(false).describe("Leave out tokens that PPO would clip"),
  ratio,
  normalizeStd,
  aggregation: aggregation("token-mean"),
});

const GspoSchema = z.strictObject({
  type: z.literal("gspo"),
  clipLow: range(1e-5, 1, 0.03, "Ratios of an episode (geometric means) stay above 1 − clipLow"),
  clipHigh: range(1e-5, 10, 0.04, "Ratios of an episode stay below 1 + clipHigh"),
  normalizeStd,
  aggregation: aggregation("seq-mean-token-mean"),
});

const IpaSchema = z.strictObject({
  type: z.literal("ipa"),
  discount: range(0, 1, 0.95, "γ per turn: turn k of K gets γ^(K − k) of the final reward"),
  failure: z
    .enum(["group-centred", "minus-one"])
    .default("group-centred")
    .describe("Final reward of a failure: the reward minus its group's mean, or −1 (and 1 for a success)"),
  mismatchHigh: range(
    1,
    1e9,
    1.05,
    "H: turns whose training probability exceeds the generating one by more than this factor are left out",
  ),
  mismatchLow: range(0, 1, 0, "Lower bound of the same factor; 0 = none, as in the paper"),
  aggregation: aggregation("token-mean"),
});

export const AlgorithmSchema = z
  .discriminatedUnion("type", [
    GrpoSchema,
    PpoSchema,
    ReinforceSchema,
    RlooSchema,
    ReinforcePlusPlusSchema,
    LitePpoSchema,
    ToprSchema,
    TisSchema,
    CispoSchema,
    GspoSchema,
    IpaSchema,
  ])
  .prefault({ type: "grpo" })
  .describe("Credit assignment and policy loss");

export const KlSchema = z
  .strictObject({
    in: z
      .enum(["loss", "reward"])
      .default("loss")
      .describe("Added to the loss, or taken off the rewards before advantages are computed"),
    coefficient: range(0, 1000, 0.001, "β, its weight; where it adapts, what it starts from"),
    estimator: z
      .enum(["k1", "abs", "k2", "k3", "k3-clamped-ratio"])
      .default("k3")
      .describe("Estimator of the divergence on sampled tokens; k1 suits rewards, k3 the loss"),
    target: z
      .number()
      .min(1e-9)
      .max(1e6)
      .optional()
      .describe("Divergence per token that β is steered to; β stays as it is when omitted"),
    horizon: range(1, 1e9, 10_000, "Episodes over which β adapts"),
  })
  .optional()
  .describe("Keep the policy near its start: the model without adapters, or a frozen copy of the first weights");
