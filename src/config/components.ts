/**
 * The parts an algorithm is put together from, with their bounds. A type (`algorithm.ts`) sets some of them, an experiment
 * may set any; `composition.ts` says what the rest are and which go together. docs/algorithms.md has the formulas.
 */

import { z } from "zod";

export const ESTIMATORS = [
  ...(["reinforce", "gae", "grpo", "rloo", "reinforce_plus_plus"] as const),
  ...(["lite_ppo", "gigpo", "step_reinforce", "ipa"] as const),
] as const;
export type Estimator = (typeof ESTIMATORS)[number];

export const LOSSES = ["vanilla", "ppo", "tis", "topr", "cispo", "kimi", "gspo", "ipa"] as const;
export type Loss = (typeof LOSSES)[number];

/** Over what a mean or a spread is taken; `running` is the run so far, `none` leaves it out. */
export const SCOPES = ["group", "batch", "running", "none"] as const;
export type Scope = (typeof SCOPES)[number];

export const AGGREGATIONS = [
  "token-mean",
  "seq-mean-token-sum",
  "seq-mean-token-mean",
  "seq-mean-token-sum-norm",
  "chunk-mean",
] as const;

/** What a ratio is about: a token, the geometric mean of a turn or an episode, or the product over an episode. */
export const LEVELS = ["token", "chunk", "sequence", "product"] as const;

export const range = (low: number, high: number, description: string) =>
  z.number().min(low).max(high).describe(description);
const ratioBound = (description: string) => range(0, 1e9, description).optional();

const FilterSchema = z.strictObject({
  level: z.enum(LEVELS).default("token").describe("What is kept or left out as a whole"),
  ratioLow: ratioBound("Smallest π_old/μ that stays"),
  ratioHigh: ratioBound("Largest π_old/μ that stays"),
  differenceLow: range(-1, 1, "Smallest π_old − μ that stays").optional(),
  differenceHigh: range(-1, 1, "Largest π_old − μ that stays").optional(),
});

const CorrectionSchema = z
  .strictObject({
    weight: z
      .enum(LEVELS)
      .optional()
      .describe("Multiply losses by min(π_old/μ, weightBound) of this level; with loss ppo this is decoupled PPO"),
    weightBound: range(0, 1e6, "Largest importance weight; 1.2 when omitted").optional(),
    filters: z
      .array(FilterSchema)
      .min(1)
      .max(16)
      .optional()
      .describe("Tokens outside of any of these bounds have no loss"),
  })
  .describe("Corrects for what generation (μ) and training (π_old) make of the same tokens, stale weights included");
export type Correction = z.infer<typeof CorrectionSchema>;

/** Every component, in the order in which it acts. */
export const COMPONENTS = {
  advantage: z.enum(ESTIMATORS).describe("How rewards become advantages (verl, ROLL: adv_estimator)"),
  normMean: z.enum(SCOPES).describe("What mean is taken off the rewards"),
  normStd: z.enum(SCOPES).describe("What spread they are divided by; without spread they are 0"),
  rewardClip: range(1e-9, 1e9, "Rewards stay within ± this, after normalisation"),
  discount: range(0, 1, "γ, per token (reinforce, gae) or per turn (ipa, gigpo, step_reinforce)"),
  lambda: range(0, 1, "λ of generalised advantage estimation"),
  compact: z
    .boolean()
    .describe("Discount over the policy's own tokens only, so that the length of observations has no part in it"),
  failure: z
    .enum(["group-centred", "minus-one"])
    .describe("Final reward of a failure: the reward minus its group's mean, or −1 (and 1 for a success)"),
  state: z
    .enum(["history", "observation"])
    .describe("Turns compared with each other: after the same history, or after the same last observation"),
  episodeWeight: range(0, 1000, "Weight of the advantage of the whole episode"),
  stepWeight: range(0, 1000, "Weight of the advantage among turns that started in the same state"),
  whitenRewards: z.boolean().describe("Divide the rewards of tokens by their spread over the step"),
  whiten: z.boolean().describe("Bring advantages to mean 0 and variance 1 over the step"),
  advantageClip: range(1e-9, 1e9, "Advantages stay within ± this"),
  valueClip: range(0.001, 1e9, "Values stay within this of those before the step in the clipped value loss"),
  valueWeight: range(0, 1000, "Weight of the value loss beside the policy's"),
  valueLr: range(0, 10, "Peak learning rate of the value head; it follows the optimizer's schedule"),
  trunk: z.boolean().describe("Let the value loss train the model too, not the value head alone"),
  loss: z.enum(LOSSES).describe("What of an advantage reaches a token (ROLL: pg_variant; verl: loss_mode)"),
  ratio: z
    .enum(["token", "chunk", "sequence"])
    .describe("What an importance ratio is about: a token, the geometric mean of a turn, or that of an episode"),
  clip: range(0.001, 10, "Ratio clip ε: ratios stay in [1 − ε, 1 + ε]"),
  clipLow: range(0, 1, "Ratios stay above 1 − clipLow"),
  clipHigh: range(0, 100, "Upper ratio clip where it differs from the lower one (clip-higher)"),
  dualClip: range(1, 100, "Largest ratio that counts against a negative advantage, above 1 + clip"),
  unifiedMask: z.boolean().describe("Leave out tokens that PPO would clip"),
  lower: range(0, 1, "Smallest importance weight"),
  upper: range(1, 100, "Largest importance weight"),
  positives: z
    .enum(["advantage", "score"])
    .describe("What makes a token positive: its advantage (safe), or the raw reward of its episode (as ROLL)"),
  positiveWeight: range(0, 100, "Weight of positive tokens"),
  negativeWeight: range(0, 100, "Weight of negative tokens"),
  tau: range(0, 1000, "τ, weight of the squared log-ratio"),
  mismatchHigh: range(
    1,
    1e9,
    "H: turns whose training probability exceeds the generating one by more than this factor are left out",
  ),
  mismatchLow: range(0, 1, "Lower bound of the same factor; 0 = none, as in the paper"),
  proximal: z
    .enum(["behaviour", "recompute"])
    .describe("π_old: what was sampled from, or training's own view of it before the first update"),
  aggregation: z
    .enum(AGGREGATIONS)
    .describe("How token losses become one number; token-mean counts every token alike (verl, ROLL: loss_agg_mode)"),
  normLength: range(1, 1e9, "Constant length of seq-mean-token-sum-norm, in tokens"),
  entropy: range(
    0,
    100,
    "Weight of the entropy of what the policy could have written, which keeps it exploring; 0 = off",
  ),
  lengthWeight: z.boolean().describe("Weigh episodes 1.5 (shortest of the step) to 0.5 (longest)"),
  difficultyWeight: z.boolean().describe("Weigh episodes 0.5 (all of the group succeed) to 2 (none does)"),
  correction: CorrectionSchema,
};

export type Components = z.infer<z.ZodObject<typeof COMPONENTS>>;
export type ComponentKey = keyof Components;
