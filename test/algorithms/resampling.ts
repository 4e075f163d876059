/** Golden vectors of initialised resampling (`08`). */

import { z } from "zod";
import {
  chooseAnchors,
  isHardTask,
  reportAnchors,
  rollBack,
  startRollback,
} from "../../src/algorithms/initialised-resampling.ts";
import { compareExact, compareNumber, compareNumbers, compareRows, type Operation, Row, Rows } from "./compare.ts";

const SequentialSchema = z.object({
  inputs: z.object({ table: z.array(Rows), K: z.number(), W: z.number(), tau_up: z.number(), delta: z.number() }),
  expected: z.object({
    rows: z.array(
      z.object({
        anchor: z.number(),
        expert_chunks: z.number(),
        il_upto: z.number(),
        window_mean: z.number(),
        window_size: z.number(),
        action: z.string(),
        crucial: Row,
      }),
    ),
  }),
});

/** `table[step][k − 1]` holds the outcomes that the step's episodes would have at anchor k. */
function checkSequential(golden: unknown): string {
  const { inputs, expected } = SequentialSchema.parse(golden);
  const settings = { window: inputs.W, advanceAt: inputs.tau_up, drop: inputs.delta };
  let state = startRollback(inputs.K);
  let steps = 0;
  for (const row of inputs.table) {
    const want = expected.rows[steps];
    if (want === undefined) throw new Error(`${expected.rows.length} steps expected, there are more`);
    const next = rollBack(state, row[state.anchor - 1] as number[], settings);
    const { step } = next;
    compareExact("anchor", step.anchor, want.anchor);
    compareExact("expert_chunks", step.anchor - 1, want.expert_chunks);
    compareExact("il_upto", step.anchor, want.il_upto);
    compareNumber("window_mean", step.windowMean, want.window_mean);
    compareExact("window_size", step.windowSize, want.window_size);
    compareExact("action", step.action, want.action);
    compareExact("crucial", step.crucial, want.crucial);
    state = next.state;
    steps++;
    if (step.action === "solved") break;
  }
  compareExact("steps", steps, expected.rows.length);
  return "";
}

const AnchorsSchema = z.object({
  inputs: z.object({ K: z.number(), A: z.number(), mode: z.enum(["uniform", "random"]), u: Row.optional() }),
  expected: z.object({ anchors: Row }),
});

function checkAnchors(golden: unknown): string {
  const { inputs, expected } = AnchorsSchema.parse(golden);
  const uniforms = inputs.mode === "random" ? inputs.u : undefined;
  compareExact("anchors", chooseAnchors(inputs.K, inputs.A, uniforms), expected.anchors);
  return "";
}

const ParallelSchema = z.object({
  inputs: z.object({ anchors: Row, outcomes: Rows, K: z.number(), delta: z.number() }),
  expected: z.object({ success: Row, crucial_intervals: Rows, group_centred: Rows }),
});

function checkParallel(golden: unknown): string {
  const { inputs, expected } = ParallelSchema.parse(golden);
  const got = reportAnchors(inputs.anchors, inputs.outcomes, inputs.K, inputs.delta);
  compareNumbers("success", got.success, expected.success);
  compareExact("crucial_intervals", got.crucialIntervals, expected.crucial_intervals);
  compareRows("group_centred", got.centred, expected.group_centred);
  return "";
}

const HardSchema = z.object({
  inputs: z.object({ history: Rows, W: z.number(), p_low: z.number() }),
  expected: z.object({ hard: z.array(z.boolean()) }),
});

function checkHard(golden: unknown): string {
  const { inputs, expected } = HardSchema.parse(golden);
  const hard = inputs.history.map((outcomes) => isHardTask(outcomes, inputs.W, inputs.p_low));
  compareExact("hard", hard, expected.hard);
  return "";
}

export const RESAMPLING: readonly Operation[] = [
  ["sequential/", checkSequential],
  ["anchors/", checkAnchors],
  ["parallel/", checkParallel],
  ["hard_tasks/", checkHard],
];
