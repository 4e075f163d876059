import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sampleTrajectory, writeSampleRun } from "../../test/sample-run.ts";
import { errorMessage } from "../core/errors.ts";
import { EventHub } from "../core/events.ts";
import type { AuditEntry, Turn } from "../core/types.ts";
import type { NewRun } from "./operations.ts";
import { recordEvents } from "./record-events.ts";
import { openStore, type Store } from "./store.ts";

let folder: string;
let store: Store;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ale store é%20?#"));
  store = await openStore(join(folder, "ale.db"));
});
afterAll(async () => {
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

const newRun = (name: string): NewRun => ({
  name,
  algorithm: "grpo",
  seed: 7,
  configToml: `name = "${name}"`,
  configHash: name,
  outDir: `/runs/${name}`,
  isolation: "userns",
  steps: 10,
  aleVersion: "0.1.0",
});

const sample = (id: string, group: string, member = 0) =>
  sampleTrajectory({
    ...{ id, group, member, family: "count-lines", split: "train", seed: 3, solved: true, version: 2, turns: 3 },
  });

/** The message of what went wrong. (`expect(…).rejects` would block the thread that the writer answers to.) */
const problem = (work: Promise<unknown>) => work.then(() => "nothing went wrong", errorMessage);

const commit = (metrics: Record<string, number> = {}) => ({ metrics, weightVersion: 1, wallSeconds: 1 });

test("a run keeps what it was created with", async () => {
  const id = await store.createRun(newRun("create"));
  expect(id).toMatch(/^create-[0-9a-hjkmnp-tv-z]{8}$/);
  const run = await store.getRun(id);
  expect(run).toMatchObject({
    name: "create",
    status: "running",
    seed: 7,
    steps: 10,
    committedStep: null,
    episodes: 0,
  });
  expect(await store.readConfiguration(run.configHash)).toBe('name = "create"');
  expect(await store.findProcess(id)).toBe(process.pid);
  await store.endRun(id, "failed", "out of luck");
  expect(await store.getRun(id)).toMatchObject({ status: "failed", reason: "out of luck" });
  expect(await store.findProcess(id)).toBeUndefined();
});

test("runs are found by a unique beginning of their id and by their folder", async () => {
  const first = await store.createRun(newRun("prefix-a"));
  await store.createRun(newRun("prefix-b"));
  expect(await store.resolveRun("prefix-a")).toBe(first);
  expect(await store.resolveRun(first)).toBe(first);
  expect(await problem(store.resolveRun("prefix-"))).toMatch(/prefix-a-\w+, prefix-b-\w+/);
  expect(await problem(store.resolveRun("prefix_a"))).toMatch("there is no run prefix_a");
  expect(await problem(store.resolveRun("%"))).toMatch("there is no run %");
  expect((await store.findRunByFolder("/runs/prefix-a"))?.id).toBe(first);
  expect(await store.findRunByFolder("/runs/prefix")).toBeUndefined();
});

test("an episode comes back as it was written", async () => {
  const run = await store.createRun(newRun("episode"));
  const trajectory = {
    ...sample(`${run}/train/1/0/0`, `${run}/train/1/0`),
    turns: [{ ...sample("x", "x").turns[0], index: 0, command: "\0", observation: "\0before\0after" } as Turn],
    error: 'odd "quotes" \u0000 NUL, \u202e, emoji 🦀 and\r\nlines',
  };
  await store.writeTasks([
    { id: trajectory.taskId, suite: "shell", family: "count-lines", split: "train", seed: 3, instruction: "count" },
  ]);
  await store.writeEpisodes(run, 1, "train", [trajectory]);
  const read = await store.readEpisode(trajectory.episodeId);
  const { episodeId, tokens, turns, ...rest } = trajectory;
  expect(read).toMatchObject({ id: episodeId, runId: run, step: 1, purpose: "train", instruction: "count", ...rest });
  expect(read?.tokens).toEqual(tokens);
  expect(read?.turns).toEqual([...turns]);
  expect(await store.readEpisode("nothing")).toBeUndefined();
});

test("the audit log of an episode comes back with its episode, and goes with it", async () => {
  const run = await store.createRun(newRun("audit"));
  const place = { phase: "agent", turn: 0, sandbox: "s1", at: 5, ms: 1.5 } as const;
  const denied = {
    kind: "proxy",
    host: "evil\0host",
    port: 22,
    address: null,
    verdict: "denied",
    reason: "not listed",
  } as const;
  const audit: AuditEntry[] = [
    { ...place, kind: "exec", command: null, exitCode: 0 },
    { ...place, ...denied, bytesOut: 0, bytesIn: 0 },
    {
      ...place,
      ...denied,
      host: "a.example",
      verdict: "allowed",
      reason: "",
      address: "203.0.113.1",
      bytesOut: 2 ** 40,
      bytesIn: 7,
    },
  ];
  await store.writeEpisodes(run, 1, "train", [
    { ...sample(`${run}/1`, `${run}/g`), audit },
    sample(`${run}/2`, `${run}/g`, 1),
  ]);
  const all = await store.readAudit({ runId: run }, { limit: 10 });
  expect(all).toEqual({
    entries: audit.map((entry) => ({ ...entry, episode: `${run}/1`, run, step: 1 })),
    nextCursor: null,
  });
  const page = await store.readAudit({ episode: `${run}/1`, connections: true }, { limit: 1 });
  expect(page.entries).toMatchObject([{ host: "evil\0host" }]);
  const next = await store.readAudit({ connections: true }, { limit: 1, cursor: page.nextCursor ?? "" });
  expect([next.entries[0]?.kind, next.nextCursor]).toEqual(["proxy", null]);
  expect((await store.readAudit({ runId: run, verdict: "denied" }, { limit: 10 })).entries).toHaveLength(1);
  await store.truncateAfter(run, 0);
  expect((await store.readAudit({ runId: run }, { limit: 10 })).entries).toEqual([]);
});

test("an episode is stored once", async () => {
  const run = await store.createRun(newRun("double"));
  const one = sample(`${run}/1`, `${run}/g`);
  await store.writeEpisodes(run, 1, "train", [one]);
  expect(await problem(store.writeEpisodes(run, 1, "train", [sample(`${run}/2`, `${run}/g`, 1), one]))).toMatch(
    `episode ${run}/1 is stored already`,
  );
  const twice = sample(`${run}/3`, `${run}/g`, 2);
  expect(await problem(store.writeEpisodes(run, 1, "train", [twice, twice]))).toMatch("stored already");
  expect((await store.readEpisodes({ runId: run })).episodes.map((episode) => episode.id)).toEqual([`${run}/1`]);
  expect((await store.getRun(run)).episodes).toBe(0);
  await store.commitStep(run, 1, commit());
  expect((await store.getRun(run)).episodes).toBe(1);
});

test("one faulty operation among many is refused alone", async () => {
  const run = await store.createRun(newRun("batch"));
  const results = await Promise.allSettled(
    Array.from({ length: 9 }, (_, i) =>
      i === 4
        ? store.writeEpisodes("no-such-run", 1, "train", [sample(`${run}/${i}`, "g")])
        : store.writeEpisodes(run, 1, "train", [sample(`${run}/${i}`, `${run}/${i}`)]),
    ),
  );
  expect(results.flatMap((result, i) => (result.status === "rejected" ? [i] : []))).toEqual([4]);
  await store.commitStep(run, 1, commit());
  expect((await store.getRun(run)).episodes).toBe(8);
});

test("a step is committed once, whole, and in order", async () => {
  const run = await store.createRun(newRun("commit"));
  await store.commitStep(run, 0, commit());
  const evaluation = {
    step: 1,
    split: "heldout",
    greedy: false,
    n: 10,
    perFamily: { a: { rate: 0.5, n: 10 } },
  } as const;
  await store.commitStep(run, 1, {
    metrics: { "critic/rewards/mean": 0.25, "actor/entropy": Number.NaN },
    weightVersion: 1,
    wallSeconds: 12.5,
    state: { sampler: 32 },
    evaluations: [{ ...evaluation, rate: 0.5, low: 0.2, high: 0.8 }],
    checkpoint: { path: "checkpoints/step-000001" },
  });
  expect(await problem(store.commitStep(run, 1, commit()))).toMatch("step 1 already is");
  expect(await problem(store.commitStep(run, 0, commit()))).toMatch("step 1 already is");
  expect(await problem(store.commitStep(run, -1, commit()))).toMatch("-1 is not a step");
  const bad = { ...evaluation, step: 2, rate: 0.5, low: 0.9, high: 0.1 };
  expect(await problem(store.commitStep(run, 2, { ...commit({ x: 1 }), evaluations: [bad] }))).toMatch("CHECK");
  expect(await store.lastCommitted(run)).toMatchObject({
    step: 1,
    wallSeconds: 12.5,
    state: { sampler: 32 },
    checkpoint: { step: 1, weightVersion: 1 },
  });
  expect(await store.readMetrics(run)).toEqual([
    { step: 1, metrics: { "actor/entropy": null, "critic/rewards/mean": 0.25 } },
  ]);
  expect((await store.readEvaluations(run))[0]).toMatchObject({ rate: 0.5, greedy: false });
  expect(await store.getRun(run)).toMatchObject({ committedStep: 1, wallSeconds: 12.5 });
  const events = await store.readEvents({ runId: run });
  expect(events.map((event) => event.type)).toEqual([
    "run.started",
    "step.finished",
    "evaluation.finished",
    "step.finished",
  ]);
  expect(events[0]?.body).toMatchObject({ runId: run, name: "commit", steps: 10 });
  await store.claimRun(run, 12);
  await store.endRun(run, "finished");
  expect((await store.readEvents({ runId: run, sinceId: events.at(-1)?.id ?? 0 })).map((event) => event.body)).toEqual([
    expect.objectContaining({ resumedFrom: 1, steps: 12 }),
    { runId: run, status: "finished" },
  ]);
});

test("metrics of many steps are read page by page, in whole steps", async () => {
  const run = await store.createRun(newRun("pages"));
  const metricsOf = (step: number) =>
    Object.fromEntries(Array.from({ length: 90 }, (_, i) => [`m${i}`, step + i / 100]));
  const steps = Array.from({ length: 30 }, (_, i) => i + 1);
  for (const step of steps) await store.commitStep(run, step, commit(metricsOf(step)));
  const pages = await Array.fromAsync(store.metrics(run));
  expect(pages.length).toBeGreaterThan(2);
  expect(pages.flat()).toEqual(steps.map((step) => ({ step, metrics: metricsOf(step) })));
  expect(await store.readMetrics(run, { sinceStep: 28, names: ["m1"] })).toEqual([
    { step: 29, metrics: { m1: 29.01 } },
    { step: 30, metrics: { m1: 30.01 } },
  ]);
});

test("pruned checkpoints are not offered", async () => {
  const run = await store.createRun(newRun("prune"));
  for (let step = 1; step <= 4; step++) {
    const pruned = step > 2 ? { prunedCheckpoints: [step - 2] } : {};
    await store.commitStep(run, step, { ...commit(), checkpoint: { path: `c/${step}` }, ...pruned });
  }
  expect((await store.readCheckpoints(run)).map((checkpoint) => checkpoint.step)).toEqual([3, 4]);
});

test("alerts are kept with their episodes, go with them, and are listed the newest first", async () => {
  const run = await writeSampleRun(store, { name: "alerts", steps: 4, groups: 3, groupSize: 2, evaluations: 1 });
  const { alerts } = await store.readAlerts({ runId: run });
  const { episodes } = await store.readEpisodes({ runId: run }, { limit: 500 });
  const marked = episodes.filter((episode) => episode.alerts > 0);
  expect(alerts.map(({ episodeId, step, kind }) => [episodeId, step, kind])).toEqual([
    [`${run}/train/4/1/0`, 4, "protected_write"],
    [`${run}/train/1/1/0`, 1, "tunnel"],
    [`${run}/train/1/1/0`, 1, "protected_write"],
  ]);
  expect(marked.map(({ id, alerts: count }) => [id, count])).toEqual([
    [`${run}/train/1/1/0`, 2],
    [`${run}/train/4/1/0`, 1],
  ]);
  const detail = await store.readEpisode(marked[0]?.id ?? "");
  expect(detail?.alerts).toMatchObject([{ kind: "protected_write" }, { kind: "tunnel", turn: 1, action: "stop" }]);
  const page = await store.readAlerts({ runId: run }, { limit: 2 });
  const rest = await store.readAlerts({ runId: run }, { limit: 2, cursor: page.nextCursor ?? "" });
  expect([...page.alerts, ...rest.alerts]).toEqual([...alerts]);
  expect(rest.nextCursor).toBeNull();
  await store.truncateAfter(run, 3);
  expect((await store.readAlerts({ runId: run, kind: "protected_write" })).alerts.map(({ step }) => step)).toEqual([1]);
});

test("alerts of the service's sandboxes stand beside their events, which do not tell what was done", async () => {
  const since = await store.lastEventId();
  const alert = { kind: "scan", at: 5, turn: null, evidence: "nmap scans", action: "stop", sandbox: "sb-1" } as const;
  await store.appendAlerts([alert]);
  const { alerts } = await store.readAlerts({ service: true });
  expect(alerts).toMatchObject([{ ...alert, runId: null, episodeId: null, step: null }]);
  const [event] = await store.readEvents({ sinceId: since });
  expect(event).toMatchObject({ type: "guard.alert", body: { kind: "scan", action: "stop", sandbox: "sb-1" } });
  expect(JSON.stringify(event)).not.toContain("nmap");
});

test("truncation removes later steps and whatever has no commit, and nothing else", async () => {
  const run = await writeSampleRun(store, { name: "truncate", steps: 5, groups: 2, groupSize: 2, evaluations: 2 });
  const other = await writeSampleRun(store, { name: "untouched", steps: 2, groups: 2, groupSize: 2 });
  const stray = sample(`${run}/stray`, `${run}/stray`);
  await store.writeEpisodes(run, 6, "train", [stray]);
  const count = async (id: string) => (await store.readEpisodes({ runId: id }, { limit: 500 })).episodes.length;
  const before = { run: await count(run), other: await count(other) };
  expect((await store.getRun(run)).episodes).toBe(before.run - 1);

  expect(await store.truncateAfter(run, 5)).toEqual({ step: 5, removedSteps: 0, removedEpisodes: 1 });
  const { removedEpisodes } = await store.truncateAfter(run, 3);
  expect(removedEpisodes).toBe(2 * 4 + 12);
  expect(await count(run)).toBe(before.run - 1 - removedEpisodes);
  expect((await store.getRun(run)).episodes).toBe(await count(run));
  expect((await store.readMetrics(run)).map((row) => row.step)).toEqual([1, 2, 3]);
  expect(new Set((await store.readEvaluations(run)).map((row) => row.step))).toEqual(new Set([0, 3]));
  expect((await store.readSteps(run)).map((row) => row.step)).toEqual([0, 1, 2, 3]);
  expect((await store.lastCommitted(run))?.wallSeconds).toBeCloseTo(3 * 4.2);
  expect(await count(other)).toBe(before.other);

  await store.commitStep(run, 4, commit({ again: 1 }));
  expect((await store.lastCommitted(run))?.step).toBe(4);
  expect(await store.truncateAfter(run, -1)).toMatchObject({ step: null, removedSteps: 5 });
  expect(await store.lastCommitted(run)).toBeUndefined();
  expect(await count(run)).toBe(0);
});

test("pages together hold every episode once, in both directions", async () => {
  const run = await writeSampleRun(store, { name: "pages", steps: 3, groups: 3, groupSize: 3 });
  const all = (await store.readEpisodes({ runId: run }, { limit: 500 })).episodes.map((episode) => episode.id);
  for (const newestFirst of [false, true]) {
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await store.readEpisodes({ runId: run }, { limit: 7, newestFirst, ...(cursor ? { cursor } : {}) });
      seen.push(...page.episodes.map((episode) => episode.id));
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
    expect(seen).toEqual(newestFirst ? all.toReversed() : all);
  }
  expect(store.readEpisodes({ runId: run }, { cursor: "1; DROP" })).rejects.toThrow("not a cursor");
});

test("filters select, and streamed episodes are the listed ones", async () => {
  const run = await writeSampleRun(store, { name: "filter", steps: 4, groups: 4, groupSize: 2 });
  const { episodes: failed } = await store.readEpisodes({ runId: run, solved: false, purpose: "eval" }, { limit: 500 });
  expect(failed.length).toBeGreaterThan(0);
  expect(failed.every((episode) => episode.reward < 1 && episode.purpose === "eval")).toBe(true);
  const { episodes: second } = await store.readEpisodes({ runId: run, step: 2, split: "train" }, { limit: 500 });
  expect(second).toHaveLength(8);
  const filter = { runId: run, family: "count-lines" };
  const listed = (await store.readEpisodes(filter, { limit: 500 })).episodes.map((episode) => episode.id);
  const streamed: string[] = [];
  for await (const episode of store.episodes(filter)) streamed.push(episode.id);
  expect(streamed).toEqual(listed);
  const families = await store.readFamilies(run);
  expect(families.reduce((sum, row) => sum + row.episodes, 0)).toBe((await store.getRun(run)).episodes);
});

test("the event loop turns while many episodes are read", async () => {
  const run = await store.createRun(newRun("many"));
  const many = Array.from({ length: 80 }, (_, i) => sample(`many/${i}`, `many/${i >> 3}`, i % 8));
  await store.writeEpisodes(run, 1, "train", many);
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  const read: string[] = [];
  for await (const { id } of store.episodes({ runId: run })) read.push(id);
  clearInterval(timer);
  expect(read).toEqual(many.map(({ episodeId }) => episodeId));
  expect(turns).toBeGreaterThan(0);
});

test("the hub's lasting events are recorded, transient ones and those the store makes are not", async () => {
  const run = await store.createRun(newRun("events"));
  const hub = new EventHub();
  const recorder = recordEvents(hub, store, run);
  hub.emit({ type: "log", level: "info", message: "hello" });
  hub.emit({ type: "episode.phase", episodeId: "x", phase: "tool" });
  hub.emit({ type: "step.finished", step: 1, metrics: {} });
  hub.emit({ type: "engine.restarted", device: "cpu", reason: "killed", restarts: 1 });
  await recorder.stop();
  hub.emit({ type: "log", level: "info", message: "late" });
  const events = (await store.readEvents({ runId: run })).slice(1);
  expect(events.map(({ type, body }) => [type, body.message ?? body.reason])).toEqual([
    ["log", "hello"],
    ["engine.restarted", "killed"],
  ]);
  const [first] = events;
  expect((await store.readEvents({ runId: run, sinceId: first?.id ?? 0 })).map((event) => event.type)).toEqual([
    "engine.restarted",
  ]);
});

test("a store opened for reading writes nothing", async () => {
  await using reader = await openStore(store.path, { mode: "read" });
  expect(reader.writable).toBe(false);
  expect((await reader.listRuns()).length).toBeGreaterThan(0);
  expect(await problem(reader.createRun(newRun("x")))).toMatch("was opened for reading");
});
