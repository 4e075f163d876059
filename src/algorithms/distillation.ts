/**
 * Distillation on the k highest logits of a teacher. With `p_T = softmax(z_T / (τ τ_T))` over those k and `p_S` the student
 * at temperature τ: `forward` is KL(p_T ‖ p_S), `reverse` is KL(p_S ‖ p_T) (Hinton et al., arXiv 1503.02531; reverse:
 * MiniLLM, arXiv 2306.08543).
 *
 * The student is normalised over the same k tokens (`top-k`, as ROLL) or over its vocabulary (`full`, where its k
 * probabilities sum to less than 1, so that mass elsewhere costs something). There is no factor τ².
 */

import { logSoftmax } from "./distribution.ts";
import type { Numbers } from "./levels.ts";

export interface DistillationOptions {
  readonly direction: "forward" | "reverse";
  /** Teacher logits that are used; 0 = all. */
  readonly topK: number;
  /** τ, of both. */
  readonly temperature: number;
  /** τ_T, of the teacher besides. */
  readonly teacherTemperature: number;
  readonly normaliser: "top-k" | "full";
}

export interface DistillationOutput {
  readonly loss: number;
  /** ∂loss/∂student logits. */
  readonly gradient_V: Float64Array;
  /** The teacher's best tokens, best first, and its log-probabilities among them. */
  readonly tokens_K: readonly number[];
  readonly teacherLogprobs_K: Float64Array;
}

/** Divergence at one token; a batch is the mean over the masked tokens. */
export function distillationLoss(
  student_V: Numbers,
  teacher_V: Numbers,
  options: DistillationOptions,
): DistillationOutput {
  const { temperature } = options;
  const tokens_K = highest(teacher_V, options.topK);
  const pick = (logits_V: Numbers) => tokens_K.map((token) => logits_V[token] as number);
  const teacherLogprobs_K = logSoftmax(pick(teacher_V), temperature * options.teacherTemperature);
  // Over the vocabulary, or with nothing outside of the k tokens.
  const student = options.normaliser === "full" ? student_V : onlyAt(student_V, tokens_K);
  const studentLogprobs_V = logSoftmax(student, temperature);
  const studentLogprobs_K = Float64Array.from(pick(studentLogprobs_V));
  const { loss, slopes_K } = divergence(teacherLogprobs_K, studentLogprobs_K, options.direction);
  const total = slopes_K.reduce((sum, slope) => sum + slope, 0);
  const gradient_V = studentLogprobs_V.map((logprob) => (-Math.exp(logprob) * total) / temperature);
  tokens_K.forEach((token, k) => {
    gradient_V[token] = (gradient_V[token] as number) + (slopes_K[k] as number) / temperature;
  });
  return { loss, gradient_V, tokens_K, teacherLogprobs_K };
}

/** The divergence and its derivatives with respect to the student's log-probabilities. */
function divergence(teacher_K: Float64Array, student_K: Float64Array, direction: "forward" | "reverse") {
  let loss = 0;
  const slopes_K = teacher_K.map((teacher, k) => {
    const student = student_K[k] as number;
    if (direction === "forward") {
      const p = Math.exp(teacher);
      loss += p * (teacher - student);
      return -p;
    }
    const p = Math.exp(student);
    loss += p * (student - teacher);
    return p * (student - teacher + 1);
  });
  return { loss, slopes_K };
}

/** Positions of the k largest values, largest first; equal ones in order of position. */
function highest(values: Numbers, k: number): number[] {
  const order = Array.from({ length: values.length }, (_, i) => i);
  order.sort((a, b) => (values[b] as number) - (values[a] as number) || a - b);
  return k > 0 ? order.slice(0, k) : order;
}

function onlyAt(values: Numbers, positions: readonly number[]): Float64Array {
  const kept = new Float64Array(values.length).fill(Number.NEGATIVE_INFINITY);
  for (const i of positions) kept[i] = values[i] as number;
  return kept;
}

/** `(1 − w) · sft + w · distillation`. */
export function mixDistillation(supervised: number, distillation: number, weight: number): number {
  return (1 - weight) * supervised + weight * distillation;
}
