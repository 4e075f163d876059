import { expect, test } from "bun:test";
import { Rng } from "../src/core/rng.ts";
import { growthOf, MemoryWatch } from "./load-memory.ts";

const STEPS = 40;
const warming = (step: number) => 200 - 70 * Math.exp(-step / 5);

test("caches that fill and a collector's ups and downs are no growth, a leak below them is", () => {
  for (const seed of [1, 2, 3, 4, 5]) {
    const rng = new Rng(`memory/${seed}`);
    const noise = Array.from({ length: STEPS }, () => 4 * rng.next() + (rng.next() < 0.1 ? 40 : 0));
    const flat = noise.map((more, step) => warming(step) + more);
    const leaking = flat.map((value, step) => value + step);
    expect(Math.abs(growthOf(flat).added)).toBeLessThan(5);
    expect(growthOf(leaking).added - growthOf(flat).added).toBeCloseTo(STEPS / 2 - 1, 0);
  }
});

test("straight lines have their slope, from the middle on", () => {
  expect(growthOf([9, 0, 1, 5, 6, 7, 8, 9])).toEqual({ median: 7.5, added: 3 });
  expect(growthOf([5, 5, 5, Number.NaN, 5])).toEqual({ median: 5, added: 0 });
});

test("the least that a process was seen with", () => {
  using watch = new MemoryWatch(process.pid);
  const before = process.memoryUsage.rss();
  expect(watch.take()).toBeGreaterThan(before / 2);
  using gone = new MemoryWatch(2 ** 30);
  expect(gone.take()).toBeNaN();
});
