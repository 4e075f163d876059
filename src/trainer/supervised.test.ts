import { expect, test } from "bun:test";
import { ExperimentSchema } from "../config/experiment.ts";
import type { TokenRecord } from "../core/types.ts";
import { DemonstrationOrder, stageRate, supervisedJob } from "./supervised.ts";

const stage = { steps: 100, lr: 1, mistakes: 0, decayFrom: 0.5, minRatio: 0.1 };

test("the learning rate warms up, stays, and falls to its floor", () => {
  expect(stageRate(stage, 10, 1)).toBeCloseTo(0.1);
  expect(stageRate(stage, 10, 10)).toBeCloseTo(1);
  expect(stageRate(stage, 10, 50)).toBeCloseTo(1);
  expect(stageRate(stage, 10, 75)).toBeCloseTo(0.5);
  expect(stageRate(stage, 10, 100)).toBeCloseTo(0.1);
});

test("every pass visits every demonstration once, and any step can be asked for first", () => {
  const lengths = Array.from({ length: 64 }, (_, i) => 10 + ((i * 7) % 50));
  const order = new DemonstrationOrder(lengths, 8, "key");
  const firstPass = Array.from({ length: 8 }, (_, step) => order.at(step)).flat();
  expect([...firstPass].sort((a, b) => a - b)).toEqual(lengths.map((_, i) => i));
  const later = new DemonstrationOrder(lengths, 8, "key").at(13);
  expect(order.at(13)).toEqual(later);
});

test("supervised weights sum to 1 and leave the first token out", () => {
  const record: TokenRecord = {
    ids: Int32Array.of(1, 2, 3, 4),
    mask: Uint8Array.of(0, 0, 1, 1),
    logprobs: new Float32Array(4),
    logprobsT1: new Float32Array(4),
    versions: new Int32Array(4),
    kvOldest: new Int32Array(4),
    turnIds: new Int32Array(4),
  };
  const records = [record, record].map((tokens) => ({ tokens, trained_T: tokens.mask }));
  const job = supervisedJob(ExperimentSchema.parse({}), records, 0.1);
  const all = job.weights.flatMap((row) => [...row]);
  expect(all.reduce((a, b) => a + b, 0)).toBeCloseTo(1);
  expect(job.weights[0]?.[0]).toBe(0);
  expect((job.weights[0]?.[1] as number) / (job.weights[0]?.[2] as number)).toBeCloseTo(0.1);
});
