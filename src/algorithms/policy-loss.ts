/**
 * Policy losses as pure functions of log-probabilities.
 *
 * The trainer minimises `−Σ_t w_t · log p_t` with constant weights, so a loss is given by its value and by the weights
 * `w_t = −∂loss/∂log p_t` at the current log-probabilities. Each function is about one trajectory and divides by a
 * denominator of the whole minibatch (`aggregation.ts`), so that micro-batches add up exactly. All arithmetic is float64.
 */

import { type LossScale, rowDivisor } from "./aggregation.ts";
import { clamp, countOnes, type Level, type Numbers, pool, ratios, type TokenPlaces } from "./levels.ts";

/** One trajectory; all arrays have T elements and element t is about token t. */
export interface PolicyLossInput extends TokenPlaces {
  /** Under the current weights, at the sampling temperature. */
  readonly logprobs_T: Numbers;
  /** Under the distribution that was sampled from, as the generating engine computed it (μ). */
  readonly behaviour_T: Numbers;
  /** Under the weights that were sampled from, as the training engine computes it (π_old); `behaviour_T` when omitted. */
  readonly proximal_T?: Numbers | undefined;
  /** The advantage of each token. */
  readonly advantages_T: Numbers;
  /** Tokens that count in the loss, by default all of `mask_T`. Means over chunks and sequences use all of `mask_T`. */
  readonly lossMask_T?: Numbers | undefined;
  /** Constant factor of each token's loss: importance weights of a correction, weights of episodes. */
  readonly factors_T?: Numbers | undefined;
  /** Raw reward of the episode; only `positives = "score"` needs it. */
  readonly score?: number | undefined;
}

export interface PolicyLossOutput {
  /** This trajectory's share of the minibatch loss. */
  readonly loss: number;
  /** −∂loss/∂log p_t, exactly 0 outside of the mask. */
  readonly weights_T: Float64Array;
  /** Loss of each token before aggregation, times the loss mask. */
  readonly losses_T: Float64Array;
  /** Tokens whose ratio was clipped or whose gradient was masked out. */
  readonly clipped: number;
  /** Those of them with a negative advantage; only the clipped surrogate tells. */
  readonly clippedLow?: number;
  /** Sum over tokens of the k3 estimate of KL(behaviour ‖ current): `r − 1 − log r`. */
  readonly approxKl: number;
}

/** π/π_old of every token at a level; 1 outside of the mask. */
export function policyRatios(input: PolicyLossInput, level: Level): Float64Array {
  return ratios(input.logprobs_T, input.proximal_T ?? input.behaviour_T, input, level);
}

/** Adds up what the tokens contribute. `slopes_T` is −∂(Σ losses_T)/∂log p, before aggregation. */
export function reduceTokens(
  input: PolicyLossInput,
  scale: LossScale,
  tokens: { readonly losses_T: Float64Array; readonly slopes_T: Float64Array; readonly clipped: number },
): PolicyLossOutput {
  const { losses_T, slopes_T, clipped } = tokens;
  const divisor = rowDivisor(scale, countOnes(input.lossMask_T ?? input.mask_T));
  let loss = 0;
  for (const value of losses_T) loss += value;
  return {
    loss: loss / divisor,
    weights_T: slopes_T.map((slope) => slope / divisor),
    losses_T,
    clipped,
    approxKl: sampledKl(input),
  };
}

/**
 * `−c_t log p_t` with constant coefficients: what every loss without a gradient through its ratio comes to. `coefficient`
 * is asked for the tokens of the loss mask only.
 */
export function linearLoss(
  input: PolicyLossInput,
  scale: LossScale,
  coefficient: (t: number) => { readonly value: number; readonly isClipped: boolean },
): PolicyLossOutput {
  const { logprobs_T } = input;
  const lossMask_T = input.lossMask_T ?? input.mask_T;
  const losses_T = new Float64Array(logprobs_T.length);
  const slopes_T = new Float64Array(logprobs_T.length);
  let clipped = 0;
  for (let t = 0; t < logprobs_T.length; t++) {
    if (lossMask_T[t] !== 1) continue;
    const { value: free, isClipped } = coefficient(t);
    const value = free * (input.factors_T?.[t] ?? 1);
    losses_T[t] = -value * (logprobs_T[t] as number);
    slopes_T[t] = value;
    if (isClipped) clipped++;
  }
  return reduceTokens(input, scale, { losses_T, slopes_T, clipped });
}

