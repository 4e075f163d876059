/** Golden vectors of algorithms: one file per topic, many cases each. */

import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { z } from "zod";
import { allocateFloat32 } from "../src/runtime/memory.ts";
import { AdamW, clipScale, GlobalNorm } from "../src/trainer/optimizer.ts";
import { learningRate } from "../src/trainer/schedule.ts";
import { compareNumber, compareNumbers, FLOAT32, type Operation, report } from "../test/algorithms/compare.ts";
import { findCheck } from "../test/algorithms/golden.ts";
import type { GoldenCase } from "./golden.ts";

const FileSchema = z.object({
  cases: z.array(z.object({ name: z.string(), inputs: z.unknown(), expected: z.unknown() })),
});

const Numbers: z.ZodType<unknown> = z.lazy(() => z.union([z.number(), z.array(Numbers)]));
const Tensors = z.array(Numbers);

const ScheduleFields = {
  warmup: z.number(),
  total: z.number(),
  min_ratio: z.number(),
  warmup_rule: z.enum(["from_zero", "plus_one"]),
};
const Kind = z.enum(["constant", "linear", "cosine"]);

const ScheduleSchema = z.object({
  inputs: z.object({ ...ScheduleFields, kind: Kind, base: z.number(), updates: z.array(z.number()) }),
  expected: z.object({ lr: z.array(z.number()) }),
});

const AdamWSchema = z.object({
  inputs: z.object({
    ...ScheduleFields,
    params: Tensors,
    grads: z.array(Tensors),
    base_lr: z.number(),
    schedule: Kind,
    betas: z.tuple([z.number(), z.number()]),
    eps: z.number(),
    weight_decay: z.array(z.number()),
    max_grad_norm: z.number().nullable(),
  }),
  expected: z.object({
    steps: z.array(z.object({ grad_norm: z.number(), clip_coef: z.number(), lr: z.number(), params: Tensors })),
    m: Tensors,
    v: Tensors,
  }),
});

/** Checks of what lives outside of `src/algorithms`. */
const OPERATIONS: readonly Operation[] = [
  ["adamw/", checkAdamW],
  ["schedule/", checkSchedule],
];

export function checkAlgorithms(path: string): GoldenCase[] {
  const file = FileSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  return file.cases.map((golden) => {
    const name = `${basename(path, ".json")} ${golden.name}`;
    const operation = OPERATIONS.find(([prefix]) => golden.name.startsWith(prefix));
    const check = operation?.[1] ?? findCheck(basename(path).slice(0, 2), golden.name);
    return check === undefined ? { name, skip: "not checked here yet" } : { name, run: () => check(golden) };
  });
}

function checkSchedule(golden: unknown): string {
  const { inputs, expected } = ScheduleSchema.parse(golden);
  const rates = inputs.updates.map((update) => rate(inputs, inputs.kind, inputs.base, update));
  return report(compareNumbers("lr", rates, expected.lr));
}

function rate(
  fields: { warmup: number; total: number; min_ratio: number; warmup_rule: "from_zero" | "plus_one" },
  kind: z.infer<typeof Kind>,
  base: number,
  update: number,
): number {
  const { warmup, total, min_ratio: minRatio, warmup_rule: warmupFrom } = fields;
  return learningRate({ kind, base, warmup, total, minRatio, warmupFrom, update });
}

/** Runs the emitted AdamW graph, one range per tensor. */
function checkAdamW(golden: unknown): string {
  const { inputs, expected } = AdamWSchema.parse(golden);
  const tensors = inputs.params.map(flatten);
  const length = tensors.reduce((sum, tensor) => sum + tensor.length, 0);
  const state = {
    parameters: allocateFloat32(length),
    firstMoment: allocateFloat32(length),
    secondMoment: allocateFloat32(length),
  };
  const gradients = allocateFloat32(length);
  state.parameters.set(tensors.flat());
  let begin = 0;
  const ranges = tensors.map((tensor, i) => {
    const range = {
      begin,
      end: begin + tensor.length,
      group: (inputs.weight_decay[i] as number) > 0 ? ("decayed" as const) : ("spared" as const),
    };
    begin = range.end;
    return range;
  });
  const weightDecay = Math.max(...inputs.weight_decay);
  const adamW = new AdamW(gradients, ranges, 1);
  const norm = new GlobalNorm(gradients, 1);
  for (const [update, want] of expected.steps.entries()) {
    gradients.set(flatten(inputs.grads[update]));
    const lr = rate(inputs, inputs.schedule, inputs.base_lr, update);
    const gradNorm = norm.compute();
    const scale = clipScale(gradNorm, inputs.max_grad_norm ?? 0);
    compareNumber("lr", lr, want.lr);
    compareNumber("grad_norm", gradNorm, want.grad_norm, FLOAT32);
    compareNumber("clip_coef", scale, want.clip_coef, FLOAT32);
    adamW.update(state, state, { lr, betas: inputs.betas, eps: inputs.eps, weightDecay }, update + 1, scale);
    compareNumbers("params", state.parameters, flatten(want.params), FLOAT32);
  }
  adamW.release();
  norm.release();
  return report(
    compareNumbers("v", state.secondMoment, flatten(expected.v), FLOAT32),
    compareNumbers("m", state.firstMoment, flatten(expected.m), FLOAT32),
  );
}

function flatten(nested: unknown): number[] {
  return Array.isArray(nested) ? nested.flatMap(flatten) : [nested as number];
}
