import { expect, test } from "bun:test";
import { SpanRecorder, type Track } from "../../core/timeline.ts";
import { gantt, shares } from "./gantt.ts";

const START = 1_795_000_000_000;
const span = (name: string, begin: number, end: number) => ({ name, begin, end, amount: 0 });

function track(name: string, spans: readonly (readonly [string, number, number, number])[], rows?: string[]): Track {
  const recorder = new SpanRecorder([...new Set(spans.map(([kind]) => kind))]);
  for (const [kind, begin, end, amount] of spans) recorder.add(kind, START + begin, START + end, amount);
  return { name, spans: recorder.take(), ...(rows === undefined ? {} : { rows }) };
}

test("columns add up to the time each kind took; what contains others counts for the rest", () => {
  const spans = [span("decode", 0, 5), span("update", 10, 20), span("backward", 12, 18), span("exchange", 18, 19)];
  const columns = shares(spans, 0, 20, 4);
  const totals = columns.reduce(
    (sum, column) => sum.map((value, kind) => value + (column[kind] ?? 0) * 5),
    [...new Array(7).fill(0)],
  );
  // decode, prefill, forward, backward, optimizer, exchange, other
  for (const [kind, expected] of [5, 0, 0, 6, 0, 1, 3].entries()) expect(totals[kind]).toBeCloseTo(expected, 9);
  expect(columns[1]?.every((share) => share === 0)).toBe(true);
});

const episodes = (groups: number, size: number) => {
  const rows = Array.from({ length: groups * size }, (_, i) => `run-<1>/train/4/${Math.floor(i / size)}/${i % size}`);
  const phases = rows.flatMap((_, i) => [["reset", 1, 3, i] as const, ["generate", 3, 20 + i, i] as const]);
  return track("episodes", phases, rows);
};

const step = (groups: number, size: number) => ({
  step: 4,
  tracks: [
    track("control", [
      ["commit", -5, -1, 3],
      ["collect", 0, 400, 4],
      ["update", 400, 600, 4],
      ["evaluate", 600, 900, 4],
    ]),
    track("engine/0", [
      ["decode", 10, 310, 8],
      ["backward", 410, 500, 8],
      ["update", 400, 600, 0],
    ]),
    episodes(groups, size),
  ],
});

test("a step is drawn from collect to the end of its update, every small group of episodes with it", () => {
  const markup = gantt([step(3, 4)])?.toString() ?? "";
  expect(markup.match(/<g>/g)).toHaveLength(12);
  for (const text of ["engine 0", "17 % idle", "collect 400 ms", "update 200 ms", "group 4/2", "All 12 episodes"]) {
    expect(markup).toContain(text);
  }
  for (const absent of ["evaluate", "commit", "prefill", "grade</text>"]) expect(markup).not.toContain(absent);
  expect(markup).not.toContain("run-<1>");
});

test("of a large step whole groups are drawn, the longest among them", () => {
  const markup = gantt([step(32, 8)])?.toString() ?? "";
  expect(markup.match(/<g>/g)).toHaveLength(48);
  expect(markup).toContain("48 of 256 episodes: 6 of 32 groups");
  expect(markup).toContain("group 4/31");
});

test("a step that collected nothing has no picture", () => {
  expect(gantt([{ step: 3, tracks: [track("control", [["update", 0, 1, 3]])] }])).toBeUndefined();
  expect(gantt([{ step: 3, tracks: [] }])).toBeUndefined();
});
