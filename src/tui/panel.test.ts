import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type AleEvent, EventHub } from "../core/events.ts";
import { drawBar, drawChart } from "./chart.ts";
import { formatBytes, formatCount, formatDuration, formatPercent } from "./format.ts";
import { renderPanel } from "./panel.ts";
import { applyEvent, countPhases, createPanelState, type PanelState, remainingMs } from "./panel-state.ts";
import { PlainReporter } from "./plain.ts";
import { coloured, painterFor, plain } from "./style.ts";
import { summaryLines } from "./summary.ts";
import { formatTable } from "./table.ts";
import { jsonLine } from "./view.ts";

const RUN: AleEvent = {
  type: "run.started",
  runId: "shell-1",
  name: "shell",
  outDir: "runs/shell-1",
  seed: 1,
  algorithm: "grpo",
  isolation: "root+userns",
  steps: 10,
};
const METRICS = {
  "critic/rewards/mean": 0.5,
  "timing_s/gen": 1.9,
  "timing_s/update_actor": 0.7,
  "timing_s/step": 2.6,
  "timing_s/episodes/generate": 220.1,
  "perf/throughput": 5230,
  "perf/episodes_per_second": 97.7,
  "actor/lr": 3e-4,
  "actor/entropy": 0.112,
  "rollout_corr/logprob_abs_diff_max": 1.2e-5,
};

let state: PanelState;
let seq = 0;
beforeEach(() => {
  state = createPanelState({ startedAt: 1_000_000, changed: ["trainer.steps=10"], parityLimit: 1e-4 });
  seq = 0;
});

function feed(at: number, ...events: AleEvent[]): void {
  for (const event of events) applyEvent(state, { seq: ++seq, at: 1_000_000 + at, event });
}

function evaluation(step: number, greedy: boolean, rate: number): AleEvent {
  return {
    type: "evaluation.finished",
    step,
    split: "heldout",
    greedy,
    rate,
    n: 420,
    low: rate - 0.05,
    high: rate + 0.04,
    perFamily: {},
  };
}

function episode(id: string, reward = 1): AleEvent {
  return {
    type: "episode.finished",
    episodeId: id,
    step: 1,
    family: "cfg",
    split: "train",
    reward,
    stopReason: "done",
    turns: 2,
    tokens: 50,
    ms: 300,
  };
}

function feedTwoSteps(): void {
  feed(
    0,
    RUN,
    { type: "service.listening", url: "http://127.0.0.1:4242" },
    evaluation(0, false, 0.42),
    evaluation(0, true, 0.5),
  );
  feed(1000, { type: "step.started", step: 1, episodes: 4 });
  feed(5000, { type: "step.finished", step: 1, metrics: METRICS });
  feed(5000, { type: "step.started", step: 2, episodes: 4 });
  feed(9000, { type: "step.finished", step: 2, metrics: { ...METRICS, "critic/rewards/mean": 0.75 } });
}

const text = (width = 110, height = 40) => renderPanel(state, width, height).join("\n");

