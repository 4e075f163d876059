/**
 * The `algorithm` table of an experiment. A type is a name for a choice of components: it sets defaults, which any key
 * overrides; docs/algorithms.md has the formulas.
 */

import { z } from "zod";
import { range as bounded, COMPONENTS } from "./components.ts";
import { algorithmProblems } from "./composition.ts";

const range = (low: number, high: number, value: number, description: string) =>
  bounded(low, high, description).default(value);

/** Absent unless set, so that experiments of before a setting existed keep their hash. */
const OPTIONAL = Object.fromEntries(
  Object.entries(COMPONENTS).map(([key, schema]) => [key, schema.optional()]),
) as unknown as { readonly [K in keyof typeof COMPONENTS]: z.ZodOptional<(typeof COMPONENTS)[K]> };

/** A type whose own settings have the given defaults; all other components may be set beside them. */
function preset<T extends string, Own extends z.core.$ZodLooseShape>(type: T, own: Own) {
  const shape = { type: z.literal(type), ...OPTIONAL, ...own };
  return z.strictObject(shape as { type: z.ZodLiteral<T> } & Omit<typeof OPTIONAL, keyof Own> & Own);
}

const { ratio, failure, aggregation, whiten, compact, trunk, positives, unifiedMask } = COMPONENTS;
const normalizeStd = z
  .boolean()
  .default(true)
  .describe("Divide group-centred rewards by the group's standard deviation");
const tokenMean = aggregation.default("token-mean");
const clip = range(0.001, 10, 0.2, "Ratio clip ε: ratios stay in [1 − ε, 1 + ε]");

const SCHEMAS = [
  preset("grpo", { clip, normalizeStd }),
  preset("ppo", {
    clip,
    discount: range(0, 1, 1, "γ per token"),
    lambda: COMPONENTS.lambda.default(0.95),
    compact: compact.default(true),
    whiten: whiten.default(true),
    valueClip: COMPONENTS.valueClip.default(0.2),
    valueWeight: COMPONENTS.valueWeight.default(0.5),
    valueLr: COMPONENTS.valueLr.default(1e-3),
    trunk: trunk.default(true),
    aggregation: tokenMean,
  }),
  preset("reinforce", {
    baseline: z.enum(["group", "batch", "none"]).default("group").describe("What is subtracted from the reward"),
  }),
  preset("rloo", { clip, aggregation: tokenMean }),
  preset("reinforce_plus_plus", { clip, aggregation: tokenMean }),
  preset("lite_ppo", { clip, aggregation: tokenMean }),
  preset("topr", {
    positives: positives.default("advantage"),
    positiveWeight: COMPONENTS.positiveWeight.default(1),
    negativeWeight: COMPONENTS.negativeWeight.default(1),
    ratio: ratio.default("token"),
    normalizeStd,
    aggregation: tokenMean,
  }),
  preset("tis", {
    lower: COMPONENTS.lower.default(0),
    upper: COMPONENTS.upper.default(1),
    ratio: ratio.default("token"),
    normalizeStd,
    aggregation: tokenMean,
  }),
  preset("cispo", {
    clipLow: range(0, 1, 1, "Importance weights stay above 1 − clipLow; 1 = no lower bound, as in the paper"),
    clipHigh: range(0, 100, 0.2, "Importance weights stay below 1 + clipHigh"),
    unifiedMask: unifiedMask.default(false),
    ratio: ratio.default("token"),
    normalizeStd,
    aggregation: tokenMean,
  }),
  preset("gspo", {
    clipLow: range(1e-5, 1, 0.03, "Ratios of an episode (geometric means) stay above 1 − clipLow"),
    clipHigh: range(1e-5, 10, 0.04, "Ratios of an episode stay below 1 + clipHigh"),
    normalizeStd,
    aggregation: aggregation.default("seq-mean-token-mean"),
  }),
  preset("ipa", {
    discount: range(0, 1, 0.95, "γ per turn: turn k of K gets γ^(K − k) of the final reward"),
    failure: failure.default("group-centred"),
    mismatchHigh: COMPONENTS.mismatchHigh.default(1.05),
    mismatchLow: COMPONENTS.mismatchLow.default(0),
    aggregation: tokenMean,
  }),
  preset("gigpo", {}),
  preset("step_reinforce", {}),
  preset("kimi", {}),
  preset("decoupled_ppo", {}),
] as const;

export const AlgorithmSchema = z
  .discriminatedUnion("type", SCHEMAS)
  .superRefine((config, context) => {
    for (const { path, message } of algorithmProblems(config, typeDefaults(config.type)))
      context.addIssue({ code: "custom", path: [...path], message });
  })
  .prefault({ type: "grpo" })
  .describe("Credit assignment and policy loss: a type, and what is to differ from it");

export type AlgorithmConfig = z.infer<(typeof SCHEMAS)[number]>;
export type AlgorithmType = AlgorithmConfig["type"];
export const ALGORITHM_TYPES: readonly AlgorithmType[] = SCHEMAS.map(({ shape }) => shape.type.value);

const defaults = new Map<AlgorithmType, AlgorithmConfig>();

/** What a type sets when nothing is set beside it. */
function typeDefaults(type: AlgorithmType): AlgorithmConfig {
  const known = defaults.get(type);
  if (known !== undefined) return known;
  const schema = SCHEMAS.find(({ shape }) => shape.type.value === type) as (typeof SCHEMAS)[number];
  const parsed = schema.parse({ type });
  defaults.set(type, parsed);
  return parsed;
}

export const KlSchema = z
  .strictObject({
    in: z
      .enum(["loss", "reward"])
      .default("loss")
      .describe("Added to the loss, or taken off the rewards before advantages are computed"),
    coefficient: range(0, 1000, 0.001, "β, its weight; where it adapts, what it starts from"),
    estimator: z
      .enum(["k1", "abs", "k2", "k3", "k3-clamped-ratio", "full"])
      .default("k3")
      .describe(
        "Estimator of the divergence on sampled tokens, k1 suits rewards, k3 the loss; or `full`: the sum over the vocabulary",
      ),
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
