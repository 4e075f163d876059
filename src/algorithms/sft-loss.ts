/**
 * Error-masked, task-aware supervised loss: `−Σ_k m_k Σ_{t ∈ c_k} log p_t / (Σ_k m_k |c_k| + ε)` with `m_k = 1` for turns
 * that raised no error and belong to the task (arXiv 2512.24873, equations 1 and 2).
 */

import type { Numbers } from "./levels.ts";

/** One turn of a trajectory: a half-open range of tokens and what its run said about it. */
export interface SupervisedTurn {
  readonly begin: number;
  readonly end: number;
  readonly failed: boolean;
  readonly relevant: boolean;
}

/** Where a turn is learned from: 1 on the tokens of kept turns. */
export function supervisedMask(length: number, turns: readonly SupervisedTurn[]): Uint8Array {
  const mask_T = new Uint8Array(length);
  for (const { begin, end, failed, relevant } of turns) if (relevant && !failed) mask_T.fill(1, begin, end);
  return mask_T;
}

export interface SupervisedLoss {
  readonly loss: number;
  /** −∂loss/∂log p of each sequence. */
  readonly weights_B: Float64Array[];
  /** Kept tokens of each sequence. */
  readonly kept_B: number[];
}

/** Numerator and denominator are summed over the batch and ε is added once: long sequences weigh more. */
export function supervisedLoss(
  batch: readonly { readonly logprobs_T: Numbers; readonly turns: readonly SupervisedTurn[] }[],
  { epsilon }: { readonly epsilon: number },
): SupervisedLoss {
  const masks_B = batch.map(({ logprobs_T, turns }) => supervisedMask(logprobs_T.length, turns));
  const kept_B = masks_B.map((mask_T) => mask_T.reduce((sum, bit) => sum + bit, 0));
  const denominator = kept_B.reduce((a, b) => a + b, 0) + epsilon;
  let sum = 0;
  batch.forEach(({ logprobs_T }, i) => {
    masks_B[i]?.forEach((bit, t) => {
      if (bit === 1) sum -= logprobs_T[t] as number;
    });
  });
  const weights_B = masks_B.map((mask_T) => Float64Array.from(mask_T, (bit) => bit / denominator));
  return { loss: sum / denominator, weights_B, kept_B };
}
