import { expect, test } from "bun:test";
import { sampleTrajectory } from "../../test/sample-run.ts";
import { eachSpan, SpanRecorder } from "../core/timeline.ts";
import { listWaits } from "../core/waits.ts";
import { RunTimeline } from "./run-timeline.ts";

const episode = (id: string, begin: number) => ({
  ...sampleTrajectory({
    ...{ id, group: "run/train/1/0", member: 0, family: "f", split: "train", seed: 1, solved: true, version: 0 },
  }),
  spans: [
    { phase: "reset" as const, begin, end: begin + 2 },
    { phase: "grade" as const, begin: begin + 2, end: begin + 5 },
  ],
});

function engineSpans() {
  const recorder = new SpanRecorder(["decode"]);
  recorder.add("decode", 5, 6, 8);
  return recorder.take();
}

test("a step's tracks are the run's phases, its episodes and what engines told; each is handed over once", async () => {
  const timeline = new RunTimeline(true);
  await timeline.time("collect", 3, async () => {
    expect(listWaits()).toContainEqual(expect.objectContaining({ who: "run", forWhat: "collect, step 3" }));
  });
  const failing = timeline.time("update", 3, () => Promise.reject(new Error("no")));
  await expect(failing).rejects.toThrow("no");
  timeline.addEpisodes([episode("run/train/3/0/0", 10), episode("run/train/3/0/1", 11)]);
  const [control, episodes, engine, ...more] = timeline.take([undefined, engineSpans()]);
  expect(more).toEqual([]);
  expect(control?.name).toBe("control");
  expect([...eachSpan(control?.spans ?? engineSpans())].map(({ name, amount }) => [name, amount])).toEqual([
    ["collect", 3],
    ["update", 3],
  ]);
  expect(episodes?.rows).toEqual(["run/train/3/0/0", "run/train/3/0/1"]);
  expect([...eachSpan(episodes?.spans ?? engineSpans())].at(-1)).toEqual({
    name: "grade",
    begin: 13,
    end: 16,
    amount: 1,
  });
  expect(engine?.name).toBe("engine/1");
  expect(timeline.take([]).every(({ spans }) => spans.kinds.length === 0)).toBe(true);
  expect(listWaits().some(({ who }) => who === "run")).toBe(false);
});

test("where nothing is to be recorded, nothing is", async () => {
  const timeline = new RunTimeline(false);
  expect(await timeline.time("collect", 1, async () => 7)).toBe(7);
  timeline.addEpisodes([episode("run/train/1/0/0", 10)]);
  expect(timeline.take([engineSpans()])).toEqual([]);
});
