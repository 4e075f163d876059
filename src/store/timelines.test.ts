import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eachSpan, SpanRecorder, type Track } from "../core/timeline.ts";
import { openStore } from "./store.ts";
import { packTrack, unpackTrack } from "./timelines.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-timelines-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const START = 1_795_000_000_000.123;

function sample(name: string, count: number, rows?: string[]): Track {
  const recorder = new SpanRecorder(["decode", "prefill"]);
  for (let i = 0; i < count; i++) {
    recorder.add(i % 4 === 0 ? "prefill" : "decode", START + i * 1.337, START + i * 1.337 + 0.8, i * 3);
  }
  return { name, spans: recorder.take(), ...(rows === undefined ? {} : { rows }) };
}

test("a track comes back as it was, to the microsecond, in few bytes", () => {
  const track = sample("engine/0", 5000, ["a/0", "ä/1"]);
  const packed = packTrack(track);
  expect(packed.data.length).toBeLessThan(5000 * 8);
  const back = unpackTrack(packed);
  expect(back.rows).toEqual(["a/0", "ä/1"]);
  const before = [...eachSpan(track.spans)];
  for (const [i, span] of [...eachSpan(back.spans)].entries()) {
    const original = before[i] as (typeof before)[number];
    expect(span).toMatchObject({ name: original.name, amount: original.amount });
    expect(Math.abs(span.begin - original.begin)).toBeLessThan(0.0011);
    expect(Math.abs(span.end - original.end)).toBeLessThan(0.0011);
  }
});

test("what ended together still does, and what lay inside still does", () => {
  const recorder = new SpanRecorder(["inner", "outer"]);
  for (let i = 0; i < 200; i++) {
    const begin = START + i * 3.1271;
    recorder.add("inner", begin + 0.00049, begin + 1.00051);
    recorder.add("outer", begin, begin + 1.00051);
  }
  const spans = [...eachSpan(unpackTrack(packTrack({ name: "x", spans: recorder.take() })).spans)];
  const micros = (time: number) => Math.round(time * 1000);
  for (let i = 0; i < spans.length; i += 2) {
    const [inner, outer] = [spans[i], spans[i + 1]] as [(typeof spans)[number], (typeof spans)[number]];
    expect(micros(inner.begin)).toBeGreaterThanOrEqual(micros(outer.begin));
    expect(micros(inner.end)).toBe(micros(outer.end));
  }
});

test("a block that is not one is refused", () => {
  const packed = packTrack(sample("control", 3));
  expect(() => unpackTrack({ ...packed, format: 9 })).toThrow("timeline of unknown format 9");
  expect(() => unpackTrack({ ...packed, count: 4 })).toThrow("the timeline of a step is damaged");
  expect(() => unpackTrack({ ...packed, data: Buffer.from("nothing") })).toThrow("the timeline of a step is damaged");
});

test("timelines become permanent with their step, go with it, and only the newest stay", async () => {
  await using store = await openStore(join(folder, "ale.db"));
  const run = await store.createRun({
    ...{ name: "timeline", algorithm: "grpo", seed: 1, configToml: "", configHash: "t", outDir: folder },
    ...{ isolation: "none", steps: 9, aleVersion: "0" },
  });
  const commit = (step: number, tracks: readonly Track[]) =>
    store.commitStep(run, step, { metrics: {}, weightVersion: step, wallSeconds: 1, timeline: { tracks, keep: 3 } });
  for (let step = 0; step <= 5; step++) await commit(step, step === 4 ? [] : [sample("control", step + 1)]);
  expect(await store.readTimelineSteps(run)).toEqual([2, 3, 5]);
  const [track] = await store.readTimeline(run, 5);
  expect(track?.name).toBe("control");
  expect(track?.spans.kinds).toHaveLength(6);
  expect(await store.readTimeline(run, 4)).toEqual([]);
  await store.truncateAfter(run, 3);
  expect(await store.readTimelineSteps(run)).toEqual([2, 3]);
  await commit(4, [sample("control", 1), sample("engine/0", 2)]);
  expect((await store.readTimeline(run, 4)).map(({ name }) => name)).toEqual(["control", "engine/0"]);
});