describe("panel", () => {
  test("says what is running, how far it is and how long it will take", () => {
    feedTwoSteps();
    const [title, bar] = renderPanel(state, 110, 40);
    expect(title).toStartWith(" shell  grpo · seed 1 · root+userns");
    expect(title).toEndWith("step 2/10 · 9.0 s · 32.0 s left");
    expect(bar).toBe(` ${"█".repeat(21)}▋${"─".repeat(86)}`);
    expect(remainingMs(state)).toBe(32_000);
  });

  test("shows the curve, the last evaluations with interval, speed, parity, paths and settings", () => {
    feedTwoSteps();
    const panel = text();
    for (const part of [
      "100 % ┤",
      "step 10",
      "held-out sampled 42.0 %",
      "[37.0, 46.0] n 420 at step 0",
      "held-out greedy  50.0 %",
      "training reward 0.750",
      "5.23 k tokens/s · 97.7 episodes/s · step 2.60 s (collect 1.90, train 0.70)",
      "lr 3.0e-4 · entropy 0.112",
      "max |Δlogp| 1.2e-5, limit 1.0e-4 · no engine restarts",
      "http://127.0.0.1:4242",
      "runs/shell-1",
      "trainer.steps=10",
      "Σ   220.10 s",
      "Ctrl-C saves and stops",
    ]) {
      expect(panel).toContain(part);
    }
  });

  test("counts episodes per phase and says when they are trained on", () => {
    feed(0, RUN, { type: "step.started", step: 1, episodes: 3 });
    const phase = (id: string, name: "reset" | "generate" | "tool" | "grade" | "finished"): AleEvent => ({
      type: "episode.phase",
      episodeId: id,
      phase: name,
    });
    feed(
      10,
      phase("a", "reset"),
      phase("b", "reset"),
      phase("c", "reset"),
      phase("b", "generate"),
      phase("c", "grade"),
    );
    expect(countPhases(state)).toEqual({ reset: 1, generate: 1, tool: 0, grade: 1 });
    feed(20, phase("a", "finished"), episode("a"));
    expect(text()).toContain("step 1: 1 of 3 done");
    expect(state.training).toBe(false);
    feed(30, episode("b"), episode("c"));
    expect(countPhases(state)).toEqual({ reset: 0, generate: 0, tool: 0, grade: 0 });
    expect(state.training).toBe(true);
    expect(text()).toMatch(/train +█+ 3/);
    expect(text()).toContain("150 tokens/s · 3 episodes/s");
  });

  test("an engine restart and a parity gap over the limit stand out", () => {
    feedTwoSteps();
    feed(9500, { type: "engine.restarted", device: "cpu:0", reason: "killed", restarts: 2 });
    expect(text()).toContain("engine restarted 2×: killed");
    state.metrics = { ...METRICS, "rollout_corr/logprob_abs_diff_max": 0.3 };
    expect(renderPanel(state, 110, 40, coloured).join("\n")).toContain(
      "\x1b[31mmax |Δlogp| 3.0e-1, limit 1.0e-4\x1b[39m",
    );
  });

  test("shows stages of long work with their numbers and the time left", () => {
    feed(0, RUN);
    feed(0, { type: "progress", stage: "demonstrations", done: 0, total: 100, unit: "episodes" });
    feed(10_000, {
      type: "progress",
      stage: "demonstrations",
      done: 25,
      total: 100,
      unit: "episodes",
      metrics: { loss: 1.234 },
    });
    expect(text()).toMatch(/demonstrations +█+▌─+ 25\/100 episodes · 30\.0 s left/);
    expect(text()).toContain("loss 1.23");
  });

  test("fits every terminal, and hostile text cannot act on it", () => {
    const hostile = "x\x1b[2J\x1b]0;t\x07\n\r日本語".repeat(30);
    feed(0, { ...RUN, name: hostile, outDir: hostile, isolation: hostile, algorithm: hostile });
    feedTwoSteps();
    feed(9000, { ...RUN, name: hostile, outDir: hostile, isolation: hostile, algorithm: hostile });
    feed(9100, { type: "engine.restarted", device: "d", reason: hostile, restarts: 1 });
    feed(9100, { type: "progress", stage: hostile, done: 1, total: 3, unit: hostile, metrics: { [hostile]: 1 } });
    fc.assert(
      fc.property(fc.integer({ min: 20, max: 200 }), fc.integer({ min: 5, max: 60 }), (width, height) => {
        const lines = renderPanel(state, width, height);
        expect(lines.length).toBeLessThan(height);
        for (const line of lines) {
          expect(Bun.stringWidth(line)).toBeLessThanOrEqual(width);
          // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
          expect(line).not.toMatch(/[\x00-\x1f\x7f-\x9f]/);
        }
      }),
      { numRuns: 60 },
    );
  });

  test("before the first event there is something to look at", () => {
    expect(renderPanel(state, 80, 24)[0]).toBe(" starting 0 ms");
    expect(text()).toContain("preparing sandboxes and engine");
    feed(0, RUN, { type: "step.started", step: 1, episodes: 4 });
    expect(text()).not.toContain("preparing");
  });
});

