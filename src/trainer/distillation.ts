/**
 * Learning from a teacher's probabilities: supervised, on given sequences (Hinton et al., arXiv 1503.02531), and on-policy, on
 * what the student samples (MiniLLM, arXiv 2306.08543; GKD, arXiv 2306.13649). Which tokens the teacher finds likely is known
 * beforehand; here they meet the student's log-probabilities.
 */

import { type LossScale, rowDivisor } from "../algorithms/aggregation.ts";
import { type CandidateDistillationOptions, candidateDistillation } from "../algorithms/candidate-distillation.ts";
import { mixDistillation } from "../algorithms/distillation.ts";
import { logSoftmax } from "../algorithms/distribution.ts";
import { countOnes } from "../algorithms/levels.ts";
import type { Divergence } from "../config/distillation.ts";
import type { TopTokens } from "../core/teacher.ts";
import type { Slot } from "../models/parameter-store.ts";
import type { OptimizerSettings, PolicyJob, PolicyLearner } from "./update.ts";

const KINDS = { forward: "forward", reverse: "reverse", skewed: "skewed", js: "jensen-shannon" } as const;
const MIX = { forward: undefined, reverse: undefined, skewed: 0.1, js: 0.5 } as const;

/**
 * Where the teacher's probabilities weigh, the student's are those over its vocabulary: mass elsewhere costs something. Where
 * the student's weigh, both are over the teacher's tokens: or else moving mass elsewhere would make the divergence small.
 */
export function divergenceOf(divergence: Divergence, mix?: number): CandidateDistillationOptions {
  const isOverAll = divergence === "forward" || divergence === "skewed";
  return {
    kind: KINDS[divergence],
    normaliser: isOverAll ? "full" : "top-k",
    mix: mix ?? MIX[divergence],
  };
}

/** The teacher's log-probabilities among its `count` tokens of each place, at another temperature than they were asked at. */
export function amongTop({ count, logprobs }: TopTokens, temperature: number): Float32Array[] {
  return logprobs.map((row) => {
    const result = new Float32Array(row.length);
    for (let at = count; at < row.length; at += count) {
      result.set(logSoftmax(row.subarray(at, at + count), temperature), at);
    }
    return result;
  });
}

/** Weights of the candidates' log-probabilities for Σ_t scale_t · divergence_t, and Σ_t scale_t · divergence_t itself. */
function divergenceWeights(
  student: Float32Array,
  teacher: Float32Array,
  scale_T: ArrayLike<number>,
  options: CandidateDistillationOptions,
): { readonly loss: number; readonly weights: Float32Array } {
  const weights = new Float32Array(student.length);
  const count = student.length / Math.max(1, scale_T.length);
  let loss = 0;
  for (let t = 1; t < scale_T.length; t++) {
    const scale = scale_T[t] as number;
    if (scale === 0) continue;
    const at = (row: Float32Array) => row.subarray(t * count, (t + 1) * count);
    const output = candidateDistillation(at(student), at(teacher), options);
    loss += scale * output.loss;
    weights.set(
      output.weights_K.map((weight) => scale * weight),
      t * count,
    );
  }
  return { loss, weights };
}

/** `(1 − w) · cross-entropy + w · divergence` on given sequences; one optimizer step. */
export interface DistillationJob {
  readonly kind: "distillation";
  readonly sequences: readonly Int32Array[];
  /** Share of each token in both losses; they sum to 1 over the batch. */
  readonly shares: readonly Float32Array[];
  /** The teacher's tokens; their log-probabilities sum to 1 over them, at `temperature`. */
  readonly top: TopTokens;
  readonly divergence: CandidateDistillationOptions;
  /** w. */
  readonly weight: number;
  /** τ of the divergence, of student and teacher. */
  readonly temperature: number;
  readonly optimizer: OptimizerSettings;
}

/** Adds the gradients of a job's loss under the weights of `slot`. */
export async function distillationGradients(learner: PolicyLearner, job: DistillationJob, slot: Slot) {
  const { sequences, shares, top, weight, temperature } = job;
  const candidates = { count: top.count, ids: top.ids };
  const { logprobs, candidateLogprobs } = await learner.forward(sequences, slot, temperature, { candidates });
  const parts = candidateLogprobs.map((student, i) =>
    divergenceWeights(student, top.logprobs[i] as Float32Array, shares[i] as Float32Array, job.divergence),
  );
  const divergence = parts.reduce((sum, { loss }) => sum + loss, 0);
  const labels = shares.map((row) => row.map((share) => (1 - weight) * share));
  const taught = { ...candidates, weights: parts.map(({ weights }) => weights.map((value) => weight * value)) };
  if (temperature === 1 || weight === 1) {
    const { entropy } = await learner.backward(sequences, labels, slot, temperature, { candidates: taught });
    const supervised = -weightedSum(shares, logprobs);
    return result(job, supervised, divergence, entropy);
  }
  // The labels are learned at temperature 1, whatever the temperature of the comparison.
  const { loss, entropy } = await learner.backward(sequences, labels, slot, 1);
  const none = labels.map(({ length }) => new Float32Array(length));
  await learner.backward(sequences, none, slot, temperature, { candidates: taught });
  return result(job, loss / (1 - weight), divergence, entropy);
}

