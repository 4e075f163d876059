import { expect, test } from "bun:test";
import type { AleEvent } from "../core/events.ts";
import type { RunRecord } from "../store/records.ts";
import { applyEvent, createState, latest, type RunState, secondsLeft } from "./state.ts";
import { visible } from "./visible.ts";

const run: RunRecord = {
  ...{ id: "shell-1", name: "shell", status: "running", reason: null, algorithm: "grpo", seed: 3 },
  ...{ configHash: "abc", outDir: "/x", isolation: "userns", aleVersion: "0.1.0", steps: 20, committedStep: 4 },
  ...{ episodes: 100, wallSeconds: 10, createdAt: 0, updatedAt: 0, finishedAt: null },
};

const start = () => createState(run, "", [{ step: 4, metrics: { "timing_s/step": 2, lost: null } }], []);
const after = (state: RunState, ...events: AleEvent[]) => events.reduce(applyEvent, state);

const evaluation = (step: number, rate: number): AleEvent => ({
  ...{
    type: "evaluation.finished",
    step,
    split: "heldout",
    greedy: false,
    rate,
    n: 10,
    low: 0,
    high: 1,
    perFamily: {},
  },
});

test("an event that comes twice changes nothing", () => {
  const step: AleEvent = { type: "step.finished", step: 5, metrics: { "timing_s/step": 4 } };
  const once = after(start(), evaluation(5, 0.5), step);
  const twice = after(once, evaluation(5, 0.5), step);
  expect(twice.metrics).toEqual(once.metrics);
  expect(twice.evaluations).toEqual(once.evaluations);
  expect(once.run.committedStep).toBe(5);
  expect(once.metrics.map((row) => row.step)).toEqual([4, 5]);
});

test("a resumed run draws its curve anew from the step it went back to", () => {
  const far = after(
    start(),
    ...[5, 6, 7].flatMap((step): AleEvent[] => [
      evaluation(step, 0.1 * step),
      { type: "step.finished", step, metrics: {} },
    ]),
  );
  const back = after(far, { type: "step.finished", step: 5, metrics: { again: 1 } });
  expect(back.metrics.map((row) => row.step)).toEqual([4, 5]);
  expect(back.evaluations.map((row) => row.step)).toEqual([5]);
});

test("episodes in flight follow their phases", () => {
  const phase = (episodeId: string, name: "reset" | "tool" | "finished"): AleEvent => ({
    ...{ type: "episode.phase", episodeId, phase: name },
  });
  const state = after(start(), phase("a", "reset"), phase("b", "reset"), phase("a", "tool"));
  expect([...state.inFlight]).toEqual([
    ["a", "tool"],
    ["b", "reset"],
  ]);
  expect(after(state, phase("a", "finished")).inFlight.size).toBe(1);
  expect(after(state, { type: "run.finished", runId: "shell-1", status: "finished" }).inFlight.size).toBe(0);
});

test("the time left is the pace of the last steps", () => {
  expect(secondsLeft(start())).toBe(2 * 16);
  expect(secondsLeft(after(start(), { type: "run.finished", runId: "shell-1", status: "failed" }))).toBeUndefined();
  expect(latest(start().metrics, "lost")).toBeUndefined();
});

test("what cannot be seen is written out, and floods are cut", () => {
  expect(visible("\u001b[2Jx\u202e\ty\n")).toBe("\\u{1b}[2Jx\\u{202e}\ty\n");
  expect(visible("a".repeat(30_000)).length).toBeLessThan(20_100);
});
