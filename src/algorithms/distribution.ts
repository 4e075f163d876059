/** Functions of the logits of one token, with their gradients; stable for logits of any size. */

import type { Numbers } from "./levels.ts";

/** A value and its gradient with respect to the logits. */
export interface LogitFunction {
  readonly value: number;
  readonly gradient_V: Float64Array;
}

/** `log softmax(z / temperature)`. */
export function logSoftmax(logits_V: Numbers, temperature = 1): Float64Array {
  const scaled_V = Float64Array.from(logits_V, (logit) => logit / temperature);
  const largest = scaled_V.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const sum = scaled_V.reduce((total, logit) => total + Math.exp(logit - largest), 0);
  const normaliser = largest + Math.log(sum);
  return scaled_V.map((logit) => logit - normaliser);
}

/** log-probability of a token: `log softmax(z / temperature)[token]`. */
export function tokenLogprob(logits_V: Numbers, token: number, temperature = 1): LogitFunction {
  const logprobs_V = logSoftmax(logits_V, temperature);
  const gradient_V = logprobs_V.map((logprob, v) => ((v === token ? 1 : 0) - Math.exp(logprob)) / temperature);
  return { value: logprobs_V[token] as number, gradient_V };
}

/** Entropy in nats: `−Σ p log p`. */
export function entropy(logits_V: Numbers): LogitFunction {
  const logprobs_V = logSoftmax(logits_V);
  const value = -expectation(logprobs_V, logprobs_V);
  return { value, gradient_V: logprobs_V.map((logprob) => -Math.exp(logprob) * (logprob + value)) };
}

/** KL(p ‖ q) over the whole vocabulary: `Σ p (log p − log q)`; the gradient is that of p's logits. */
export function fullKl(logits_V: Numbers, referenceLogits_V: Numbers): LogitFunction {
  const logprobs_V = logSoftmax(logits_V);
  const reference_V = logSoftmax(referenceLogits_V);
  const difference_V = logprobs_V.map((logprob, v) => logprob - (reference_V[v] as number));
  const value = expectation(logprobs_V, difference_V);
  const gradient_V = difference_V.map((difference, v) => Math.exp(logprobs_V[v] as number) * (difference - value));
  return { value, gradient_V };
}

/** `Σ p x`; a token of probability 0 counts nothing, whatever its x. */
function expectation(logprobs_V: Float64Array, values_V: Float64Array): number {
  let sum = 0;
  logprobs_V.forEach((logprob, v) => {
    const p = Math.exp(logprob);
    if (p > 0) sum += p * (values_V[v] as number);
  });
  return sum;
}