describe("plain lines", () => {
  test("one line per step and evaluation, without colour", () => {
    const reporter = new PlainReporter();
    const hub = new EventHub();
    const lines: string[] = [];
    hub.subscribe((emitted) => {
      applyEvent(state, emitted);
      const line = reporter.line(state, emitted);
      if (line !== undefined) lines.push(line);
    });
    hub.emit(RUN);
    hub.emit(evaluation(0, true, 0.5));
    hub.emit({ type: "step.started", step: 1, episodes: 4 });
    hub.emit(episode("a"));
    hub.emit({ type: "step.finished", step: 10, metrics: METRICS });
    hub.emit({ type: "log", level: "debug", message: "not shown" });
    hub.emit({ type: "log", level: "warn", message: "task\x1b[31m wrote\nthis" });
    hub.emit({ type: "progress", stage: "sft", done: 1, total: 9, unit: "steps", metrics: { loss: 0.123456 } });
    hub.emit({ type: "progress", stage: "sft", done: 2, total: 9, unit: "steps" });
    hub.emit({ type: "progress", stage: "sft", done: 9, total: 9, unit: "steps" });
    hub.emit({ type: "run.finished", runId: "shell-1", status: "failed", reason: "disk full" });
    expect(lines).toEqual([
      "run shell-1: grpo, seed 1, 10 steps, isolation root+userns\nresults runs/shell-1\nsettings trainer.steps=10",
      "evaluation at step 0  held-out greedy  50.0 % [45.0, 54.0]  n 420",
      "step 10/10  reward 0.500  2.60 s  5.23 k tokens/s  97.7 episodes/s  entropy 0.112  max |Δlogp| 1.2e-5",
      "warning: task wrote⏎this",
      "sft: 1/9 steps  loss 0.1235",
      "sft: 9/9 steps",
      "failed: disk full",
    ]);
  });

  test("the summary compares first and last evaluation", () => {
    feed(0, evaluation(0, false, 0.42), evaluation(0, true, 0.5));
    feed(65_000, evaluation(10, false, 0.88), evaluation(10, true, 0.9));
    expect(summaryLines(state)).toEqual([
      "held-out sampled     42.0 % → 88.0 % [83.0, 92.0] n 420",
      "held-out greedy      50.0 % → 90.0 % [85.0, 94.0] n 420",
      "time                 1 min 05 s",
    ]);
  });

  test("JSON lines are versioned and leave out phases", () => {
    expect(jsonLine({ seq: 7, at: 5, event: { type: "service.listening", url: "u" } })).toBe(
      '{"v":1,"seq":7,"at":5,"type":"service.listening","url":"u"}',
    );
    expect(
      jsonLine({ seq: 8, at: 5, event: { type: "episode.phase", episodeId: "e", phase: "tool" } }),
    ).toBeUndefined();
  });
});

describe("parts", () => {
  test("a chart puts points where they belong", () => {
    const lines = drawChart(
      [
        {
          points: [
            { x: 0, y: 0 },
            { x: 10, y: 1 },
          ],
          style: "green",
          line: "none",
        },
      ],
      {
        width: 16,
        height: 4,
        xMax: 10,
      },
    );
    expect(lines).toEqual(["100 % ┤        ⠈", " 50 % ┤         ", "  0 % ┤⡀        ", "       0 step 10"]);
  });

  test("bars are drawn in eighths and never overflow", () => {
    expect(drawBar(0.5, 3)).toBe("█▌");
    expect(drawBar(7, 3)).toBe("███");
    expect(drawBar(Number.NaN, 3)).toBe("");
  });

  test("tables align and clean their cells", () => {
    const rows = [
      { name: "a\x1b[31m", n: 1 },
      { name: "日本", n: 100 },
    ];
    expect(
      formatTable(rows, [
        { title: "name", value: (row) => row.name },
        { title: "n", align: "right", value: (row) => String(row.n) },
      ]),
    ).toBe("name    n\na       1\n日本  100");
  });

  test.each([
    [formatDuration(850), "850 ms"],
    [formatDuration(59_990), "1 min 00 s"],
    [formatDuration(7_500_000), "2 h 05 min"],
    [formatPercent(0.8623), "86.2 %"],
    [formatPercent(Number.NaN), "–"],
    [formatCount(5123), "5.12 k"],
    [formatCount(1_300_000), "1.30 M"],
    [formatBytes(3_300_000), "3.30 MB"],
    [formatBytes(12), "12 B"],
  ])("%s", (actual, expected) => {
    expect(actual).toBe(expected);
  });

  test("colours only on a terminal that wants them", () => {
    expect(painterFor({ isTTY: true }, {})).toBe(coloured);
    expect(painterFor({ isTTY: true }, { NO_COLOR: "1" })).toBe(plain);
    expect(painterFor({ isTTY: true }, { TERM: "dumb" })).toBe(plain);
    expect(painterFor({}, {})).toBe(plain);
    expect(painterFor({}, { FORCE_COLOR: "1" })).toBe(coloured);
  });
});
