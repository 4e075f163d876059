import { afterAll, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadExperiment } from "../../src/config/load.ts";
import { curvesSvg } from "./curves.ts";
import { pointAt, readOutcome } from "./outcome.ts";
import { PLANS, type Plan } from "./plans.ts";
import { type Result, Results } from "./results.ts";
import { areApart, estimate, studentQuantile } from "./statistics.ts";
import { summarizeArm, table } from "./table.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-learning-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("a mean over seeds has Student's interval", () => {
  // s = √2.5, n = 5, t = 2.776: half a width of 2.776 · √(2.5 / 5)
  const { mean, low, high } = estimate([1, 2, 3, 4, 5]);
  expect(mean).toBe(3);
  expect(high).toBeCloseTo(3 + 2.776 * Math.sqrt(0.5), 10);
  expect(low).toBeCloseTo(3 - 2.776 * Math.sqrt(0.5), 10);
  expect(estimate([0.4])).toEqual({ mean: 0.4, n: 1, low: null, high: null });
  expect(() => estimate([])).toThrow("no values");
});

test("quantiles go on smoothly beyond their table", () => {
  // exact values: 2.131 (15), 2.120 (16), 2.042 (30)
  expect(studentQuantile(16)).toBeCloseTo(2.12, 2);
  expect(studentQuantile(30)).toBeCloseTo(2.042, 2);
});

test("intervals are apart only where both are known", () => {
  expect(areApart(estimate([0.1, 0.12, 0.11]), estimate([0.9, 0.92, 0.91]))).toBe(true);
  expect(areApart(estimate([0.1, 0.5]), estimate([0.4, 0.6]))).toBe(false);
  expect(areApart(estimate([0.1]), estimate([0.9]))).toBe(false);
});

const evaluation = (step: number, rate: number, greedy = false) => ({
  ...{ step, greedy, rate, n: 10, low: 0, high: 1, split: "heldout" as const },
  perFamily: { a: { rate: rate / 2, n: 5 }, b: { rate, n: 5 } },
});
const metricsOf = (envSteps: number) =>
  [1, 2, 3].map((step) => ({
    step,
    metrics: {
      "perf/episodes_per_second": 10 * step,
      "rollout/env_steps": envSteps,
      "rollout/forked_prefix_turns": 2,
      "actor/grad_norm": step,
    },
  }));
const outcomeOf = (envSteps: number, rates: readonly number[]) =>
  readOutcome(
    metricsOf(envSteps),
    rates.map((rate, step) => evaluation(step, rate)),
    60,
  );

test("runs are compared at equal environment steps, whatever they do in a step", () => {
  const outcome = outcomeOf(100, [0.1, 0.2, 0.3, 0.4]);
  const { step, envSteps, prefixTurns, rate, minimum } = pointAt(outcome, 250);
  expect([step, envSteps, prefixTurns]).toEqual([2.5, 250, 5]);
  expect(rate).toBeCloseTo(0.35, 12);
  expect(minimum).toBeCloseTo(0.175, 12);
  expect(pointAt(outcome, 1000).rate).toBe(0.4);
  expect(pointAt(outcome, undefined).step).toBe(3);
  expect(outcome.gradNorm).toEqual({ median: 2, max: 3 });
});

const resultOf = (configHash: string, seed: number, rate: number): Result => ({
  ...{ configHash, seed, arm: "one" },
  ...outcomeOf(100, [0, rate]),
});

test("results survive a driver that was killed in the middle of a line", () => {
  const path = join(folder, "results.jsonl");
  new Results(path).add(resultOf("first", 1, 0.5));
  appendFileSync(path, '{"configHash":"second","se');
  const again = new Results(path);
  expect(again.get("first")?.seed).toBe(1);
  expect(again.get("second")).toBeUndefined();
  again.add(resultOf("second", 2, 0.7));
  expect(new Results(path).get("second")?.curve.at(-1)?.rate).toBe(0.7);
  expect(readFileSync(path, "utf8").trimEnd().split("\n")).toHaveLength(3);
});

test("a table says for each arm how many seeds it has and whether intervals overlap", () => {
  const arms = ["one", "two"].map((name) => ({ name, file: "", overrides: [] }));
  const measures = ["perf/episodes_per_second", "async/staleness/mean"] as const;
  const plan: Plan = { about: "a comparison", seeds: [1, 2, 3], arms, measures };
  const low = [0.1, 0.12, 0.11].map((rate, i) => resultOf(`low${i}`, i, rate));
  const high = [0.9, 0.92, 0.91].map((rate, i) => resultOf(`high${i}`, i, rate));
  const text = table(
    plan,
    [low, high].map((results, i) => summarizeArm(arms[i] as (typeof arms)[0], results, undefined)),
  );
  expect(text).toContain("| one | 3 | 0.0 [0.0, 0.0] | 11.0 [8.5, 13.5] | – |");
  expect(text).toMatch(/\| one .* \| 60 \| 20.0 \| – \|/);
  expect(text).toContain("one and two: the 95 % intervals of sampled success do not overlap");
});

test("every plan's experiments load with every arm's settings, and no two arms are the same run", () => {
  for (const { arms } of Object.values(PLANS)) {
    const hashes = arms.map(({ file, overrides }) => loadExperiment({ files: [file], overrides }).hash);
    expect(new Set(hashes).size).toBe(arms.length);
  }
});

test("curves are drawn with a panel per arm and nothing that is not SVG", () => {
  const result = { configHash: "a", seed: 1, ...outcomeOf(100, [0.1, 0.2, 0.3, 0.9]) };
  const arms = ["grpo", "<i>"].map((arm) => ({ arm, results: [{ ...result, arm }] }));
  const svg = curvesSvg(PLANS.algorithms as Plan, arms);
  expect(svg).toStartWith('<svg xmlns="http://www.w3.org/2000/svg"');
  expect(svg.match(/class="name"/g)).toHaveLength(2);
  expect(svg).toContain("90.0 %");
  expect(svg).not.toContain("<i>");
});

test("gradient norms are drawn over training steps on one scale for all arms", () => {
  const runs = [[1, 2, 4], [8]].map((norms, i) => {
    const gradNorms = norms.map((norm, k) => ({ step: 2 * k + 1, norm }));
    return { configHash: String(i), arm: String(i), seed: 1, ...outcomeOf(100, [0.1]), gradNorms };
  });
  const svg = curvesSvg(
    PLANS.fork as Plan,
    runs.map((run) => ({ arm: run.arm, results: [run] })),
    "grad-norm",
  );
  expect(svg).toContain("norm of the gradient before clipping, over training steps");
  // the axis of the first arm goes up to the second one's norm
  expect(svg.match(/>8\.0</g)?.length).toBeGreaterThanOrEqual(3);
});
