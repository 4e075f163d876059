/** The loss of one minibatch as weights of its terms: the algorithm's, a KL term, a critic's. */

import { countDenominators, type Denominators, rowDivisor } from "../algorithms/aggregation.ts";
import { policyLoss } from "../algorithms/index.ts";
import { klLoss } from "../algorithms/kl.ts";
import { countOnes } from "../algorithms/levels.ts";
import { valueLoss } from "../algorithms/value-loss.ts";
import type { Credit } from "./credit.ts";
import { teacherTerm } from "./distillation.ts";
import type { BackwardTerms } from "./loss-terms.ts";
import type { RatioMeter } from "./ratio-meter.ts";
import type { PolicyJob } from "./update.ts";

/** What the current weights say about the minibatch, in the order of its members. */
export interface Current {
  readonly logprobs: readonly Float32Array[];
  /** Of the value head, where there is a critic. */
  readonly values: readonly Float32Array[];
  /** Of the teacher's likeliest tokens, where it has a part in the loss. */
  readonly candidateLogprobs: readonly Float32Array[];
}

export interface MinibatchLoss {
  readonly weights: readonly Float32Array[];
  readonly terms: BackwardTerms;
  /** The policy's part; KL and value loss are beside it. */
  readonly loss: number;
  /** From sampled tokens; 0 where the engine sums over the vocabulary. */
  readonly klLoss: number;
  readonly valueLoss: number;
  /** Tokens whose value was clipped. */
  readonly valuesClipped: number;
  /** Divergence from the teacher with its weight, where it is a term. */
  readonly teacherLoss: number;
  readonly clipped: number;
  /** Those of them with a negative advantage; NaN where the loss does not tell. */
  readonly clippedLow: number;
  readonly approxKl: number;
  readonly tokens: number;
}

/** Denominators count the whole minibatch, so micro-batches add up exactly. @param ratios is shown every sequence. */
export function minibatchLoss(
  job: PolicyJob,
  members: readonly number[],
  credit: Credit,
  current: Current,
  ratios?: RatioMeter,
): MinibatchLoss {
  const at = <T>(items: readonly T[], i: number): T => items[i] as T;
  const places = members.map((i) => ({ mask_T: at(job.masks, i), turnIds_T: at(job.turnIds, i) }));
  const denominators = countDenominators(places);
  const sums = { loss: 0, klLoss: 0, valueLoss: 0, valuesClipped: 0, clipped: 0, clippedLow: 0, approxKl: 0 };
  const weights = members.map((i, k) => {
    const place = at(places, k);
    const input = {
      ...place,
      logprobs_T: at(current.logprobs, k),
      behaviour_T: at(job.behaviour, i),
      proximal_T: credit.proximal?.[i],
      advantages_T: at(credit.advantages, i),
      score: at(job.rewards, i),
      ...weighted(job, credit, i),
    };
    ratios?.add(input);
    const output = policyLoss(job.algorithm, input, denominators);
    sums.loss += output.loss;
    sums.clipped += output.clipped;
    sums.clippedLow += output.clippedLow ?? Number.NaN;
    sums.approxKl += output.approxKl;
    const reference_T = credit.reference?.[i];
    if (job.kl?.in !== "loss" || job.kl.estimator === "full" || reference_T === undefined) return output.weights_T;
    const { aggregation, normLength } = job.algorithm;
    const scale = { ...denominators, aggregation, normLength };
    const { coefficient, estimator } = job.kl;
    const kl = klLoss({ ...input, reference_T }, { ...scale, kind: estimator });
    sums.klLoss += kl.loss;
    return output.weights_T.map((weight, t) => weight + coefficient * (kl.weights_T[t] as number));
  });
  const values = valueTerm(job, members, credit, current, denominators.tokens);
  sums.valueLoss = values?.loss ?? 0;
  sums.valuesClipped = values?.clipped ?? 0;
  const { kl, algorithm } = job;
  const perToken = (weight: number) => (weight === 0 ? undefined : spread(job, members, denominators, weight));
  const entropyWeights = perToken(algorithm.entropy);
  const isFull = kl?.in === "loss" && kl.estimator === "full";
  const divergenceWeights = isFull ? perToken(-kl.coefficient) : undefined;
  const { aggregation, normLength } = algorithm;
  const scale = { ...denominators, aggregation, normLength };
  const taught = teacherTerm(job, members, current.candidateLogprobs, scale);
  const terms = {
    ...(values && { values: { weights: values.weights, into: values.into } }),
    ...(taught && { candidates: taught.candidates }),
    ...(entropyWeights && { entropyWeights }),
    ...(divergenceWeights && { divergenceWeights }),
  };
  return { weights, terms, ...sums, teacherLoss: taught?.loss ?? 0, tokens: denominators.tokens };
}

/** `weight` of what precedes each token the policy wrote, aggregated as the losses are. */
function spread({ algorithm, masks }: PolicyJob, members: readonly number[], scale: Denominators, weight: number) {
  const { aggregation, normLength } = algorithm;
  return members.map((i) => {
    const mask_T = masks[i] as Uint8Array;
    const divisor = rowDivisor({ ...scale, aggregation, normLength }, countOnes(mask_T));
    return Float32Array.from(mask_T, (bit) => (bit * weight) / divisor);
  });
}

/** What the loss of sequence `i` is multiplied by, and which tokens have one, where that is not 1 and all. */
function weighted({ episodeWeights, masks }: PolicyJob, { corrections }: Credit, i: number) {
  const { factors_T, lossMask_T } = corrections?.[i] ?? {};
  const weight = episodeWeights?.[i] ?? 1;
  if (factors_T === undefined && weight === 1) return { lossMask_T };
  const length = masks[i]?.length ?? 0;
  return { lossMask_T, factors_T: Float64Array.from({ length }, (_, t) => weight * (factors_T?.[t] ?? 1)) };
}

/** The critic's loss, with −∂/∂V times its share in the whole. */
function valueTerm(
  { algorithm, masks }: PolicyJob,
  members: readonly number[],
  { critic }: Credit,
  { values }: Current,
  tokens: number,
) {
  if (critic === undefined) return undefined;
  let [loss, clipped] = [0, 0];
  const weights = members.map((i, k) => {
    const input = {
      values_T: values[k] as Float32Array,
      oldValues_T: critic.oldValues[i] as Float32Array,
      returns_T: critic.returns[i] as Float64Array,
      mask_T: masks[i] as Uint8Array,
    };
    const output = valueLoss(input, { clip: algorithm.valueClip, tokens });
    loss += output.loss;
    clipped += output.clipped;
    return Float32Array.from(output.gradient_T, (gradient) => -algorithm.valueWeight * gradient);
  });
  return { loss, clipped, weights, into: algorithm.trunk ? ("trunk" as const) : ("head" as const) };
}
