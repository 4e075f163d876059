import { expect, test } from "bun:test";
import type { EvaluationRecord, RunRecord } from "../store/records.ts";
import { bestStep, summarizeRun } from "./summary.ts";

const run: RunRecord = {
  ...{ id: "shell-1", name: "shell", status: "running", reason: null, algorithm: "grpo", seed: 3 },
  ...{ configHash: "abc", outDir: "/x", isolation: "userns", aleVersion: "0.1.0", steps: 20, committedStep: 20 },
  ...{ episodes: 5120, wallSeconds: 61.23456, createdAt: 0, updatedAt: 0, finishedAt: null },
};

const row = (step: number, split: "dev" | "heldout", greedy: boolean, rate: number): EvaluationRecord => ({
  ...{ step, split, greedy, rate, n: 100, low: rate - 0.1, high: rate + 0.1, perFamily: {} },
});

const evaluations = [
  row(0, "dev", false, 0.4),
  row(0, "heldout", false, 0.42),
  row(0, "heldout", true, 0.5),
  row(10, "dev", false, 0.9),
  row(10, "heldout", false, 0.85),
  row(10, "heldout", true, 0.88),
  row(20, "dev", false, 0.9),
  row(20, "dev", true, 0.99),
  row(20, "heldout", false, 0.95),
];

test("the best step is chosen on sampled development success, the earlier of equals", () => {
  expect(bestStep(evaluations)).toBe(10);
  expect(bestStep(evaluations.filter((one) => one.split === "heldout"))).toBeNull();
});

test("the summary has the documented shape", () => {
  expect(summarizeRun(run, evaluations, { status: "finished" })).toEqual({
    runId: "shell-1",
    name: "shell",
    status: "finished",
    algorithm: "grpo",
    seed: 3,
    steps: 20,
    episodes: 5120,
    wallSeconds: 61.235,
    isolation: "userns",
    configHash: "abc",
    aleVersion: "0.1.0",
    memory: [],
    bestStep: 10,
    heldOut: {
      initial: { step: 0, rate: 0.42, n: 100, low: 0.42 - 0.1, high: 0.42 + 0.1, greedy: 0.5 },
      final: { step: 20, rate: 0.95, n: 100, low: 0.95 - 0.1, high: 0.95 + 0.1, greedy: null },
      best: { step: 10, rate: 0.85, n: 100, low: 0.85 - 0.1, high: 0.85 + 0.1, greedy: 0.88 },
    },
  });
});

test("a run without evaluations has nulls", () => {
  const { heldOut, bestStep: best, steps } = summarizeRun({ ...run, committedStep: null }, []);
  expect(heldOut).toEqual({ initial: null, final: null, best: null });
  expect([best, steps]).toEqual([null, 0]);
});
