import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { throughputBound } from "../../bench/rollout/bound.ts";
import { Clock } from "../../bench/rollout/clock.ts";
import { LAWS, type LawName } from "../../bench/rollout/laws.ts";
import type { Costs, Placement, Schedule, Setup, Workload } from "../../bench/rollout/setup.ts";
import { simulate } from "../../bench/rollout/simulator.ts";
import { LatencySchema } from "../../src/config/latency.ts";

/** Without any cost but those a test gives. */
const FREE: Costs = {
  decode: { base: 0, perRow: 0 },
  prefill: { base: 0, perToken: 0 },
  ...{ slots: 32, prefillTokens: 512, microBatchTokens: 2048 },
  train: { base: 0, perToken: 0 },
  ...{ optimizer: 0, sync: 0, step: 0, reset: 0, tool: 0, grade: 0 },
};
const WORKLOAD: Workload = {
  ...{ seed: 1, groups: 8, groupSize: 4, concurrency: 96, minibatches: 2, acceptedShare: 1, trainedShare: 1 },
  shapes: [
    [
      { context: 30, answer: 10, command: true },
      { context: 10, answer: 10, command: true },
      { context: 10, answer: 1, command: false },
    ],
  ],
};
const SCHEDULE: Schedule = {
  ...{ devices: 2, placement: { kind: "shared" }, ratio: 0, policy: "greedy", trainShare: 0.5, recompute: false },
};
/** About what two engines of one thread cost, training half as long as generation. */
const COSTS: Costs = {
  ...FREE,
  decode: { base: 2, perRow: 0.15 },
  prefill: { base: 1, perToken: 0.02 },
  train: { base: 5, perToken: 0.1 },
  ...{ optimizer: 10, sync: 1, step: 5, reset: 3, tool: 2, grade: 6 },
};

const setupOf = (parts: {
  readonly workload?: Partial<Workload>;
  readonly costs?: Costs;
  readonly schedule?: Partial<Schedule>;
}): Setup => ({
  workload: { ...WORKLOAD, ...parts.workload },
  costs: parts.costs ?? FREE,
  schedule: { ...SCHEDULE, ...parts.schedule },
});

test("what is due first happens first, and in the order it was asked for", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 20 }), { minLength: 1, maxLength: 50 }), (times) => {
      const clock = new Clock();
      const seen: [number, number][] = [];
      for (const [i, ms] of times.entries()) clock.after(ms, () => seen.push([clock.now, i]));
      expect(clock.run(() => seen.length === times.length)).toBe(true);
      expect(seen).toEqual(times.map((ms, i): [number, number] => [ms, i]).sort((a, b) => a[0] - b[0] || a[1] - b[1]));
    }),
  );
});

describe("cases that can be computed by hand", () => {
  const constant = LatencySchema.parse({ type: "constant", ms: 100 });

  test("synchronous, nothing but latency: a step lasts as long as an episode", () => {
    const { episodesPerSecond, idle, stalenessMean } = simulate(setupOf({ workload: { law: constant } }), 5);
    expect(episodesPerSecond).toBeCloseTo(32 / 0.2, 9);
    expect(idle).toEqual([1, 1]);
    expect(stalenessMean).toBe(0);
  });

  test("places: 8 at once take four times as long", () => {
    const workload = { law: constant, concurrency: 8 };
    expect(simulate(setupOf({ workload }), 5).episodesPerSecond).toBeCloseTo(8 / 0.2, 9);
    expect(throughputBound(setupOf({ workload }), [1, 5]).workAndPlaces).toBeCloseTo(8 / 0.2, 9);
  });

  test("nothing but training: devices share it, and one of them does it alone when split", () => {
    const costs = { ...FREE, train: { base: 0, perToken: 0.1 }, optimizer: 10 };
    const update = 71 * 32 * 0.1 + 2 * 10;
    // two minibatches of one micro-batch each: the second device has none
    const oneEach = (71 * 32 * 0.1) / 1 + 2 * 5;
    expect(simulate(setupOf({ costs }), 5).episodesPerSecond).toBeCloseTo(32_000 / oneEach, 6);
    const split = { placement: { kind: "split", trainers: 1 } as Placement };
    const alone = simulate(setupOf({ costs, schedule: split }), 5);
    expect(alone.episodesPerSecond).toBeCloseTo(32_000 / update, 6);
    expect(alone.idle).toEqual([0, 1].map((idle) => expect.closeTo(idle, 9)));
    expect(throughputBound(setupOf({ costs }), [1, 5]).workAndPlaces).toBeCloseTo(64_000 / update, 6);
  });

  test("nothing but decode steps of all rows: 21 of them make the 32 episodes of a step", () => {
    const costs = { ...FREE, decode: { base: 2, perRow: 0.5 }, prefillTokens: 1000 };
    const one = simulate(setupOf({ costs, schedule: { devices: 1 } }), 5);
    expect(one.episodesPerSecond).toBeCloseTo(32_000 / (21 * (2 + 16)), 6);
    expect(one.generateShare).toBeCloseTo(1, 9);
    expect(throughputBound(setupOf({ costs, schedule: { devices: 1 } }), [1, 5])).toMatchObject({
      rows: 32,
      episodesPerSecond: expect.closeTo(32_000 / (21 * (2 + 16)), 6),
    });
  });

  test("a filter that takes half of the groups makes generation twice the work", () => {
    const costs = { ...FREE, decode: { base: 2, perRow: 0.5 }, prefillTokens: 1000 };
    const workload = { acceptedShare: 0.5 };
    const setup = setupOf({ costs, workload, schedule: { devices: 1 } });
    const bound = throughputBound(setup, [1, 20]).workAndPlaces;
    expect(bound).toBeCloseTo(32_000 / (2 * 21 * (2 + 16)), 6);
    const { episodesPerSecond } = simulate(setup, 20, 0);
    expect(episodesPerSecond).toBeLessThan(bound * 1.2);
    expect(episodesPerSecond).toBeGreaterThan(bound * 0.5);
  });

  test("one straggler per group holds every synchronous step up, and fewer of those ahead", () => {
    const law = LatencySchema.parse({ type: "constant", ms: 100, stragglersPerGroup: 1, factor: 20 });
    // `greedy` may take young groups that happened to be first, and lose old ones to their age
    const schedule = { policy: "rounds" } as const;
    const at = (ratio: number) => setupOf({ workload: { law, concurrency: 1000 }, schedule: { ...schedule, ratio } });
    for (const ratio of [0, 1, 2]) {
      const bound = throughputBound(at(ratio), [1, 5]).gate;
      expect(bound).toBeCloseTo((32 * (ratio + 1)) / 4, 9);
      expect(simulate(at(ratio), 12).episodesPerSecond).toBeLessThanOrEqual(bound * (1 + 1e-9));
    }
    expect(simulate(at(0), 6).episodesPerSecond).toBeCloseTo(32 / 4, 9);
    expect(simulate(at(1), 12).episodesPerSecond).toBeGreaterThan((1.3 * 32) / 4);
  });
});

