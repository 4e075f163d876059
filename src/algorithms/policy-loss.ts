/**
 * Policy losses as pure functions of log-probabilities.
 *
 * The trainer minimises `−Σ_t w_t · log p_t` with constant weights, so a loss is given by its value and by the weights
 * `w_t = −∂loss/∂log p_t` at the current log-probabilities. Aggregation is `token-mean`: the sum over masked tokens divided
 * by `tokens`, the number of response tokens of the whole minibatch, so that micro-batches add up exactly.
 */

/** One trajectory; all arrays have T elements and element t is about token t. */
export interface PolicyLossInput {
  /** Under the current weights, at the sampling temperature. */
  readonly logprobs_T: Float32Array;
  /** Under the distribution that was sampled from. */
  readonly behaviour_T: Float32Array;
  /** The advantage of each token. */
  readonly advantages_T: Float32Array;
  /** 1 on tokens the policy wrote. */
  readonly mask_T: Uint8Array;
}

export interface PolicyLossOutput {
  /** This trajectory's share of the minibatch loss. */
  readonly loss: number;
  readonly weights_T: Float32Array;
  /** Tokens whose ratio was clipped. */
  readonly clipped: number;
  /** Sum over tokens of the k3 estimate of KL(behaviour ‖ current): `r − 1 − log r`. */
  readonly approxKl: number;
}

/**
 * Clipped surrogate of PPO: `−min(r A, clip(r, 1 − ε, 1 + ε) A)` with `r = exp(log p − log p_behaviour)`
 * (arXiv 1707.06347, equation 7).
 */
export function ppoLoss(
  input: PolicyLossInput,
  options: { readonly clip: number; readonly tokens: number },
): PolicyLossOutput {
  const { logprobs_T, behaviour_T, advantages_T, mask_T } = input;
  const weights_T = new Float32Array(logprobs_T.length);
  let loss = 0;
  let clipped = 0;
  let approxKl = 0;
  for (let t = 0; t < logprobs_T.length; t++) {
    if (mask_T[t] !== 1) continue;
    const logRatio = (logprobs_T[t] as number) - (behaviour_T[t] as number);
    const ratio = Math.exp(logRatio);
    const advantage = advantages_T[t] as number;
    const bounded = Math.min(Math.max(ratio, 1 - options.clip), 1 + options.clip);
    const isClipped = bounded * advantage < ratio * advantage;
    loss -= Math.min(ratio * advantage, bounded * advantage);
    if (isClipped) clipped++;
    else weights_T[t] = (ratio * advantage) / options.tokens;
    approxKl += ratio - 1 - logRatio;
  }
  return { loss: loss / options.tokens, weights_T, clipped, approxKl };
}

/** Plain policy gradient: `−A log p`, without a ratio (REINFORCE). */
export function vanillaLoss(input: PolicyLossInput, options: { readonly tokens: number }): PolicyLossOutput {
  const { logprobs_T, behaviour_T, advantages_T, mask_T } = input;
  const weights_T = new Float32Array(logprobs_T.length);
  let loss = 0;
  let approxKl = 0;
  for (let t = 0; t < logprobs_T.length; t++) {
    if (mask_T[t] !== 1) continue;
    const logprob = logprobs_T[t] as number;
    const advantage = advantages_T[t] as number;
    const logRatio = logprob - (behaviour_T[t] as number);
    loss -= advantage * logprob;
    weights_T[t] = advantage / options.tokens;
    approxKl += Math.exp(logRatio) - 1 - logRatio;
  }
  return { loss: loss / options.tokens, weights_T, clipped: 0, approxKl };
}
