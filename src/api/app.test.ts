import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Hono } from "hono";
import { writeSampleRun } from "../../test/sample-run.ts";
import { EventHub } from "../core/events.ts";
import { openStore, type Store } from "../store/store.ts";
import { trainBpe } from "../tokens/bpe-trainer.ts";
import { createApp } from "./app.ts";
import { eventStream } from "./event-stream.ts";

const TOKEN = "test-token-0123456789";

let folder: string;
let store: Store;
let runId: string;
let app: Hono;
const stopped: string[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ale-api-"));
  store = await openStore(join(folder, "ale.db"));
  const outDir = join(folder, "run");
  runId = await writeSampleRun(store, { steps: 4, groups: 2, groupSize: 2, outDir });
  app = createApp({
    store,
    token: TOKEN,
    stopRun: (id) => {
      stopped.push(id);
      return true;
    },
  });
});
afterAll(async () => {
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

async function get(path: string, init?: RequestInit) {
  const response = await app.request(path, init);
  return { status: response.status, headers: response.headers, body: await response.json() };
}

test("health names version and store", async () => {
  const { status, body } = await get("/v1/health");
  expect(status).toBe(200);
  expect(body).toMatchObject({ status: "ok", store: store.path, live: false });
});

test("who waits for what is told of a run that this process works on", async () => {
  expect((await get(`/v1/runs/${runId}/waiting`)).body.error.code).toBe("not_here");
  const wait = { who: "run", forWhat: "collect, step 3", since: 1, deadline: null };
  const own = createApp({ store, token: TOKEN, listWaits: (id) => (id === runId ? [wait] : undefined) });
  const response = await own.request("/v1/runs/shell/waiting");
  expect(await response.json()).toMatchObject({ runId, waiting: [wait] });
});

test("alerts of runs are told to all, what was done in somebody's sandbox to who has the token", async () => {
  const evidence = "nmap scans: nmap 192.0.2.0/24";
  await store.appendAlerts([{ kind: "scan", at: 1, turn: null, evidence, action: "stop", sandbox: "sb-1" }]);
  const anybody = (await get("/v1/alerts")).body.alerts;
  expect(anybody[0]).toMatchObject({ kind: "scan", sandbox: "sb-1", evidence: null });
  expect(anybody[1]).toMatchObject({ runId, kind: "tunnel", evidence: expect.stringContaining("ssh -R") });
  const owner = await get("/v1/alerts?kind=scan", { headers: { Authorization: `Bearer ${TOKEN}` } });
  expect(owner.body).toMatchObject({ alerts: [{ evidence }], nextCursor: null });
  const wrong = await get("/v1/alerts?kind=scan", { headers: { Authorization: "Bearer x" } });
  expect(wrong.body.alerts[0].evidence).toBeNull();
  const own = (await get(`/v1/alerts?run=${runId}&limit=1`)).body;
  expect([own.alerts.length, own.alerts[0].sandbox]).toEqual([1, null]);
  expect((await get("/v1/alerts?kind=theft")).status).toBe(400);
});

test("runs, one run by a unique beginning, and its metrics", async () => {
  expect((await get("/v1/runs")).body.runs.map((run: { id: string }) => run.id)).toEqual([runId]);
  const { body } = await get("/v1/runs/shell");
  expect(body.run).toMatchObject({ id: runId, status: "finished", committedStep: 4 });
  expect(body.run.owner).toBeUndefined();
  expect(body.evaluations.length).toBeGreaterThan(0);
  expect(body.configuration).toContain("[trainer]");
  const metrics = await get(`/v1/runs/${runId}/metrics?since=2&names=actor/lr,actor/entropy`);
  expect(metrics.body.rows.map((row: { step: number }) => row.step)).toEqual([3, 4]);
  expect(Object.keys(metrics.body.rows[0].metrics)).toEqual(["actor/entropy", "actor/lr"]);
});

test("episodes are filtered and paged, and one is read by its id in either form", async () => {
  const page = await get(`/v1/episodes?run=${runId}&step=2&purpose=train&limit=3`);
  expect(page.body.episodes).toHaveLength(3);
  const next = await get(`/v1/episodes?run=${runId}&step=2&purpose=train&limit=3&cursor=${page.body.nextCursor}`);
  expect(next.body).toMatchObject({ nextCursor: null });
  expect(next.body.episodes).toHaveLength(1);
  const id = page.body.episodes[0].id as string;
  const [plain, encoded] = [await get(`/v1/episodes/${id}`), await get(`/v1/episodes/${encodeURIComponent(id)}`)];
  expect(plain.body).toEqual(encoded.body);
  expect(plain.body).toMatchObject({ id, runId, step: 2 });
  expect(plain.body.tokens.ids).toHaveLength(plain.body.tokens.mask.length);
  expect(plain.body.tokens.texts).toBeNull();
  const failed = await get("/v1/episodes?solved=false&limit=500");
  expect(failed.body.episodes.every((episode: { reward: number }) => episode.reward < 1)).toBe(true);
});

test("tokens come with their text where the run's tokenizer is there", async () => {
  const policy = join(folder, "run", "policy");
  mkdirSync(policy, { recursive: true });
  await Bun.write(join(policy, "tokenizer.json"), JSON.stringify(trainBpe(["ls -la", "cat notes.txt"], 300)));
  const { body } = await get(`/v1/episodes/${runId}/train/1/0/0`);
  const { ids, texts } = body.tokens;
  // The made-up ids reach beyond this small vocabulary; then there is no text at all.
  expect(texts === null || texts.length === ids.length).toBe(true);
});

test("task families of a run", async () => {
  const { body } = await get(`/v1/tasks?run=${runId}`);
  expect(body.families[0]).toMatchObject({ suite: "shell" });
  expect(body.families.every((row: { solved: number; episodes: number }) => row.solved <= row.episodes)).toBe(true);
});

test("errors are JSON with a code, a message and a hint", async () => {
  expect(await get("/v1/runs/nothing")).toMatchObject({
    status: 404,
    body: { error: { code: "not_found", message: "there is no run nothing" } },
  });
  await store.createRun({
    ...{ name: "shell", algorithm: "grpo", seed: 9, configToml: "", configHash: "9", outDir: "/9", isolation: "none" },
    ...{ steps: 1, aleVersion: "0" },
  });
  expect(await get("/v1/runs/shell")).toMatchObject({ status: 409, body: { error: { hint: "give more of the id" } } });
  expect(await get("/v1/episodes/no/such")).toMatchObject({ status: 404, body: { error: { code: "not_found" } } });
  expect(await get("/v1/elsewhere")).toMatchObject({ status: 404, body: { error: { hint: null } } });
  for (const query of ["limit=0", "limit=501", "step=x", "split=test", "cursor=%27", "order=up"]) {
    const { status, body } = await get(`/v1/episodes?${query}`);
    expect([status, body.error.code]).toEqual([400, "bad_request"]);
    expect(body.error.message).toStartWith(query.split("=")[0] ?? "");
  }
});

test("stopping a run needs the token, in any of three headers or four forms", async () => {
  const stop = (headers: [string, string][]) => get(`/v1/runs/${runId}/stop`, { method: "POST", headers });
  const refused: [string, string][][] = [
    [],
    [["Authorization", "Bearer wrong"]],
    [["Authorization", TOKEN]],
    [["X-API-Key", ""]],
    [["Authorization", `Basic ${btoa(`${TOKEN}:`)}`]],
  ];
  for (const headers of refused) {
    const { status, body, headers: answered } = await stop(headers);
    expect([status, body.error.code]).toEqual([401, "unauthorized"]);
    expect(answered.get("www-authenticate")).toBe("Bearer");
  }
  expect(stopped).toEqual([]);
  const accepted: [string, string][] = [
    ["Authorization", `Bearer ${TOKEN}`],
    ["X-API-Key", TOKEN],
    ["X-Key", TOKEN],
    ["Authorization", `Basic ${btoa(`ale:${TOKEN}`)}`],
  ];
  for (const header of accepted) {
    expect(await stop([header])).toMatchObject({ status: 202, body: { runId } });
  }
  expect(stopped).toEqual([runId, runId, runId, runId]);
});

test("a run that no process works on cannot be stopped", async () => {
  const other = createApp({ store, token: TOKEN });
  const response = await other.request(`/v1/runs/${runId}/stop`, { method: "POST", headers: { "X-Key": TOKEN } });
  expect([response.status, (await response.json()).error.code]).toEqual([409, "not_running"]);
});

test("foreign host names are refused, those of this machine are not", async () => {
  for (const host of ["evil.example", "127.0.0.1.evil.example:4242", "localhost.evil.example", "[::2]:80"]) {
    const { status, body } = await get("/v1/health", { headers: { host } });
    expect([status, body.error.code]).toEqual([403, "forbidden_host"]);
  }
  for (const host of ["localhost:4242", "127.0.0.1:1", "LOCALHOST", "[::1]:4242"]) {
    expect((await get("/v1/health", { headers: { host } })).status).toBe(200);
  }
});

test("every answer, errors too, carries the security headers", async () => {
  for (const path of ["/v1/health", "/nowhere"]) {
    const { headers } = await get(path);
    expect(headers.get("content-security-policy")).toContain("default-src 'none'; script-src 'self'");
    expect(headers.get("x-content-type-options")).toBe("nosniff");
    expect(headers.get("cache-control")).toBe("no-store");
    expect(headers.get("access-control-allow-origin")).toBeNull();
  }
});

/** Reads from an event stream until `count` events came. */
async function readEvents(stream: ReadableStream<Uint8Array>, count: number) {
  const events: { id: string | undefined; type: string; data: Record<string, unknown> }[] = [];
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop() ?? "";
    for (const block of blocks) {
      const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(block)?.[1];
      const [type, data] = [field("event"), field("data")];
      if (type !== undefined && data !== undefined) events.push({ id: field("id"), type, data: JSON.parse(data) });
    }
    if (events.length >= count) break;
  }
  return events;
}

test("events are replayed after Last-Event-ID without a gap", async () => {
  const all = await store.readEvents({ runId });
  const response = await app.request(`/v1/events?run=${runId}`, { headers: { "Last-Event-ID": `${all[1]?.id}` } });
  expect(response.headers.get("content-type")).toStartWith("text/event-stream");
  const events = await readEvents(response.body as ReadableStream<Uint8Array>, all.length - 2);
  expect(events.map((event) => Number(event.id))).toEqual(all.slice(2).map((event) => event.id));
  expect(events[0]?.data).toMatchObject({ runId, type: all[2]?.type ?? "" });
});

test("live events come at once, lasting ones with an id and once only, and the stream ends with its reader", async () => {
  const hub = new EventHub();
  let ended = 0;
  const stream = eventStream({
    ...{ store, hub, runId, sinceId: await store.lastEventId(), signal: new AbortController().signal },
    ...{ pollMs: 5000, onEnd: () => ended++ },
  });
  const reading = readEvents(stream, 2);
  await Bun.sleep(10);
  hub.emit({ type: "episode.phase", episodeId: "e", phase: "tool" });
  await store.appendEvents([{ runId, at: 1, event: { type: "log", level: "warn", message: "careful" } }]);
  hub.emit({ type: "log", level: "warn", message: "careful" });
  const events = await reading;
  expect(events.map(({ id, type }) => [id !== undefined, type])).toEqual([
    [false, "episode.phase"],
    [true, "log"],
  ]);
  await Bun.sleep(10);
  expect(ended).toBe(1);
});

test("a silent stream sends heartbeats", async () => {
  const sinceId = await store.lastEventId();
  const stop = new AbortController();
  const stream = eventStream({ store, runId, sinceId, signal: stop.signal, pollMs: 2, heartbeatMs: 4 });
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    text += decoder.decode(chunk);
    if (text.split(": heartbeat\n\n").length > 2) stop.abort();
  }
  expect(text).toStartWith("retry: 1000\n");
});
