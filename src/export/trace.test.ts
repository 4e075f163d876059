import { expect, test } from "bun:test";
import { SpanRecorder, type Track } from "../core/timeline.ts";
import { freeRow, TraceBuilder, type TraceEvent } from "./trace.ts";

const START = 1_795_000_000_000;

function track(name: string, spans: readonly [string, number, number, number?][], rows?: string[]): Track {
  const recorder = new SpanRecorder([...new Set(spans.map(([span]) => span))]);
  for (const [span, begin, end, amount] of spans) recorder.add(span, START + begin, START + end, amount);
  return { name, spans: recorder.take(), ...(rows === undefined ? {} : { rows }) };
}

const STEP = [
  track("control", [
    ["collect", 0, 40, 1],
    ["update", 40, 60, 1],
  ]),
  track("engine/1", [
    ["decode", 12, 14.5, 8],
    ["backward", 42, 50, 300],
    ["update", 41, 59],
  ]),
  track(
    "episodes",
    [
      ["reset", 1, 3, 0],
      ["reset", 2, 5, 1],
      ["generate", 3, 20, 0],
      ["tool", 20, 30, 0],
      ["generate", 5, 9, 1],
      ["reset", 9, 10, 2],
    ],
    ["run/train/1/0/0", "run/train/1/0/1", "run/train/1/1/0"],
  ),
];

const named = (events: readonly TraceEvent[], name: string) => events.filter((event) => event.name === name);

test("every span is one complete event, with its process and row named before it", () => {
  const events = new TraceBuilder().step(STEP);
  const spans = events.filter(({ ph }) => ph === "X");
  expect(spans).toHaveLength(2 + 3 + 6 + 3);
  const known = new Set<string>();
  for (const { ph, name, pid, tid } of events) {
    if (ph === "M" && name === "process_name") known.add(`${pid}`);
    if (ph === "M" && name === "thread_name") known.add(`${pid}/${tid}`);
    if (ph === "X") expect(known.has(`${pid}`) && known.has(`${pid}/${tid}`)).toBe(true);
  }
  expect(named(events, "decode")).toEqual([
    { name: "decode", ph: "X", pid: 11, tid: 1, ts: 12_000, dur: 2500, cat: "engine", args: { tokens: 8 } },
  ]);
  expect(named(events, "process_name").map(({ args }) => args.name)).toEqual(["control", "engine 1", "episodes"]);
});

test("events are in the order of their beginnings, those that contain others first", () => {
  const spans = new TraceBuilder().step(STEP).filter(({ ph }) => ph === "X");
  const times = spans.map(({ ts }) => ts ?? -1);
  expect(times).toEqual([...times].sort((a, b) => a - b));
  expect(times[0]).toBe(0);
  expect(spans.findIndex(({ name }) => name === "train/1/0/0")).toBeLessThan(
    spans.findIndex(({ name }) => name === "reset"),
  );
});

test("an episode has a row to itself while it lasts", () => {
  const events = new TraceBuilder().step(STEP);
  const rows = ["train/1/0/0", "train/1/0/1", "train/1/1/0"].map((id) => named(events, id)[0]?.tid);
  expect(rows).toEqual([1, 2, 2]);
  expect(freeRow([], 0)).toBe(0);
  expect(freeRow([5, 3], 4)).toBe(1);
  expect(freeRow([5, 6], 4)).toBe(2);
});

test("names are told once per run, and time goes on", () => {
  const builder = new TraceBuilder();
  builder.step(STEP);
  const later = builder.step([track("control", [["commit", 100, 101, 1]])]);
  expect(later).toEqual([
    { name: "commit", ph: "X", pid: 1, tid: 1, ts: 100_000, dur: 1000, cat: "control", args: { step: 1 } },
  ]);
});
