import { describe, expect, test } from "bun:test";
import { Rng } from "../core/rng.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { AdamW, clipScale, GlobalNorm, type OptimizerArrays } from "./optimizer.ts";
import { learningRate } from "./schedule.ts";

const SETTINGS = { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 } as const;

function arrays(length: number): OptimizerArrays {
  return {
    parameters: allocateFloat32(length),
    firstMoment: allocateFloat32(length),
    secondMoment: allocateFloat32(length),
  };
}

describe("AdamW", () => {
  test("follows the formula in float64 over several steps, chunks and ranges", () => {
    const length = 140_000;
    const gradients = allocateFloat32(length);
    const rng = new Rng("adamw");
    const a = arrays(length);
    const b = arrays(length);
    const p = new Float64Array(length).map(() => Math.fround(rng.normal()));
    a.parameters.set(p);
    const m = new Float64Array(length);
    const v = new Float64Array(length);
    const ranges = [
      { begin: 0, end: 133_000, group: "decayed" as const },
      { begin: 133_000, end: length, group: "spared" as const },
    ];
    const adamW = new AdamW(gradients, ranges, 2);
    let from = a;
    let to = b;
    for (let step = 1; step <= 3; step++) {
      for (let i = 0; i < length; i++) gradients[i] = rng.next() - 0.5;
      adamW.update(from, to, SETTINGS, step, 0.5);
      for (let i = 0; i < length; i++) {
        const g = 0.5 * (gradients[i] as number);
        const decay = i < 133_000 ? SETTINGS.lr * SETTINGS.weightDecay : 0;
        m[i] = 0.9 * (m[i] as number) + 0.1 * g;
        v[i] = 0.95 * (v[i] as number) + 0.05 * g * g;
        const mHat = (m[i] as number) / (1 - 0.9 ** step);
        const vHat = (v[i] as number) / (1 - 0.95 ** step);
        p[i] = (p[i] as number) * (1 - decay) - (SETTINGS.lr * mHat) / (Math.sqrt(vHat) + SETTINGS.eps);
      }
      [from, to] = [to, from];
    }
    adamW.release();
    let worst = 0;
    for (let i = 0; i < length; i++)
      worst = Math.max(worst, Math.abs((from.parameters[i] as number) - (p[i] as number)));
    expect(worst).toBeLessThan(2e-6);
    expect(from.firstMoment[139_999]).toBeCloseTo(m[139_999] as number, 6);
    expect(from.secondMoment[139_999]).toBeCloseTo(v[139_999] as number, 6);
  });
});

test("the global norm covers every element of every chunk", () => {
  const flat = allocateFloat32(150_001);
  const norm = new GlobalNorm(flat, 2);
  flat[0] = 3;
  flat[150_000] = 4;
  expect(norm.compute()).toBe(5);
  flat.fill(0.5);
  expect(norm.compute()).toBeCloseTo(0.5 * Math.sqrt(150_001), 3);
  norm.release();
});

test("clipping scales down to the limit and never up", () => {
  expect(clipScale(4, 1)).toBeCloseTo(0.25, 6);
  expect(clipScale(0.5, 1)).toBe(1);
  expect(clipScale(100, 0)).toBe(1);
});

describe("learning rate", () => {
  const base = { base: 2, warmup: 4, total: 12, minRatio: 0.1 } as const;

  test("warm-up from zero and plus one", () => {
    const rates = (warmupFrom: "from_zero" | "plus_one") =>
      [0, 1, 3, 4].map((update) => learningRate({ ...base, kind: "constant", warmupFrom, update }));
    expect(rates("from_zero")).toEqual([0, 0.5, 1.5, 2]);
    expect(rates("plus_one")).toEqual([0.5, 1, 2, 2]);
  });

  test("linear and cosine reach the floor at the end and stay there", () => {
    for (const kind of ["linear", "cosine"] as const) {
      const rate = (update: number) => learningRate({ ...base, kind, warmupFrom: "plus_one", update });
      expect(rate(4)).toBeCloseTo(2, 12);
      expect(rate(8)).toBeCloseTo(1.1, 12);
      expect(rate(12)).toBeCloseTo(0.2, 12);
      expect(rate(40)).toBeCloseTo(0.2, 12);
    }
  });

  test("no warm-up and a run of one step", () => {
    expect(learningRate({ ...base, kind: "linear", warmup: 0, total: 1, warmupFrom: "from_zero", update: 0 })).toBe(2);
  });
});
