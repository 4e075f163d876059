/** Golden vectors of supervised, preference and distillation losses (`05`). */

import { z } from "zod";
import { distillationLoss, mixDistillation } from "../../src/algorithms/distillation.ts";
import { preferenceLoss } from "../../src/algorithms/preference.ts";
import { type SupervisedTurn, supervisedLoss } from "../../src/algorithms/sft-loss.ts";
import { mean } from "../../src/algorithms/statistics.ts";
import {
  at,
  compareExact,
  compareNumber,
  compareNumbers,
  compareRows,
  negate,
  type Operation,
  Row,
  Rows,
  report,
  sum,
} from "./compare.ts";

const TurnSchema = z
  .object({ start: z.number(), end: z.number(), error: z.boolean(), relevant: z.boolean() })
  .transform(({ start, end, error, relevant }): SupervisedTurn => ({ begin: start, end, failed: error, relevant }));

const SftSchema = z.object({
  inputs: z.object({ logp: Rows, turns: z.array(z.array(TurnSchema)), eps: z.number() }),
  expected: z.object({
    token_mean: z.number(),
    grad_token_mean: Rows,
    per_row: Row,
    row_mean: z.number(),
    kept_tokens: Row,
  }),
});

function checkSft(golden: unknown): string {
  const { inputs, expected } = SftSchema.parse(golden);
  const batch = inputs.logp.map((logprobs_T, i) => ({ logprobs_T, turns: at(inputs.turns, i) }));
  const whole = supervisedLoss(batch, { epsilon: inputs.eps });
  const perRow = batch.map((row) => supervisedLoss([row], { epsilon: inputs.eps }).loss);
  compareExact("kept_tokens", whole.kept_B, expected.kept_tokens);
  return report(
    compareNumber("token_mean", whole.loss, expected.token_mean),
    compareRows("grad_token_mean", negate(whole.weights_B), expected.grad_token_mean),
    compareNumbers("per_row", perRow, expected.per_row),
    compareNumber("row_mean", mean(perRow), expected.row_mean),
  );
}

const PreferenceSchema = z.object({
  inputs: z.object({
    policy_chosen: Row,
    policy_rejected: Row,
    ref_chosen: Row,
    ref_rejected: Row,
    beta: z.number(),
    label_smoothing: z.number(),
    ipo: z.boolean(),
  }),
  expected: z.object({
    per_pair: Row,
    loss: z.number(),
    grad_chosen: Row,
    grad_rejected: Row,
    reward_chosen: Row,
    reward_rejected: Row,
    accuracy: z.number(),
  }),
});

function checkPreference(golden: unknown): string {
  const { inputs, expected } = PreferenceSchema.parse(golden);
  const { beta, label_smoothing: labelSmoothing } = inputs;
  const outputs = inputs.policy_chosen.map((chosen, i) =>
    preferenceLoss(
      {
        chosen,
        rejected: at(inputs.policy_rejected, i),
        referenceChosen: at(inputs.ref_chosen, i),
        referenceRejected: at(inputs.ref_rejected, i),
      },
      { type: inputs.ipo ? "ipo" : "dpo", beta, labelSmoothing },
    ),
  );
  const n = outputs.length;
  const all = (pick: (output: (typeof outputs)[number]) => number) => outputs.map(pick);
  return report(
    compareNumbers(
      "per_pair",
      all((o) => o.loss),
      expected.per_pair,
    ),
    compareNumber("loss", mean(all((o) => o.loss)), expected.loss),
    compareNumbers(
      "grad_chosen",
      all((o) => o.gradient / n),
      expected.grad_chosen,
    ),
    compareNumbers(
      "grad_rejected",
      all((o) => -o.gradient / n),
      expected.grad_rejected,
    ),
    compareNumbers(
      "reward_chosen",
      all((o) => o.chosenReward),
      expected.reward_chosen,
    ),
    compareNumbers(
      "reward_rejected",
      all((o) => o.rejectedReward),
      expected.reward_rejected,
    ),
    compareNumber("accuracy", mean(all((o) => (o.isCorrect ? 1 : 0))), expected.accuracy),
  );
}

const DistillSchema = z.object({
  inputs: z.object({
    student_logits: Rows,
    teacher_logits: Rows,
    mask: Row,
    topk: z.number(),
    kd_temperature: z.number(),
    teacher_temperature: z.number(),
    direction: z.enum(["forward", "reverse"]),
    student_normaliser: z.enum(["topk", "full"]),
  }),
  expected: z.object({
    teacher_indices: Rows,
    teacher_logp: Rows,
    kl: Row,
    loss: z.number(),
    grad_student_logits: Rows,
  }),
});

function checkDistill(golden: unknown): string {
  const { inputs, expected } = DistillSchema.parse(golden);
  const outputs = inputs.student_logits.map((student, i) =>
    distillationLoss(student, at(inputs.teacher_logits, i), {
      direction: inputs.direction,
      topK: inputs.topk,
      temperature: inputs.kd_temperature,
      teacherTemperature: inputs.teacher_temperature,
      normaliser: inputs.student_normaliser === "full" ? "full" : "top-k",
    }),
  );
  const kl = outputs.map((output) => output.loss);
  const n = sum(inputs.mask);
  compareExact(
    "teacher_indices",
    outputs.map((output) => output.tokens_K),
    expected.teacher_indices,
  );
  return report(
    compareRows(
      "teacher_logp",
      outputs.map((output) => output.teacherLogprobs_K),
      expected.teacher_logp,
    ),
    compareNumbers("kl", kl, expected.kl),
    compareNumber("loss", sum(kl.map((value, i) => value * at(inputs.mask, i))) / n, expected.loss),
    compareRows(
      "grad_student_logits",
      outputs.map((output, i) => output.gradient_V.map((slope) => (slope * at(inputs.mask, i)) / n)),
      expected.grad_student_logits,
    ),
  );
}

const TotalSchema = z.object({
  inputs: z.object({ sft_loss: z.number(), kd_loss: z.number(), distill_loss_weight: z.number() }),
  expected: z.object({ loss: z.number() }),
});

function checkDistillTotal(golden: unknown): string {
  const { inputs, expected } = TotalSchema.parse(golden);
  const loss = mixDistillation(inputs.sft_loss, inputs.kd_loss, inputs.distill_loss_weight);
  return report(compareNumber("loss", loss, expected.loss));
}

export const SUPERVISED: readonly Operation[] = [
  ["sft/", checkSft],
  ["preference/", checkPreference],
  ["distill/total", checkDistillTotal],
  ["distill/", checkDistill],
];
