import { describe, expect, test } from "bun:test";
import { type AdamWInstructions, adamWOperator } from "../runtime/adamw.ts";
import { addressOf, allocateFloat32 } from "../runtime/memory.ts";
import { Session } from "../runtime/session.ts";
import { float32Value, type Value } from "../runtime/value.ts";
import {
  ADAMW_SCALARS,
  AdamW,
  adamWGraph,
  adamWScalars,
  clipScale,
  GlobalNorm,
  type OptimizerArrays,
  ownAdamWGraph,
} from "./optimizer.ts";
import { learningRate } from "./schedule.ts";

const SETTINGS = { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 } as const;

/** Numbers between −1 and 1, the same every time. */
function noise(i: number): number {
  const x = Math.sin(i * 12.9898 + 1) * 43758.5453;
  return 2 * (x - Math.floor(x)) - 1;
}

function arrays(length: number): OptimizerArrays {
  return {
    parameters: allocateFloat32(length),
    firstMoment: allocateFloat32(length),
    secondMoment: allocateFloat32(length),
  };
}

/** All ways to compute an update; the plain graph alone where there is no operator. */
const WAYS: readonly (AdamWInstructions | "none")[] = ["none", ...(adamWOperator()?.instructions ?? [])];
if (WAYS.length === 1) console.log("optimizer: no C compiler here; the operator ale::AdamW is not tested");

describe("AdamW", () => {
  // Three chunks and a remainder, divided where no vector begins.
  const length = 70_001;
  const decayed = 66_003;
  const ranges = [
    { begin: 0, end: decayed, group: "decayed" as const },
    { begin: decayed, end: length, group: "spared" as const },
  ];
  const start = new Float32Array(length).map((_, i) => noise(i));
  const gradientsOf = (step: number) => new Float32Array(length).map((_, i) => noise(i + step * 0.37));

  const run = (way: AdamWInstructions | "none", inPlace: boolean): OptimizerArrays => {
    const gradients = allocateFloat32(length);
    const adamW = new AdamW(gradients, ranges, 2, way);
    const slots = [arrays(length), arrays(length)] as const;
    slots[0].parameters.set(start);
    for (let step = 1; step <= 3; step++) {
      gradients.set(gradientsOf(step));
      const [from, to] = inPlace ? [slots[0], slots[0]] : step % 2 === 1 ? slots : [slots[1], slots[0]];
      adamW.update(from, to, SETTINGS, step, 0.5);
    }
    adamW.release();
    return inPlace ? slots[0] : slots[1];
  };

  test("follows the formula in float64 over several steps, chunks and ranges", () => {
    const { parameters, firstMoment, secondMoment } = run(WAYS.at(-1) ?? "none", false);
    const [p, m, v] = [Float64Array.from(start), new Float64Array(length), new Float64Array(length)];
    for (let step = 1; step <= 3; step++) {
      for (const [i, gradient] of gradientsOf(step).entries()) {
        const g = 0.5 * gradient;
        const decay = i < decayed ? SETTINGS.lr * SETTINGS.weightDecay : 0;
        m[i] = 0.9 * (m[i] as number) + 0.1 * g;
        v[i] = 0.95 * (v[i] as number) + 0.05 * g * g;
        const mHat = (m[i] as number) / (1 - 0.9 ** step);
        const vHat = (v[i] as number) / (1 - 0.95 ** step);
        p[i] = (p[i] as number) * (1 - decay) - (SETTINGS.lr * mHat) / (Math.sqrt(vHat) + SETTINGS.eps);
      }
    }
    const worst = (found: Float32Array, expected: Float64Array) =>
      found.reduce((most, value, i) => Math.max(most, Math.abs(value - (expected[i] as number))), 0);
    expect(worst(parameters, p)).toBeLessThan(2e-6);
    expect(worst(firstMoment, m)).toBeLessThan(1e-7);
    expect(worst(secondMoment, v)).toBeLessThan(1e-7);
  });

  test("has the same bits in place and with every way to compute it", () => {
    const expected = run("none", false);
    for (const way of WAYS) for (const inPlace of [false, true]) expect(run(way, inPlace)).toEqual(expected);
  });
});

describe.each(WAYS.flatMap((way) => (way === "none" ? [] : ([[way]] as const))))("ale::AdamW with %s", (way) => {
  /** One update of arrays that begin `offset` elements after a multiple of 64 bytes. */
  const update = (graph: Uint8Array, length: number, offset: number, inPlace: boolean) => {
    const at = (fill: (i: number) => number): Value => {
      const elements = allocateFloat32(length + 32);
      const begin = offset + ((64 - (addressOf(elements) % 64)) % 64) / 4;
      const part = elements.subarray(begin, begin + length);
      for (let i = 0; i < length; i++) part[i] = fill(i);
      return float32Value(part, [length]);
    };
    const strange = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 1e30];
    const [p, m] = [at(noise), at((i) => noise(i + 0.1))];
    const v = at((i) => Math.abs(noise(i + 0.2)));
    const g = at((i) => (i % 7 < strange.length ? (strange[i % 7] as number) : noise(i + 0.3)));
    const scalars = adamWScalars(SETTINGS, "decayed", 2, 0.5);
    const feeds = Object.fromEntries(
      ADAMW_SCALARS.map((name) => [name, float32Value(allocateFloat32(1).fill(scalars[name]), [])]),
    );
    const fetches = inPlace ? { p2: p, m2: m, v2: v } : { p2: at(() => 9), m2: at(() => 9), v2: at(() => 9) };
    const session = new Session(graph, { threads: 1, operators: adamWOperator()?.domain });
    session.prepare({ p, m, v, g, ...feeds }, fetches)();
    session.release();
    return [fetches.p2, fetches.m2, fetches.v2].map(({ data }) => [...(data as Float32Array)]);
  };

  test("gives NaN, infinity and zeros as the plain graph does, at any length and place, in place too", () => {
    for (const length of [0, 1, 15, 16, 83]) {
      const expected = update(adamWGraph(), length, 0, false);
      for (const pastCaches of [false, true]) {
        for (const [offset, inPlace] of [
          [0, false],
          [0, true],
          [1, false],
          [3, true],
        ] as const) {
          expect(update(ownAdamWGraph(way, pastCaches), length, offset, inPlace)).toEqual(expected);
        }
      }
    }
    const [parameters] = update(ownAdamWGraph(way, false), 83, 0, false) as [number[]];
    expect(parameters.slice(0, 7).map(Number.isFinite)).toEqual([false, false, false, true, true, true, true]);
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
