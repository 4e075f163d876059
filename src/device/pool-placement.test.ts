import { describe, expect, test } from "bun:test";
import { assignWork, ElasticPlacement } from "./pool-placement.ts";

test("who does what", () => {
  expect(assignWork({ kind: "shared" }, 2)).toEqual(["both", "both"]);
  expect(assignWork({ kind: "elastic" }, 1)).toEqual(["both"]);
  expect(assignWork({ kind: "split", trainers: 1 }, 3)).toEqual(["train", "generate", "generate"]);
  expect(() => assignWork({ kind: "split", trainers: 1 }, 1)).toThrow("nobody would generate");
  expect(() => assignWork({ kind: "split", trainers: 3 }, 3)).toThrow("3 of 3 engines");
});

describe("elastic", () => {
  /** Times of engines that have all done the same. */
  const times = (engines: number, trainMs: number, generateMs: number) =>
    new Map(Array.from({ length: engines }, (_, rank) => [rank, { trainMs, generateMs }]));

  test("all train when nothing is generated or known", () => {
    const placement = new ElasticPlacement(4);
    expect(placement.decide(10, new Map())).toBe(4);
    expect(placement.decide(10, times(4, 0, 100))).toBe(4);
    expect(placement.decide(0, times(4, 100, 1000))).toBe(4);
    expect(placement.slowness).toBe(1);
    expect(new ElasticPlacement(1).decide(10, times(1, 5, 5))).toBe(1);
  });

  test.each([
    [4, 1, 3, 1],
    [4, 2, 3, 2],
    [4, 1, 99, 1],
    [4, 9, 1, 4],
    [2, 1, 2, 1],
    [2, 3, 2, 2],
  ])("of %d engines with %d : %d of training and generation %d train", (engines, train, generate, trainers) => {
    const placement = new ElasticPlacement(engines);
    expect(placement.decide(1, times(engines, train, generate))).toBe(trainers);
    const { slowness } = placement;
    if (trainers === engines) return expect(slowness).toBe(1);
    // Sequences in inverse proportion to the slowness: all engines are busy for the same time.
    const work = train + generate;
    const others = (engines - trainers) * (work / engines);
    const own = work / engines - train / trainers;
    if (own > 0) expect(others / (engines - trainers) / own).toBeCloseTo(slowness, 6);
    else expect(slowness).toBe(1000);
  });

  test("what is new counts more, and an engine that was started again counts from 0", () => {
    const placement = new ElasticPlacement(2);
    placement.decide(1, times(2, 100, 10));
    expect(placement.decide(1, times(2, 100, 150))).toBe(1);
    // 25 + 50 to 75 + 10
    expect(placement.decide(1, times(2, 50, 10))).toBe(1);
    expect(placement.decide(1, times(2, 200, 20))).toBe(2);
  });
});
