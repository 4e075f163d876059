/**
 * Distillation on a few tokens per prediction, as a trainer with K candidates computes it: from the student's log-probabilities
 * of the teacher's best tokens, without the rest of the vocabulary. `p` is the teacher over those K, `q` the student:
 *
 * | kind | value | source |
 * |---|---|---|
 * | `forward` | KL(p ‖ q) | Hinton et al., arXiv 1503.02531 |
 * | `reverse` | KL(q ‖ p) | MiniLLM, arXiv 2306.08543 |
 * | `skewed` | KL(p ‖ λ p + (1 − λ) q) | DistiLLM, arXiv 2402.03898 |
 * | `jensen-shannon` | λ KL(p ‖ m) + (1 − λ) KL(q ‖ m), m = λ p + (1 − λ) q | GKD, arXiv 2306.13649 |
 *
 * `top-k` normalises the student over the K tokens, `full` takes its probabilities as they are (see `distillation.ts`).
 */

import type { Numbers } from "./levels.ts";

export interface CandidateDistillationOptions {
  readonly kind: "forward" | "reverse" | "skewed" | "jensen-shannon";
  readonly normaliser: "top-k" | "full";
  /** λ of `skewed` and `jensen-shannon`, in (0, 1). */
  readonly mix?: number | undefined;
}

export interface CandidateDistillationOutput {
  readonly loss: number;
  /** −∂loss/∂log q_k of the student's log-probabilities over its vocabulary: the weights a trainer takes. */
  readonly weights_K: Float64Array;
}

/**
 * Divergence at one prediction; a batch is the mean over its masked tokens.
 * @param student_K log-probabilities of the candidates under the student's whole vocabulary. @param teacher_K the teacher's,
 * which sum to 1 over the candidates.
 */
export function candidateDistillation(
  student_K: Numbers,
  teacher_K: Numbers,
  { kind, normaliser, mix = 0.5 }: CandidateDistillationOptions,
): CandidateDistillationOutput {
  const total = normaliser === "full" ? 0 : logSumExp(student_K);
  const q = Float64Array.from(student_K, (logprob) => logprob - total);
  let loss = 0;
  const slopes = q.map((student, k) => {
    const teacher = teacher_K[k] as number;
    const { value, slope } = TERMS[kind](Math.exp(teacher), teacher, Math.exp(student), student, mix);
    loss += value;
    return slope;
  });
  if (normaliser === "full") return { loss, weights_K: slopes.map((slope) => -slope) };
  const sum = slopes.reduce((a, b) => a + b, 0);
  return { loss, weights_K: slopes.map((slope, k) => Math.exp(q[k] as number) * sum - slope) };
}

/** What one token adds, and the derivative with respect to log q. */
type Term = (
  p: number,
  logP: number,
  q: number,
  logQ: number,
  mix: number,
) => { readonly value: number; readonly slope: number };

const TERMS: Readonly<Record<CandidateDistillationOptions["kind"], Term>> = {
  forward: (p, logP, _q, logQ) => ({ value: p * (logP - logQ), slope: -p }),
  reverse: (_p, logP, q, logQ) => ({ value: q * (logQ - logP), slope: q * (logQ - logP + 1) }),
  skewed: (p, logP, q, _logQ, mix) => {
    const m = mix * p + (1 - mix) * q;
    return { value: p * (logP - Math.log(m)), slope: (-p * (1 - mix) * q) / m };
  },
  "jensen-shannon": (p, logP, q, logQ, mix) => {
    const m = mix * p + (1 - mix) * q;
    const logM = Math.log(m);
    const value = mix * p * (logP - logM) + (1 - mix) * q * (logQ - logM);
    // ∂/∂q of the sum is (1 − λ)(log q − log m + 1) − (λ p + (1 − λ) q)(1 − λ)/m, and the last factor is 1 − λ.
    return { value, slope: (1 - mix) * q * (logQ - logM) };
  },
};

function logSumExp(values: Numbers): number {
  let most = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < values.length; i++) most = Math.max(most, values[i] as number);
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += Math.exp((values[i] as number) - most);
  return most + Math.log(sum);
}
