import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type LatencyLaw, LatencySchema } from "../config/latency.ts";
import { isStraggler, latencyOf } from "./latency.ts";

const law = (table: Readonly<Record<string, unknown>>): LatencyLaw => LatencySchema.parse(table);
const LOGNORMAL = law({ type: "lognormal", medianMs: 100, sigma: 1 });
const PARETO = law({ type: "pareto", fromMs: 50, alpha: 1.5 });
const LAWS = [
  law({ type: "lognormal", medianMs: 100, sigma: 1, stragglers: 0.02, factor: 20 }),
  PARETO,
  law({ type: "constant", ms: 100, stragglersPerGroup: 1, factor: 20 }),
];

/** Latencies of many turns of many episodes, ascending. */
function sample(one: LatencyLaw): number[] {
  const all: number[] = [];
  for (let episode = 0; episode < 2000; episode++) {
    const key = { group: `1/train/${episode >> 3}`, member: episode % 8, members: 8 };
    for (let turn = 0; turn < 5; turn++) all.push(latencyOf(one, key, turn));
  }
  return all.sort((a, b) => a - b);
}

const groups = fc.record({ group: fc.string(), members: fc.integer({ min: 1, max: 64 }) });
const keys = groups.chain(({ group, members }) =>
  fc.integer({ min: 0, max: members - 1 }).map((member) => ({ group, member, members })),
);
const turns = fc.integer({ min: 0, max: 10_000 });

describe("the quantiles of 10 000 turns are those of the law", () => {
  test.each([
    ["log-normal", LOGNORMAL, (p: number) => 100 * Math.exp(normalQuantile(p))],
    ["Pareto", PARETO, (p: number) => 50 * (1 - p) ** (-1 / 1.5)],
  ] as const)("%s", (_, one, quantile) => {
    const sorted = sample(one);
    for (const p of [0.05, 0.25, 0.5, 0.75, 0.95]) {
      const found = sorted.findIndex((ms) => ms > quantile(p)) / sorted.length;
      // four standard errors of a share of 10 000
      expect(Math.abs(found - p)).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / sorted.length));
    }
  });

  test("constant: every turn alike", () => {
    expect(new Set(sample(law({ type: "constant", ms: 70 })))).toEqual(new Set([70]));
  });
});

/** Φ⁻¹ by bisection of the complementary error function's series (Abramowitz and Stegun 7.1.26, error below 2e-7). */
function normalQuantile(p: number): number {
  let [low, high] = [-8, 8];
  while (high - low > 1e-6) {
    const middle = (low + high) / 2;
    if (normalShare(middle) < p) low = middle;
    else high = middle;
  }
  return low;
}

function normalShare(z: number): number {
  const x = Math.abs(z) / Math.SQRT2;
  const t = 1 / (1 + 0.3275911 * x);
  const series = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const erf = 1 - t * series.reduce((sum, a) => sum * t + a, 0) * Math.exp(-x * x);
  return z < 0 ? (1 - erf) / 2 : (1 + erf) / 2;
}

test("turns of an episode, and the episodes of a group, are independent", () => {
  const of = (member: number, turn: number) =>
    Math.log(latencyOf(LOGNORMAL, { group: "1/train/1/0", member, members: 2000 }, turn) / 100);
  const products = (other: (member: number) => number) =>
    Array.from({ length: 2000 }, (_, member) => of(member, 0) * other(member)).reduce((sum, x) => sum + x, 0) / 2000;
  expect(Math.abs(products((member) => of(member, 1)))).toBeLessThan(4 / Math.sqrt(2000));
  expect(Math.abs(products((member) => of((member + 1) % 2000, 0)))).toBeLessThan(4 / Math.sqrt(2000));
});

test("a latency depends on its key alone, whatever was drawn before", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(keys, turns), { minLength: 1, maxLength: 20 }), (asked) => {
      for (const one of LAWS) {
        const forward = asked.map(([key, turn]) => latencyOf(one, key, turn));
        const backward = asked.toReversed().map(([key, turn]) => latencyOf(one, key, turn));
        expect(backward.reverse()).toEqual(forward);
        for (const ms of forward) expect(Number.isFinite(ms) && ms >= 0).toBe(true);
      }
    }),
  );
  const key = { group: "1/train/1/0", member: 0, members: 8 };
  expect(latencyOf(LOGNORMAL, key, 0)).not.toBe(latencyOf(LOGNORMAL, { ...key, group: "2/train/1/0" }, 0));
});

describe("stragglers", () => {
  test("exactly so many of every group as the law says", () => {
    fc.assert(
      fc.property(groups, fc.integer({ min: 1, max: 4 }), ({ group, members }, count) => {
        const constant = law({ type: "constant", ms: 100, stragglersPerGroup: count });
        const slow = Array.from({ length: members }, (_, member) => isStraggler(constant, { group, member, members }));
        expect(slow.filter(Boolean)).toHaveLength(Math.min(count, members));
      }),
    );
  });

  test("none beyond the members that the law knows", () => {
    const constant = law({ type: "constant", ms: 100, stragglersPerGroup: 8 });
    expect(isStraggler(constant, { group: "1/train/1/0", member: 7, members: 8 })).toBe(true);
    expect(isStraggler(constant, { group: "1/train/1/0", member: 8, members: 8 })).toBe(false);
  });

  test("every member of a group may be the one", () => {
    const constant = law({ type: "constant", stragglersPerGroup: 1 });
    const times = new Array<number>(8).fill(0);
    for (let g = 0; g < 800; g++) {
      const which = times.findIndex((_, member) => isStraggler(constant, { group: `1/${g}`, member, members: 8 }));
      times[which] = (times[which] ?? 0) + 1;
    }
    for (const count of times) expect(Math.abs(count - 100)).toBeLessThan(4 * Math.sqrt((800 * 7) / 64));
  });

  test("a share of episodes, all turns of which are slower by the factor", () => {
    const withFactor = law({ type: "lognormal", stragglers: 0.02, factor: 20 });
    const all = Array.from({ length: 10_000 }, (_, i) => ({ group: `1/train/${i >> 3}`, member: i % 8, members: 8 }));
    const stragglers = all.filter((key) => isStraggler(withFactor, key));
    expect(Math.abs(stragglers.length - 200)).toBeLessThan(4 * Math.sqrt(200));
    for (const key of all.slice(0, 200)) {
      const factor = isStraggler(withFactor, key) ? 20 : 1;
      for (const turn of [0, 1, 5]) {
        expect(latencyOf(withFactor, key, turn)).toBe(latencyOf(LOGNORMAL, key, turn) * factor);
      }
    }
  });
});
