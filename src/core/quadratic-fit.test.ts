import { expect, test } from "bun:test";
import fc from "fast-check";
import { fitQuadratic, type QuadraticFit } from "./quadratic-fit.ts";

const steps = Array.from({ length: 27 }, (_, i) => i * 3);

type Expected = Partial<
  Pick<QuadraticFit, "a" | "b" | "c" | "r2" | "vertexX" | "vertexY" | "converged" | "peak" | "gain" | "relative">
>;

/** Computed with numpy's least squares in float64. */
const CASES: readonly {
  readonly name: string;
  readonly y: readonly number[];
  readonly expected: Expected;
}[] = [
  {
    name: "a maximum within the data",
    y: [
      0.3977, 0.4896, 0.4882, 0.5489, 0.5483, 0.6169, 0.649, 0.6537, 0.728, 0.7136, 0.7456, 0.7372, 0.8063, 0.7933,
      0.8058, 0.8272, 0.8442, 0.8345, 0.8596, 0.8497, 0.8617, 0.8931, 0.8773, 0.8673, 0.8555, 0.8074, 0.83,
    ],
    expected: {
      a: -0.00011747940437595636,
      b: 0.014476824554755609,
      c: 0.4163671045429661,
      r2: 0.9842316276519422,
      vertexX: 61.61430861713866,
      vertexY: 0.8623568724994076,
      converged: 0.8623568724994076,
      peak: 0.8931,
      gain: 0.4646568724994076,
      relative: 1.168360252701553,
    },
  },
  {
    name: "a maximum after the data",
    y: [
      0.2774, 0.3136, 0.3242, 0.3286, 0.344, 0.366, 0.3717, 0.3909, 0.3928, 0.4024, 0.4089, 0.4069, 0.4522, 0.4599,
      0.4816, 0.4643, 0.483, 0.4984, 0.4903, 0.5181, 0.5234, 0.5108, 0.5425, 0.5297, 0.5633, 0.5796, 0.584,
    ],
    expected: {
      a: -1.0749255002128666e-5,
      b: 0.004466219667943814,
      vertexX: 207.74554455445391,
      converged: 0.575762068965517,
      gain: 0.298362068965517,
    },
  },
];

for (const { name, y, expected } of CASES) {
  test(name, () => {
    const fit: Expected | undefined = fitQuadratic(steps, y);
    for (const [key, value] of Object.entries(expected)) {
      const got = fit?.[key as keyof Expected] ?? Number.NaN;
      expect(Math.abs(got - value)).toBeLessThanOrEqual(1e-9 * Math.abs(value) + 1e-12);
    }
    expect(fitQuadratic(steps, y)?.vertexIsInsideMaximum).toBe(name.includes("within"));
  });
}

test("any parabola is found again, far from zero too", () => {
  const coefficient = fc.double({ min: -2, max: 2, noNaN: true }).filter((value) => Math.abs(value) > 0.05);
  fc.assert(
    fc.property(coefficient, coefficient, coefficient, fc.integer({ min: -1000, max: 1000 }), (a, b, c, shift) => {
      const x = [0, 1, 2, 3.5, 5, 8].map((value) => value + shift);
      const y = x.map((value) => a * (value - shift) ** 2 + b * (value - shift) + c);
      const fit = fitQuadratic(x, y);
      expect(fit?.vertexX ?? 0).toBeCloseTo(shift - b / (2 * a), 6);
      for (const [i, value] of (fit?.fitted ?? []).entries()) expect(value).toBeCloseTo(y[i] ?? 0, 8);
      expect(fit?.r2 ?? 0).toBeCloseTo(1, 6);
    }),
    { numRuns: 50 },
  );
});

test("fewer than three different x give no fit, a constant curve is explained", () => {
  expect(fitQuadratic([], [])).toBeUndefined();
  expect(fitQuadratic([1, 1, 2], [0, 1, 2])).toBeUndefined();
  expect(fitQuadratic([1, 2, 3], [5, 5, 5])).toMatchObject({ r2: 1, converged: 5, vertexIsInsideMaximum: false });
});
