import { expect, test } from "bun:test";
import { assignWork, elasticTrainers, MeanMeter } from "./pool-placement.ts";

test("who does what", () => {
  expect(assignWork({ kind: "shared" }, 2)).toEqual(["both", "both"]);
  expect(assignWork({ kind: "elastic" }, 1)).toEqual(["both"]);
  expect(assignWork({ kind: "split", trainers: 1 }, 3)).toEqual(["train", "generate", "generate"]);
  expect(() => assignWork({ kind: "split", trainers: 1 }, 1)).toThrow("nobody would generate");
  expect(() => assignWork({ kind: "split", trainers: 3 }, 3)).toThrow("3 of 3 engines");
});

test("elastic: who is not needed for the awaited answers trains; at least one does, and all when nothing is open", () => {
  const trainers = (awaited: number, open = 100) => elasticTrainers({ engines: 4, slots: 32, open, awaited });
  expect(trainers(0, 0)).toBe(4);
  expect(trainers(90, 0)).toBe(4);
  expect([0, 0.1, 32, 33, 64, 90, 1000].map((awaited) => trainers(awaited))).toEqual([4, 3, 3, 2, 2, 1, 1]);
  expect(elasticTrainers({ engines: 1, slots: 8, open: 50, awaited: 50 })).toBe(1);
});

test("the mean of a number over time", () => {
  let now = 100;
  const meter = new MeanMeter(() => now);
  expect(meter.take()).toBe(0);
  meter.add(2);
  now += 10;
  meter.add(4);
  now += 30;
  expect(meter.take()).toBe((2 * 10 + 6 * 30) / 40);
  expect(meter.take()).toBe(6);
  meter.add(-6);
  now += 5;
  expect(meter.take()).toBe(0);
});
