/** Golden vectors of policy losses, their aggregation and the critic's loss (`02`). */

import { z } from "zod";
import { countDenominators, type Denominators, type LossScale } from "../../src/algorithms/aggregation.ts";
import { cispoLoss } from "../../src/algorithms/cispo.ts";
import { correct } from "../../src/algorithms/correction.ts";
import { gspoLoss } from "../../src/algorithms/gspo.ts";
import {
  type ExpertInput,
  type IpaOptions,
  imitationLoss,
  ipaLoss,
  ipaMixedLoss,
  ipaTokens,
} from "../../src/algorithms/ipa.ts";
import { kimiLoss } from "../../src/algorithms/kimi.ts";
import { klLoss } from "../../src/algorithms/kl.ts";
import type { Level, Numbers } from "../../src/algorithms/levels.ts";
import {
  combineLosses,
  linearLoss,
  type PolicyLossInput,
  type PolicyLossOutput,
  policyRatios,
  ppoLoss,
  vanillaLoss,
} from "../../src/algorithms/policy-loss.ts";
import { tisLoss } from "../../src/algorithms/tis.ts";
import { toprLoss } from "../../src/algorithms/topr.ts";
import { valueLoss } from "../../src/algorithms/value-loss.ts";
import { AGGREGATIONS } from "../../src/config/components.ts";
import {
  at,
  compareExact,
  compareNumber,
  compareNumbers,
  compareRows,
  negate,
  type Operation,
  Row,
  Rows,
  report,
  requireZeros,
  sum,
} from "./compare.ts";

const Aggregation = z.enum(AGGREGATIONS);
const DenominatorsSchema = z
  .object({ tokens: z.number(), samples: z.number(), chunks: z.number(), norm_length: z.number() })
  .transform(({ norm_length, ...rest }): Denominators => ({ ...rest, normLength: norm_length }));

const RatioLevel = z.enum(["token", "chunk", "sequence"]).optional();
const Ppo = { ratio: RatioLevel, eps_low: z.number(), eps_high: z.number(), dual_clip: z.number().optional() };

/** Parameters of each variant, and the loss they stand for. */
const VARIANTS: Readonly<Record<string, (parameters: unknown) => LossOf>> = {
  vanilla: () => (input, scale) => vanillaLoss(input, scale),
  ppo: (parameters) => {
    const { eps_low: clipLow, eps_high: clipHigh, dual_clip: dualClip, ratio } = z.object(Ppo).parse(parameters);
    return (input, scale) =>
      ratio === "sequence"
        ? gspoLoss(input, { ...scale, clipLow, clipHigh })
        : ppoLoss(input, { ...scale, clip: clipLow, clipHigh, dualClip, ratio });
  },
  decoupled: (parameters) => {
    const schema = z.object({ ...Ppo, is_weight: z.enum(["token", "chunk"]), is_upper: z.number() });
    const p = schema.parse(parameters);
    const options = { clip: p.eps_low, clipHigh: p.eps_high, ratio: p.ratio };
    const correction = { weight: p.is_weight, weightBound: p.is_upper };
    return (input, scale) => ppoLoss({ ...input, ...correct(input, correction) }, { ...scale, ...options });
  },
  tis: (parameters) => {
    const p = z.object({ ratio: RatioLevel, lower: z.number(), upper: z.number() }).parse(parameters);
    return (input, scale) => tisLoss(input, { ...scale, ...p });
  },
  topr: (parameters) => {
    const schema = z.object({ ratio: RatioLevel, sign: z.string(), w_pos: z.number(), w_neg: z.number() });
    const p = schema.parse(parameters);
    const options = { positives: positivesOf(p.sign), positiveWeight: p.w_pos, negativeWeight: p.w_neg };
    return (input, scale) => toprLoss(input, { ...scale, ...options, ratio: p.ratio });
  },
  cispo: (parameters) => {
    const p = z.object({ ...Ppo, unified_mask: z.boolean() }).parse(parameters);
    const options = { clipLow: p.eps_low, clipHigh: p.eps_high, unifiedMask: p.unified_mask, ratio: p.ratio };
    return (input, scale) => cispoLoss(input, { ...scale, ...options });
  },
  kimi15: (parameters) => {
    const { tau } = z.object({ tau: z.number() }).parse(parameters);
    return (input, scale) => kimiLoss(input, { ...scale, tau });
  },
  ipa: (parameters) => {
    const options = ipaOptions(parameters);
    return (input, scale) => ipaLoss(input, { ...scale, ...options });
  },
};