function result({ sequences, weight }: DistillationJob, supervised: number, divergence: number, entropy: number) {
  return {
    loss: mixDistillation(supervised, divergence, weight),
    entropy,
    tokens: sequences.reduce((sum, { length }) => sum + length, 0),
    metrics: { "distill/divergence": divergence, "distill/sft_loss": supervised },
  };
}

function weightedSum(weights: readonly Float32Array[], values: readonly Float32Array[]): number {
  return weights.reduce(
    (sum, row, i) => sum + row.reduce((part, weight, t) => part + weight * (values[i]?.[t] as number), 0),
    0,
  );
}

/** What a teacher says about the episodes of a step, and what is made of it. */
export interface TeacherJob {
  readonly in: "reward" | "loss";
  readonly weight: number;
  /** Of the advantages from rewards. */
  readonly rl: number;
  /** log π_teacher of each token, at the rollout's temperature. */
  readonly logprobs: readonly Float32Array[];
  /** For `loss`, as in `DistillationJob`. */
  readonly top?: TopTokens;
  readonly divergence: CandidateDistillationOptions;
}

/**
 * Advantages with the teacher's say: rl · A − weight · (log π_old − log π_teacher) on the tokens the policy wrote. Its
 * expectation is −weight times the gradient of KL(π ‖ π_teacher) at each token, without regard to what comes after
 * (γ = 0, as ROLL).
 */
export function taughtAdvantages(
  { masks, teacher }: PolicyJob,
  advantages: readonly ArrayLike<number>[],
  old: readonly Float32Array[] | undefined,
): readonly ArrayLike<number>[] {
  if (teacher === undefined) return advantages;
  const { rl, weight, logprobs } = teacher;
  return masks.map((mask_T, i) => {
    const [own, taught] = [old?.[i], logprobs[i]];
    return Float32Array.from(mask_T, (bit, t) => {
      const advantage = rl * (advantages[i]?.[t] as number);
      if (bit === 0 || teacher.in === "loss") return advantage;
      return advantage - weight * ((own?.[t] as number) - (taught?.[t] as number));
    });
  });
}

/** Mean over the policy's tokens of log π_old − log π_teacher, an estimate of KL(π ‖ π_teacher), and of the teacher's part. */
export function teacherMetrics({ masks, teacher }: PolicyJob, old: readonly Float32Array[]): Record<string, number> {
  if (teacher === undefined) return {};
  const tokens = Math.max(
    1,
    masks.reduce((sum, mask) => sum + countOnes(mask), 0),
  );
  const mean = (rows: readonly Float32Array[]) =>
    masks.reduce((sum, mask, i) => sum + mask.reduce((s, bit, t) => s + bit * (rows[i]?.[t] as number), 0), 0) / tokens;
  const taught = mean(teacher.logprobs);
  return { "distill/reverse_kl": mean(old) - taught, "distill/teacher_logprob": taught };
}

/** The divergence of a minibatch as a term of its loss, with the candidates' weights; `undefined` where it is none. */
export function teacherTerm(
  { teacher, masks }: PolicyJob,
  members: readonly number[],
  candidateLogprobs: readonly Float32Array[],
  scale: LossScale,
) {
  const { top } = teacher ?? {};
  if (teacher?.in !== "loss" || top === undefined) return undefined;
  let loss = 0;
  const weights = members.map((i, k) => {
    const mask_T = masks[i] as Uint8Array;
    const share = teacher.weight / rowDivisor(scale, countOnes(mask_T));
    const shares_T = Float32Array.from(mask_T, (bit) => bit * share);
    const student = candidateLogprobs[k] as Float32Array;
    const part = divergenceWeights(student, top.logprobs[i] as Float32Array, shares_T, teacher.divergence);
    loss += part.loss;
    return part.weights;
  });
  return { loss, candidates: { ...teacherCandidates(teacher, members), weights } };
}

/** Whose log-probabilities the divergence needs of the student. */
export function teacherCandidates({ top }: TeacherJob, members: readonly number[]) {
  const { count = 0, ids = [] } = top ?? {};
  return { count, ids: members.map((i) => ids[i] as Int32Array) };
}
