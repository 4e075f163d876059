import { expect, test } from "bun:test";
import fc from "fast-check";
import { extent, linearScale, logScale, niceTicks } from "./scale.ts";

test("ticks are round numbers within the range", () => {
  expect(niceTicks(0, 1, 5)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
  expect(niceTicks(0, 100, 10)).toEqual([0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
  expect(niceTicks(3, 3, 5)).toEqual([3]);
  fc.assert(
    fc.property(fc.double({ min: -1e6, max: 1e6, noNaN: true }), fc.double({ min: 1e-6, max: 1e6 }), (low, width) => {
      const ticks = niceTicks(low, low + width, 5);
      expect(ticks.length).toBeGreaterThan(0);
      expect(ticks.length).toBeLessThan(16);
    }),
  );
});

test("scales put the ends of the domain at the ends of the axis", () => {
  const linear = linearScale([10, 20], 100, 0, 5);
  expect([linear.at(10), linear.at(15), linear.at(20)]).toEqual([100, 50, 0]);
  const log = logScale([2e-6, 4e-4], 100, 0);
  expect(log.domain).toEqual([1e-6, 1e-3]);
  expect([log.at(1e-6), log.at(1e-3)]).toEqual([100, 0]);
  expect(log.at(0)).toBe(100);
});

test("the extent ignores what is no number", () => {
  expect(extent([null, undefined, Number.NaN], false)).toEqual([0, 1]);
  const [low, high] = extent([2, 4, null], true);
  expect(low).toBe(0);
  expect(high).toBeGreaterThan(4);
});