type LossOf = (input: PolicyLossInput, scale: LossScale) => PolicyLossOutput;

function positivesOf(sign: string): "advantage" | "score" {
  return sign === "roll" || sign === "raw" ? "score" : "advantage";
}

function ipaOptions(parameters: unknown): Pick<IpaOptions, "mismatchHigh" | "mismatchLow" | "positives"> {
  const p = z.object({ H: z.number(), low: z.number().optional(), sign: z.string() }).parse(parameters);
  return { mismatchHigh: p.H, mismatchLow: p.low, positives: positivesOf(p.sign) };
}

const BatchFields = {
  logp: Rows,
  logp_old: Rows,
  logp_mu: Rows.optional(),
  advantages: Rows,
  mask: Rows,
  chunk_ids: Rows,
  loss_mask: Rows.optional(),
  episode_scores: Row.optional(),
};

const LossSchema = z.object({
  inputs: z.object({
    ...BatchFields,
    variant: z.string(),
    params: z.object({ ratio: z.string().optional() }).loose(),
    loss_agg_mode: Aggregation,
    denominators: DenominatorsSchema,
    logp_ref: Rows.optional(),
    kl_loss_coef: z.number().optional(),
    micro_batches: Row.optional(),
  }),
  expected: z.object({
    token_loss: Rows.optional(),
    loss: z.number(),
    grad: Rows,
    ratio: Rows.optional(),
    weight: Rows.optional(),
    chunk_mask: Rows.optional(),
    rho: Rows.optional(),
    parts: z.record(z.string(), Row).optional(),
  }),
});
type LossCase = z.infer<typeof LossSchema>;

/** One row of a batch. Only the losses that tell π_old from μ come with `logp_mu`. */
function rowInput(batch: z.infer<z.ZodObject<typeof BatchFields>>, i: number): PolicyLossInput {
  return {
    logprobs_T: at(batch.logp, i),
    behaviour_T: at(batch.logp_mu ?? batch.logp_old, i),
    proximal_T: at(batch.logp_old, i),
    advantages_T: at(batch.advantages, i),
    mask_T: at(batch.mask, i),
    turnIds_T: at(batch.chunk_ids, i),
    lossMask_T: batch.loss_mask?.[i],
    score: batch.episode_scores?.[i],
  };
}

function checkPolicyLoss(golden: unknown): string {
  const { inputs, expected } = LossSchema.parse(golden);
  const lossOf = VARIANTS[inputs.variant]?.(inputs.params);
  if (lossOf === undefined) throw new Error(`there is no loss ${inputs.variant}`);
  const scale: LossScale = { ...inputs.denominators, aggregation: inputs.loss_agg_mode };
  const rows = inputs.logp.map((_, i) => rowInput(inputs, i));
  const outputs = rows.map((row, i) => withKl(lossOf(row, scale), row, inputs.logp_ref?.[i], inputs, scale));
  const gradients = negate(outputs.map((output) => output.weights_T));
  requireZeros("grad", gradients, inputs.mask);
  const losses = outputs.map((output) => output.losses_T);
  return report(
    compareNumber("loss", sum(outputs.map((output) => output.loss)), expected.loss),
    compareRows("grad", gradients, expected.grad),
    expected.token_loss === undefined ? 0 : compareRows("token_loss", losses, expected.token_loss),
    compareRatios(rows, inputs, expected),
    compareIpaTokens(rows, inputs, expected),
    ...compareParts(
      outputs.map((output) => output.loss),
      expected.parts,
    ),
  );
}

