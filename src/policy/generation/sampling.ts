/** What a request's sampling options ask of the decode graph, and sampling outside of it where the graph cannot decide. */

import { AleError } from "../../core/errors.ts";
import type { SamplingOptions } from "../../core/ports.ts";
import { MAX_TOP_LOGPROBS, type SamplingVariant } from "./sampling-graph.ts";

/** Sampling options with every default filled in; an option that is off has the value that changes nothing. */
export interface SamplingPlan {
  readonly variant: SamplingVariant;
  readonly greedy: boolean;
  readonly inverseTemperature: number;
  /** Top-k, top-p or min-p is on. */
  readonly truncate: boolean;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly penalty: number;
  readonly topLogprobs: number;
}

/** More tokens than any vocabulary has. */
const ALL = 0x7fffffff;
/** Above any id, and small enough for 32 bits beside it in a double. */
const ID_SPAN = 2 ** 20;

/** @throws AleError("engine") naming the option that is out of bounds. */
export function planSampling(options: SamplingOptions, vocabulary: number): SamplingPlan {
  checkSampling(options);
  const { greedy, temperature, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, topLogprobs = 0 } = options;
  const limited = topK > 0 && topK < vocabulary;
  const truncate = !greedy && (limited || topP < 1 || minP > 0);
  const extended = truncate || topLogprobs > 0 ? "truncated" : "plain";
  return {
    variant: repetitionPenalty === 1 ? extended : "penalized",
    greedy,
    inverseTemperature: greedy ? 1 : 1 / temperature,
    truncate,
    topK: limited ? topK : ALL,
    topP: topP < 1 ? topP : 2,
    minP,
    penalty: repetitionPenalty,
    topLogprobs: Math.min(topLogprobs, vocabulary),
  };
}

function checkSampling(options: SamplingOptions): void {
  const { greedy, temperature, maxTokens, topK, topP, minP, repetitionPenalty, seed, topLogprobs } = options;
  const check = (name: string, value: number | undefined, ok: (value: number) => boolean, wanted: string) => {
    if (value !== undefined && !ok(value)) throw new AleError("engine", `${name} is ${value}; it must be ${wanted}`);
  };
  const whole = (value: number) => Number.isSafeInteger(value);
  check("maxTokens", maxTokens, (value) => whole(value) && value >= 1, "a whole number of at least 1");
  if (!greedy) {
    const positive = (value: number) => value > 0 && Number.isFinite(value);
    check("temperature", temperature, positive, "above 0 (use greedy for the most likely token)");
  }
  check("topK", topK, (value) => whole(value) && value >= 0, "a whole number, 0 for all tokens");
  check("topP", topP, (value) => value > 0 && value <= 1, "above 0 and at most 1");
  check("minP", minP, (value) => value >= 0 && value <= 1, "between 0 and 1");
  check("repetitionPenalty", repetitionPenalty, (value) => value > 0 && Number.isFinite(value), "above 0");
  check("seed", seed, (value) => whole(value) && value >= 0, "a whole number of at least 0");
  const shown = (value: number) => whole(value) && value >= 0 && value <= MAX_TOP_LOGPROBS;
  check("topLogprobs", topLogprobs, shown, `a whole number up to ${MAX_TOP_LOGPROBS}`);
}

/** One row's sample and the tokens that could have been, in descending order; `logprobs` belongs to `ids`. */
export interface TruncatedSample {
  readonly token: number;
  readonly logprob: number;
  readonly ids: Int32Array;
  readonly logprobs: Float64Array;
}

/**
 * Samples one row with truncation in float64, over the whole vocabulary: for rows whose truncation allows more tokens than
 * the graph looks at.
 * @param logits_V after the repetition penalty, before temperature.
 * @param uniform in (0, 1).
 */
export function sampleTruncated(logits_V: Float32Array, plan: SamplingPlan, uniform: number): TruncatedSample {
  const { inverseTemperature, topK, topP, minP } = plan;
  let most = Number.NEGATIVE_INFINITY;
  for (const logit of logits_V) most = Math.max(most, logit);
  const weights_V = Float64Array.from(logits_V, (logit) => Math.exp((logit - most) * inverseTemperature));
  const best = rankDescending(logits_V).subarray(0, topK);
  const total = best.reduce((sum, id) => sum + (weights_V[id] as number), 0);
  let count = 0;
  let kept = 0;
  while (count < best.length) {
    const weight = weights_V[best[count] as number] as number;
    if (kept >= topP * total || weight < minP) break;
    kept += weight;
    count++;
  }
  const ids = best.slice(0, count);
  const logprobs = Float64Array.from(ids, (id) => Math.log((weights_V[id] as number) / kept));
  let index = 0;
  let reached = weights_V[ids[0] as number] as number;
  while (index < count - 1 && reached < uniform * kept) reached += weights_V[ids[++index] as number] as number;
  return { token: ids[index] as number, logprob: logprobs[index] as number, ids, logprobs };
}

/** Ids by descending logit, of equal logits the lower id first. */
function rankDescending(logits_V: Float32Array): Int32Array {
  // One exact number per token, so that the engine's own sort of numbers does the work: the float's bits in an order that
  // is numeric also for negatives, then the id.
  const bits = new Int32Array(logits_V.buffer, logits_V.byteOffset, logits_V.length);
  const keys = Float64Array.from(bits, (raw, id) => {
    const ordered = raw < 0 ? raw ^ 0x7fffffff : raw;
    return id - ordered * ID_SPAN;
  });
  keys.sort();
  return Int32Array.from(keys, (key) => ((key % ID_SPAN) + ID_SPAN) % ID_SPAN);
}

/** log softmax(logits) at `id`, at temperature 1. */
export function logprobAt(logits_V: Float32Array, id: number): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const logit of logits_V) most = Math.max(most, logit);
  let sum = 0;
  for (const logit of logits_V) sum += Math.exp(logit - most);
  return (logits_V[id] as number) - most - Math.log(sum);
}
