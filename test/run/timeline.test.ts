/** The timeline of a real run: what lies in what, what does not overlap, and what a kill leaves of it. */

import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { busyMs, eachSpan, type Span } from "../../src/core/timeline.ts";
import { selfCommand } from "../../src/device/self.ts";
import type { TraceEvent } from "../../src/export/trace.ts";
import { openStore } from "../../src/store/store.ts";

const place = mkdtempSync(join(tmpdir(), "ale-timeline-"));
const out = join(place, "run");
const store = join(place, "ale.db");
const MAIN = selfCommand("engine").slice(0, -1);
const STEPS = 4;
const ALL = Array.from({ length: STEPS + 1 }, (_, step) => step);
const SETTINGS = [
  ...["--rollout.groups", "2", "--rollout.groupSize", "4", "--trainer.steps", `${STEPS}`, "--evaluation.every", "0"],
  ...["--evaluation.dev", "0", "--evaluation.heldout", "3", "--evaluation.greedy", "false", "--service.port", "0"],
];

afterAll(() => rmSync(place, { recursive: true, force: true }));

function ale(...args: string[]) {
  return Bun.spawn([...MAIN, ...args, "--store", store], {
    cwd: join(import.meta.dir, "../.."),
    env: { ...process.env, ALE_HOME: join(place, "home"), NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function finish(child: ReturnType<typeof ale>): Promise<string> {
  const [text, error, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect({ code, error: code === 0 ? "" : error }).toEqual({ code: 0, error: "" });
  return text;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const end = Date.now() + 60_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited for ${what}`);
    await Bun.sleep(10);
  }
}

const micros = (time: number) => Math.round(time * 1000);
const lies = (inner: Span, outer: Span) =>
  micros(inner.begin) >= micros(outer.begin) && micros(inner.end) <= micros(outer.end);

test("a run that was killed and resumed has one timeline per committed step, and says what it waits for", async () => {
  const killed = ale("run", "experiments/shell.toml", "--out", out, ...SETTINGS);
  const lines = () => readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n").length;
  await until("step 0", () => existsSync(join(out, "metrics.jsonl")));
  const doctor = JSON.parse(await finish(ale("doctor", "--run", out, "--json"))) as {
    waiting: { who: string; forWhat: string; since: number; deadline: number | null }[];
  };
  await until("step 1", () => lines() >= 2);
  killed.kill("SIGKILL");
  await killed.exited;
  expect(doctor.waiting.map(({ who }) => who)).toContain("run");
  for (const { since, deadline } of doctor.waiting) {
    expect(since).toBeLessThanOrEqual(Date.now());
    expect(deadline ?? Number.POSITIVE_INFINITY).toBeGreaterThan(since);
  }
  await finish(ale("resume", out));
  await using reader = await openStore(store, { mode: "read" });
  const run = await reader.findRunByFolder(out);
  expect(run).toMatchObject({ status: "finished", committedStep: STEPS });
  expect(await reader.readTimelineSteps(run?.id ?? "")).toEqual(ALL);
}, 120_000);

test("phases of episodes lie inside the step's; what an engine does is disjoint or nested", async () => {
  await using reader = await openStore(store, { mode: "read" });
  const { id } = (await reader.findRunByFolder(out)) as { id: string };
  for (const step of ALL) {
    const tracks = await reader.readTimeline(id, step);
    expect(tracks.map(({ name }) => name)).toEqual(["control", "engine/0", "episodes"]);
    const [control, engine, episodes] = tracks.map(({ spans }) => [...eachSpan(spans)]) as [Span[], Span[], Span[]];
    const whole = control.filter(({ name, amount }) => (name === "collect" || name === "evaluate") && amount === step);
    expect(whole).toHaveLength(step === STEPS ? 2 : 1);
    const count = (step > 0 ? 8 : 0) + (step === 0 || step === STEPS ? 3 : 0);
    expect(tracks[2]?.rows).toHaveLength(count);
    expect(new Set(tracks[2]?.rows)).toHaveProperty("size", count);
    for (const phase of episodes) expect(whole.some((outer) => lies(phase, outer))).toBe(true);
    expectNested(engine);
    const metrics = (await reader.readMetrics(id)).find((row) => row.step === step)?.metrics;
    if (step === 0) continue;
    const lasted = (wanted: string) =>
      engine.filter(({ name }) => name === wanted).reduce((sum, { begin, end }) => sum + end - begin, 0);
    const share = (name: string) => metrics?.[`perf/engine/0/${name}_share`] as number;
    const wall = lasted("update") / share("train");
    expect((lasted("decode") + lasted("prefill")) / wall).toBeCloseTo(share("generate"), 4);
    expect(1 - busyMs(engine) / wall).toBeCloseTo(share("idle"), 4);
  }
});

/** Micro-operations do not overlap; only updates and probes contain others. */
function expectNested(spans: readonly Span[]): void {
  const open: Span[] = [];
  for (const span of [...spans].sort((a, b) => a.begin - b.begin || b.end - a.end)) {
    while (open.length > 0 && micros((open.at(-1) as Span).end) <= micros(span.begin)) open.pop();
    const outer = open.at(-1);
    if (outer !== undefined) {
      expect(["update", "probe"]).toContain(outer.name);
      expect(lies(span, outer)).toBe(true);
    }
    open.push(span);
  }
}

test("the trace is what Perfetto reads, and the report has its picture", async () => {
  const file = join(place, "trace.json");
  expect(await finish(ale("export", out, "--trace", file))).toContain(`holds ${STEPS + 1} steps`);
  const trace = JSON.parse(readFileSync(file, "utf8")) as {
    traceEvents: TraceEvent[];
    otherData: { droppedSpans: number };
  };
  expect(trace.otherData.droppedSpans).toBe(0);
  const named = new Set<string>();
  let before = 0;
  for (const { ph, name, pid, tid, ts = 0, dur = 0, args } of trace.traceEvents) {
    if (ph === "M") {
      if (name.endsWith("_name")) expect(typeof args.name).toBe("string");
      named.add(`${pid}/${tid}`);
      continue;
    }
    expect(ph).toBe("X");
    expect(named.has(`${pid}/${tid}`)).toBe(true);
    expect(Number.isInteger(ts) && Number.isInteger(dur) && dur >= 0).toBe(true);
    expect(ts).toBeGreaterThanOrEqual(before);
    before = ts;
  }
  const names = new Set(trace.traceEvents.map(({ name }) => name));
  for (const name of ["collect", "decode", "backward", "optimizer", "publish", "reset", "generate", "tool", "grade"]) {
    expect(names).toContain(name);
  }
  expect(readFileSync(join(out, "report.html"), "utf8")).toContain('<svg class="chart gantt"');
}, 30_000);