function withKl(
  output: PolicyLossOutput,
  row: PolicyLossInput,
  reference_T: Numbers | undefined,
  inputs: LossCase["inputs"],
  scale: LossScale,
): PolicyLossOutput {
  if (reference_T === undefined) return output;
  const kl = klLoss({ logprobs_T: row.logprobs_T, reference_T, mask_T: row.mask_T }, { ...scale, kind: "k3" });
  return combineLosses([1, output], [inputs.kl_loss_coef ?? 0, kl]);
}

function compareRatios(
  rows: readonly PolicyLossInput[],
  inputs: LossCase["inputs"],
  expected: LossCase["expected"],
): number {
  const level = inputs.params.ratio as Level | undefined;
  if (expected.ratio === undefined || level === undefined) return 0;
  const ratios = rows.map((row) => policyRatios(row, level).map((ratio, t) => ratio * (row.mask_T[t] as number)));
  return compareRows("ratio", ratios, expected.ratio);
}

function compareIpaTokens(
  rows: readonly PolicyLossInput[],
  inputs: LossCase["inputs"],
  expected: LossCase["expected"],
): number {
  if (expected.weight === undefined || expected.rho === undefined || expected.chunk_mask === undefined) return 0;
  const options = { ...ipaOptions(inputs.params), tokens: 1 };
  const tokens = rows.map((row) => ipaTokens(row, options));
  compareExact(
    "chunk_mask",
    tokens.map((row) => [...row.kept_T]),
    expected.chunk_mask,
  );
  return Math.max(
    compareRows(
      "weight",
      tokens.map((row) => row.weight_T),
      expected.weight,
    ),
    compareRows(
      "rho",
      tokens.map((row) => row.ratio_T),
      expected.rho,
    ),
  );
}

/** The losses of 1, 2, 4 micro-batches, each the sum over its rows. */
function compareParts(losses: readonly number[], parts: Readonly<Record<string, readonly number[]>> = {}): number[] {
  return Object.entries(parts).map(([count, expected]) => {
    const size = losses.length / Number(count);
    const got = expected.map((_, i) => sum(losses.slice(i * size, (i + 1) * size)));
    return compareNumbers(`parts of ${count}`, got, expected);
  });
}

const MixedSchema = z.object({
  inputs: z.object({
    lambda_il: z.number(),
    lambda_rl: z.number(),
    il_weight: z.enum(["none", "sg_prob"]),
    params: z.unknown(),
    loss_agg_mode: Aggregation,
    denominators: DenominatorsSchema,
    denom_il: z.number(),
    fork: z.number(),
    rl: z.object(BatchFields),
    expert: z.object({ logp: Rows, returns: Rows, chunk_ids: Rows }),
  }),
  expected: z.object({
    il_loss: z.number(),
    rl_loss: z.number(),
    loss: z.number(),
    grad_rl: Rows,
    grad_il: Rows,
    il_token_weight: Rows,
  }),
});

function checkIpaMixed(golden: unknown): string {
  const { inputs, expected } = MixedSchema.parse(golden);
  const { expert } = inputs;
  const scale = { ...inputs.denominators, aggregation: inputs.loss_agg_mode, ...ipaOptions(inputs.params) };
  const reinforcement = inputs.rl.logp.map((_, i) => ipaLoss(rowInput(inputs.rl, i), scale));
  const expertRow: ExpertInput = {
    logprobs_T: at(expert.logp, 0),
    returns_T: at(expert.returns, 0),
    turnIds_T: at(expert.chunk_ids, 0),
  };
  const imitation = imitationLoss(expertRow, {
    fork: inputs.fork,
    weight: inputs.il_weight === "none" ? "none" : "chunk-probability",
    tokens: inputs.denom_il,
  });
  const mixed = ipaMixedLoss(
    { imitation, reinforcement },
    { imitation: inputs.lambda_il, reinforcement: inputs.lambda_rl },
  );
  const rlGradients = negate(mixed.reinforcement.map((output) => output.weights_T));
  return report(
    compareNumber("il_loss", imitation.loss, expected.il_loss),
    compareNumber("rl_loss", sum(reinforcement.map((output) => output.loss)), expected.rl_loss),
    compareNumber("loss", mixed.loss, expected.loss),
    compareRows("grad_rl", rlGradients, expected.grad_rl),
    compareRows("grad_il", negate([mixed.imitation.weights_T]), expected.grad_il),
    compareRows("il_token_weight", [imitation.factors_T], expected.il_token_weight),
  );
}