/** Plain policy gradient: `−A log p`, without a ratio (REINFORCE). */
export function vanillaLoss(input: PolicyLossInput, options: LossScale): PolicyLossOutput {
  return linearLoss(input, options, (t) => ({ value: input.advantages_T[t] as number, isClipped: false }));
}

export interface PpoOptions extends LossScale {
  /** ε below 1, and above it unless `clipHigh` is given. */
  readonly clip: number;
  readonly clipHigh?: number | undefined;
  /** c > 1: for A < 0 the loss is at most −c A. ROLL's constant is 1 + 2 ε. */
  readonly dualClip?: number | undefined;
  /** Default `token`. */
  readonly ratio?: Level | undefined;
}

/**
 * Clipped surrogate of PPO: `−min(r A, clip(r, 1 − ε, 1 + ε_high) A)` with `r = exp(log p − log p_old)` (arXiv 1707.06347,
 * equation 7). `clipHigh` is DAPO's clip-higher (arXiv 2503.14476); `dualClip` bounds the loss of negative advantages
 * (arXiv 1912.09729).
 *
 * With `ratio = "chunk"` or `"sequence"` r is the geometric mean over the chunk or sequence and its gradient reaches all
 * of its tokens, those outside of the loss mask included.
 */
export function ppoLoss(input: PolicyLossInput, options: PpoOptions): PolicyLossOutput {
  const { advantages_T, mask_T } = input;
  const lossMask_T = input.lossMask_T ?? mask_T;
  const level = options.ratio ?? "token";
  const ratio_T = policyRatios(input, level);
  const losses_T = new Float64Array(mask_T.length);
  const slopes_T = new Float64Array(mask_T.length);
  let [clipped, clippedLow] = [0, 0];
  for (let t = 0; t < mask_T.length; t++) {
    if (lossMask_T[t] !== 1) continue;
    const factor = input.factors_T?.[t] ?? 1;
    const { surrogate, slope } = clippedSurrogate(ratio_T[t] as number, advantages_T[t] as number, options);
    losses_T[t] = -factor * surrogate;
    slopes_T[t] = factor * (slope ?? 0);
    if (slope !== undefined) continue;
    clipped++;
    if ((advantages_T[t] as number) < 0) clippedLow++;
  }
  // The slope is that of the pooled log-ratio; pooling is its own adjoint.
  return { ...reduceTokens(input, options, { losses_T, slopes_T: pool(slopes_T, input, level), clipped }), clippedLow };
}

/** The surrogate and its derivative with respect to log r; `undefined` where a bound cuts the gradient off. */
function clippedSurrogate(ratio: number, advantage: number, { clip, clipHigh = clip, dualClip }: PpoOptions) {
  const free = ratio * advantage;
  const bounded = clamp(ratio, 1 - clip, 1 + clipHigh) * advantage;
  if (dualClip !== undefined && advantage < 0 && dualClip * advantage > Math.min(free, bounded))
    return { surrogate: dualClip * advantage, slope: undefined };
  return bounded < free ? { surrogate: bounded, slope: undefined } : { surrogate: free, slope: free };
}

/** `λ_1 a + λ_2 b + …` of losses of the same trajectory, e.g. policy loss plus KL loss; counts are those of the first. */
export function combineLosses(
  first: readonly [weight: number, output: PolicyLossOutput],
  ...others: readonly (readonly [weight: number, output: Pick<PolicyLossOutput, "loss" | "weights_T" | "losses_T">])[]
): PolicyLossOutput {
  const parts = [first, ...others];
  const sum = (pick: (output: Pick<PolicyLossOutput, "weights_T" | "losses_T">) => Float64Array) =>
    pick(first[1]).map((_, t) => parts.reduce((total, [w, output]) => total + w * (pick(output)[t] as number), 0));
  return {
    loss: parts.reduce((total, [weight, { loss }]) => total + weight * loss, 0),
    weights_T: sum((output) => output.weights_T),
    losses_T: sum((output) => output.losses_T),
    clipped: first[1].clipped,
    approxKl: first[1].approxKl,
  };
}

function sampledKl({ logprobs_T, behaviour_T, mask_T }: PolicyLossInput): number {
  let kl = 0;
  for (let t = 0; t < mask_T.length; t++) {
    if (mask_T[t] !== 1) continue;
    const logRatio = (logprobs_T[t] as number) - (behaviour_T[t] as number);
    kl += Math.exp(logRatio) - 1 - logRatio;
  }
  return kl;
}
