import { expect, test } from "bun:test";
import { busyMs, eachSpan, SpanRecorder } from "./timeline.ts";

const NAMES = ["decode", "prefill"] as const;

test("spans come back in order, once", () => {
  const recorder = new SpanRecorder(NAMES);
  for (let i = 0; i < 3000; i++) recorder.add(i % 3 === 0 ? "prefill" : "decode", 1000 + i, 1000 + i + 0.5, i);
  const spans = recorder.take();
  const all = [...eachSpan(spans)];
  expect(spans.dropped).toBe(0);
  expect(all).toHaveLength(3000);
  expect(all[1500]).toEqual({ name: "prefill", begin: 2500, end: 2500.5, amount: 1500 });
  expect(all.map(({ amount }) => amount)).toEqual(Array.from({ length: 3000 }, (_, i) => i));
  expect(recorder.take().kinds).toHaveLength(0);
});

test("a full recorder gives up its oldest spans and says how many", () => {
  const recorder = new SpanRecorder(NAMES, 2048);
  for (let i = 0; i < 5000; i++) recorder.add("decode", i, i + 1, i);
  const spans = recorder.take();
  expect(spans.dropped).toBe(5000 - 2048);
  expect(Array.from(spans.amounts)).toEqual(Array.from({ length: 2048 }, (_, i) => 5000 - 2048 + i));
  recorder.add("prefill", 1, 2, 3);
  expect([...eachSpan(recorder.take())]).toEqual([{ name: "prefill", begin: 1, end: 2, amount: 3 }]);
});

test("nested and overlapping spans count once", () => {
  const span = (begin: number, end: number) => ({ name: "x", begin, end, amount: 0 });
  expect(busyMs([span(0, 10), span(2, 4), span(8, 12), span(20, 21)])).toBe(13);
  expect(busyMs([])).toBe(0);
});