const AggregateSchema = z.object({
  inputs: z.object({
    token_loss: Rows,
    mask: Rows,
    chunk_ids: Rows,
    loss_agg_mode: Aggregation,
    denominators: DenominatorsSchema,
  }),
  expected: z.object({ loss: z.number(), parts: z.record(z.string(), Row), grad: Rows }),
});

/** Token losses are given: `−1 · log p` with `log p = −loss` is such a loss, and its weights are the gradient. */
function checkAggregate(golden: unknown): string {
  const { inputs, expected } = AggregateSchema.parse(golden);
  const scale: LossScale = { ...inputs.denominators, aggregation: inputs.loss_agg_mode };
  const counted = countDenominators(inputs.mask.map((mask_T, i) => ({ mask_T, turnIds_T: at(inputs.chunk_ids, i) })));
  compareExact("denominators", { ...counted, normLength: scale.normLength }, inputs.denominators);
  const outputs = inputs.token_loss.map((losses, i) => {
    const logprobs_T = losses.map((loss) => -loss);
    const input = { logprobs_T, behaviour_T: logprobs_T, advantages_T: logprobs_T, mask_T: at(inputs.mask, i) };
    return linearLoss(input, scale, () => ({ value: 1, isClipped: false }));
  });
  const losses = outputs.map((output) => output.loss);
  const gradients = outputs.map((output) => output.weights_T);
  return report(
    compareNumber("loss", sum(losses), expected.loss),
    compareRows("grad", gradients, expected.grad),
    ...compareParts(losses, expected.parts),
  );
}

const ValueSchema = z.object({
  inputs: z.object({ values: Rows, values_old: Rows, returns: Rows, mask: Rows, clip: z.number() }),
  expected: z.object({ loss: z.number(), grad: Rows }),
});

function checkValueLoss(golden: unknown): string {
  const { inputs, expected } = ValueSchema.parse(golden);
  const options = { clip: inputs.clip, tokens: sum(inputs.mask.map(sum)) };
  const outputs = inputs.values.map((values_T, i) =>
    valueLoss(
      {
        values_T,
        oldValues_T: at(inputs.values_old, i),
        returns_T: at(inputs.returns, i),
        mask_T: at(inputs.mask, i),
      },
      options,
    ),
  );
  const gradients = outputs.map((output) => output.gradient_T);
  requireZeros("grad", gradients, inputs.mask);
  return report(
    compareNumber("loss", sum(outputs.map((output) => output.loss)), expected.loss),
    compareRows("grad", gradients, expected.grad),
  );
}

/** What the names of cases with a `variant` begin with. */
const LOSS_CASES = [
  ...[
    "vanilla/",
    "ppo/",
    "tis/",
    "topr/",
    "cispo/",
    "kimi15/",
    "gspo/",
    "chunk_ratio/",
    "decoupled/",
    "total/",
    "ipa/",
  ],
  "microbatch/",
];

export const POLICY_LOSSES: readonly Operation[] = [
  ...LOSS_CASES.map((prefix): Operation => [prefix, checkPolicyLoss]),
  ["ipa_mixed/", checkIpaMixed],
  ["aggregate/", checkAggregate],
  ["value_loss/", checkValueLoss],
];
