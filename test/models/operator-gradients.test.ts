import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Tensor } from "../../src/autodiff/graph.ts";
import { type CheckedFunction, checkGradients } from "../../src/models/gradient-check.ts";
import { normal, OPERATOR_CASES, PACKED_CASES } from "../../src/models/operator-cases.ts";
import { RANDOM_OPERATORS, randomCase } from "../../src/models/random-cases.ts";

/** Per operator; test/devices tries more. */
const RANDOM_SHAPES = 4;

describe("gradients of every operator against central differences", () => {
  for (const [name, { build, inputs }] of Object.entries({ ...OPERATOR_CASES, ...PACKED_CASES })) {
    test(name, () => {
      const report = checkGradients(build, inputs, 12);
      expect(report.probes).toBeGreaterThan(9);
      expect(report.differenceError).toBeLessThan(1e-8);
      expect(report.float32Error).toBeLessThan(1e-5);
    });
  }

  test.each(RANDOM_OPERATORS)("%s of any shape", (name) => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { build, inputs } = randomCase(name, seed);
        const report = checkGradients(build, inputs, 2);
        expect(report.differenceError).toBeLessThan(1e-8);
        expect(report.float32Error).toBeLessThan(1e-5);
      }),
      { numRuns: RANDOM_SHAPES },
    );
  });

  test("a wrong backward rule is caught", () => {
    const wrong: CheckedFunction<"a"> = (graph, { a }) => {
      const output = graph.apply("Mul", [a, a], a.shape);
      graph.record([output], ([g]) => graph.accumulate(a, () => graph.apply("Mul", [g as Tensor, a], a.shape)));
      return [output];
    };
    expect(checkGradients(wrong, { a: normal("a", 3, 4) }, 4).differenceError).toBeGreaterThan(0.1);
  });
});