const laws = fc.constantFrom<LawName | undefined>(undefined, "A", "B", "C");
const placements = fc.constantFrom<Placement>({ kind: "shared" }, { kind: "elastic" }, { kind: "split", trainers: 1 });

describe("whatever the law, the placement and the ratio", () => {
  test("no schedule passes the bound, no trajectory the ratio, and the same seed gives the same run", () => {
    fc.assert(
      fc.property(
        laws,
        placements,
        fc.integer({ min: 0, max: 2 }),
        fc.constantFrom(16, 64, 256),
        fc.boolean(),
        (law, placement, ratio, concurrency, recompute) => {
          const workload = { concurrency, ...(law && { law: LAWS[law] }) };
          const setup = setupOf({ workload, costs: COSTS, schedule: { placement, ratio, recompute } });
          const result = simulate(setup, 6, 0);
          // places may be passed by dropping slow groups, so there is no lack of them here
          const roomy = { ...setup, workload: { ...setup.workload, concurrency: 1e9 } };
          const bound = throughputBound(roomy, [1, 6 + ratio]);
          expect(result.episodesPerSecond).toBeLessThanOrEqual(bound.workAndPlaces * (1 + 1e-9));
          if (ratio > 0) expect(result.episodesPerSecond).toBeLessThanOrEqual(bound.gate * (1 + 1e-9));
          expect(result.stalenessMean).toBeLessThanOrEqual(ratio);
          for (const idle of result.idle) expect(idle).toBeGreaterThanOrEqual(-1e-9);
          expect(simulate(setup, 6, 0)).toEqual(result);
        },
      ),
      { numRuns: 10 },
    );
  });

  test("ahead of training, devices have work", () => {
    for (const law of ["A", "C"] as const) {
      const of = (ratio: number) => {
        const workload = { law: LAWS[law], groups: 16, groupSize: 8, concurrency: 512, trainedShare: 0.6 };
        return simulate(setupOf({ workload, costs: COSTS, schedule: { recompute: true, ratio } }), 4);
      };
      const [sync, ahead] = [of(0), of(4)];
      expect(ahead.episodesPerSecond).toBeGreaterThan(2 * sync.episodesPerSecond);
      expect(Math.min(...ahead.idle)).toBeLessThan(Math.min(...sync.idle) / 2);
      expect([sync.stalenessMean, ahead.stalenessMean > 0]).toEqual([0, true]);
    }
  });

  test("two devices for everything do more than one for each kind of work, if there is twice as much of one kind", () => {
    const costs = { ...COSTS, decode: { base: 10, perRow: 0.5 }, microBatchTokens: 128 };
    const workload = { groups: 16, concurrency: 256 };
    const of = (placement: Placement) => simulate(setupOf({ costs, workload, schedule: { ratio: 2, placement } }), 10);
    const split = of({ kind: "split", trainers: 1 });
    const shared = of({ kind: "shared" });
    expect(shared.generateShare).toBeGreaterThan(1.5 * shared.trainShare);
    expect(shared.episodesPerSecond).toBeGreaterThan(1.2 * split.episodesPerSecond);
    expect(Math.max(...split.idle)).toBeGreaterThan(0.3);
  });
});
