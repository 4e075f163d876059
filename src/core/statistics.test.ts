import { expect, test } from "bun:test";
import { wilsonInterval } from "./statistics.ts";

test("Wilson's interval: known values and exact ends", () => {
  const half = wilsonInterval(210, 420);
  expect(half.low).toBeCloseTo(0.4524, 4);
  expect(half.high).toBeCloseTo(0.5476, 4);
  expect(wilsonInterval(0, 28).low).toBe(0);
  expect(wilsonInterval(0, 28).high).toBeCloseTo(0.1206, 4);
  expect(wilsonInterval(28, 28).high).toBe(1);
  expect(wilsonInterval(0, 0)).toEqual({ low: 0, high: 1 });
});
