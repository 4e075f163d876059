/** Golden vectors of evaluation metrics and of the curve fit (`10`). */

import { z } from "zod";
import { averageAtK, passAtK } from "../../src/algorithms/pass-at-k.ts";
import { mean } from "../../src/algorithms/statistics.ts";
import { fitQuadratic } from "../../src/core/quadratic-fit.ts";
import { compareExact, compareNumber, compareNumbers, type Operation, Row, Rows, report, sum } from "./compare.ts";

const PassSchema = z.object({
  inputs: z.object({ n_c_k: z.array(z.tuple([z.number(), z.number(), z.number()])) }),
  expected: z.object({ value: Row }),
});

function checkPassAtK(golden: unknown): string {
  const { inputs, expected } = PassSchema.parse(golden);
  const got = inputs.n_c_k.map(([n, c, k]) => passAtK(n, c, k));
  return report(compareNumbers("value", got, expected.value));
}

const EvalSchema = z.object({
  inputs: z.object({ outcomes: Rows, k: z.number() }),
  expected: z.object({ avg_at_k: z.number(), avg_at_5: z.number(), pass_at_1: z.number(), pass_at_3: z.number() }),
});

function checkEval(golden: unknown): string {
  const { inputs, expected } = EvalSchema.parse(golden);
  const { outcomes, k } = inputs;
  const passOf = (tries: number) => mean(outcomes.map((task) => passAtK(task.length, sum(task), tries)));
  return report(
    compareNumber("avg_at_k", averageAtK(outcomes, k), expected.avg_at_k),
    compareNumber("avg_at_5", averageAtK(outcomes, 5), expected.avg_at_5),
    compareNumber("pass_at_1", passOf(1), expected.pass_at_1),
    compareNumber("pass_at_3", passOf(3), expected.pass_at_3),
  );
}

const FitSchema = z.object({
  inputs: z.object({ x: Row, y: Row }),
  expected: z.object({
    a: z.number(),
    b: z.number(),
    c: z.number(),
    fitted: Row,
    r2: z.number(),
    vertex_x: z.number(),
    vertex_y: z.number(),
    vertex_is_inside_maximum: z.boolean(),
    converged: z.number(),
    peak: z.number(),
    gain: z.number(),
    relative: z.number(),
  }),
});

function checkFit(golden: unknown): string {
  const { inputs, expected } = FitSchema.parse(golden);
  const fit = fitQuadratic(inputs.x, inputs.y);
  if (fit === undefined) throw new Error("no fit");
  compareExact("vertex_is_inside_maximum", fit.vertexIsInsideMaximum, expected.vertex_is_inside_maximum);
  return report(
    compareNumber("a", fit.a, expected.a),
    compareNumber("b", fit.b, expected.b),
    compareNumber("c", fit.c, expected.c),
    compareNumbers("fitted", fit.fitted, expected.fitted),
    compareNumber("r2", fit.r2, expected.r2),
    compareNumber("vertex_x", fit.vertexX, expected.vertex_x),
    compareNumber("vertex_y", fit.vertexY, expected.vertex_y),
    compareNumber("converged", fit.converged, expected.converged),
    compareNumber("peak", fit.peak, expected.peak),
    compareNumber("gain", fit.gain, expected.gain),
    compareNumber("relative", fit.relative, expected.relative),
  );
}

export const METRICS: readonly Operation[] = [
  ["pass_at_k/", checkPassAtK],
  ["eval/", checkEval],
  ["fit/", checkFit],
];
