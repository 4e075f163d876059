import { describe, expect, test } from "bun:test";
import { Rng } from "../core/rng.ts";
import { candidateDistillation } from "./candidate-distillation.ts";
import { distillationLoss } from "./distillation.ts";
import { logSoftmax } from "./distribution.ts";

const rng = new Rng("candidates");
const logits = () => Float64Array.from({ length: 12 }, () => 2 * rng.normal());
const student_V = logits();
const teacher_V = logits();
const KINDS = ["forward", "reverse", "skewed", "jensen-shannon"] as const;
const NORMALISERS = ["top-k", "full"] as const;

describe.each(NORMALISERS)("normalised over %s", (normaliser) => {
  test.each(["forward", "reverse"] as const)("%s equals what logits give", (direction) => {
    const options = { direction, topK: 4, temperature: 1, teacherTemperature: 1, normaliser };
    const expected = distillationLoss(student_V, teacher_V, options);
    const logprobs_V = logSoftmax(student_V, 1);
    const student_K = expected.tokens_K.map((token) => logprobs_V[token] as number);
    const { loss, weights_K } = candidateDistillation(student_K, expected.teacherLogprobs_K, {
      kind: direction,
      normaliser,
    });
    expect(loss).toBeCloseTo(expected.loss, 12);
    const total = weights_K.reduce((a, b) => a + b, 0);
    for (const [v, gradient] of expected.gradient_V.entries()) {
      const own = expected.tokens_K.indexOf(v);
      const got = Math.exp(logprobs_V[v] as number) * total - (own < 0 ? 0 : (weights_K[own] as number));
      expect(got).toBeCloseTo(gradient, 12);
    }
  });

  test.each(KINDS)("weights of %s are its derivatives", (kind) => {
    const teacher_K = logSoftmax([1.2, 0.1, -0.7], 1);
    const student_K = [-1.1, -0.6, -2.4];
    const at = (k: number, shift: number) =>
      candidateDistillation(
        student_K.map((value, i) => (i === k ? value + shift : value)),
        teacher_K,
        { kind, normaliser, mix: 0.3 },
      ).loss;
    const { weights_K } = candidateDistillation(student_K, teacher_K, { kind, normaliser, mix: 0.3 });
    for (const [k, weight] of weights_K.entries()) {
      const h = 1e-4;
      const difference = (8 * (at(k, h) - at(k, -h)) - (at(k, 2 * h) - at(k, -2 * h))) / (12 * h);
      expect(Math.abs(difference + weight)).toBeLessThan(1e-9);
    }
  });
});

test.each(KINDS)("%s of a student that equals the teacher is 0", (kind) => {
  const logprobs_K = logSoftmax([0.3, -1, 2], 1);
  const { loss, weights_K } = candidateDistillation(logprobs_K, logprobs_K, { kind, normaliser: "top-k" });
  expect(Math.abs(loss)).toBeLessThan(1e-12);
  for (const weight of weights_K) expect(Math.abs(weight)).toBeLessThan(1e-12);
});
