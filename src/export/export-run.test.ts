import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { writeSampleRun } from "../../test/sample-run.ts";
import type { EpisodeDetail } from "../store/records.ts";
import { openStore, type Store } from "../store/store.ts";
import { COLUMNS } from "./columns.ts";
import { exportRun } from "./export-run.ts";
import type { RunSummary } from "./summary.ts";

const HOSTILE = `</pre><script>alert(1)</script><img src=x onerror="alert(1)">\u001b]0;x\u0007\u0000`;

let folder: string;
let store: Store;
let runId: string;
let episodes: EpisodeDetail[];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ale-export-"));
  store = await openStore(join(folder, "ale.db"));
  runId = await writeSampleRun(store, { steps: 8, groups: 2, groupSize: 3, evaluations: 4, hostile: HOSTILE });
  episodes = await Array.fromAsync(store.episodes({ runId }));
  await exportRun(store, runId, join(folder, "out"));
});
afterAll(async () => {
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

const out = (name: string) => join(folder, "out", name);
const lines = (name: string) =>
  readFileSync(out(name), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

test("all files are there and nothing half-written", () => {
  expect(readdirSync(join(folder, "out")).sort()).toEqual([
    "columns.md",
    "config.toml",
    "metrics.jsonl",
    "report.html",
    "summary.json",
    "trajectories.jsonl",
    "trajectories.parquet",
  ]);
  const summary = JSON.parse(readFileSync(out("summary.json"), "utf8")) as RunSummary;
  expect(summary).toMatchObject({ runId, status: "finished", steps: 8, episodes: episodes.length });
  expect(summary.heldOut.initial?.step).toBe(0);
  expect(summary.heldOut.final?.step).toBe(8);
});

test("metrics are one line per step, under all their names", () => {
  const rows = lines("metrics.jsonl");
  expect(rows.map((row) => row.step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  for (const row of rows) {
    expect(row["critic/rewards/mean"]).toBeNumber();
    expect([row.reward, row["training/global_step"]]).toEqual([row["critic/rewards/mean"], row.step]);
  }
});

test("JSON lines hold every episode with every token, float32 to the bit", () => {
  const rows = lines("trajectories.jsonl");
  expect(rows.map((row) => row.episode_id)).toEqual(episodes.map((episode) => episode.id));
  for (const [i, episode] of episodes.entries()) {
    expect(Float32Array.from(rows[i].logprobs)).toEqual(new Float32Array(episode.tokens.logprobs));
    expect(rows[i].token_ids).toEqual(Array.from(episode.tokens.ids));
    expect(rows[i].turns).toEqual([...episode.turns]);
    expect(rows[i].alerts).toEqual([...episode.alerts]);
  }
  expect(episodes.flatMap(({ alerts }) => alerts).length).toBeGreaterThan(0);
  expect(Object.keys(rows[0])).toEqual(COLUMNS.map((column) => column.name));
});

test("Parquet holds the same rows, compressed, with the meaning of its columns", async () => {
  const file = await asyncBufferFromFile(out("trajectories.parquet"));
  const metadata = await parquetMetadataAsync(file);
  expect(metadata.row_groups[0]?.columns[0]?.meta_data?.codec).toBe("ZSTD");
  const meanings = new Map(metadata.key_value_metadata?.map(({ key, value }) => [key, value]));
  expect(meanings.get("column.mask")).toContain("sampled");
  const rows = await parquetReadObjects({
    file,
    compressors: { ZSTD: (input) => new Uint8Array(Bun.zstdDecompressSync(new Uint8Array(input))) },
  });
  expect(rows).toHaveLength(episodes.length);
  for (const [i, episode] of episodes.entries()) {
    const row = rows[i] as Record<string, unknown>;
    expect(row.episode_id).toBe(episode.id);
    expect(row.seed).toBe(BigInt(episode.seed));
    expect(row.error ?? null).toBe(episode.error);
    expect(row.started_at).toEqual(new Date(episode.startedAt));
    expect(row.turns).toEqual(JSON.parse(JSON.stringify(episode.turns)));
    expect(row.alerts).toEqual([...episode.alerts]);
    expect(row.turn_ids as number[]).toEqual(Array.from(episode.tokens.turnIds));
    expect(Float32Array.from(row.logprobs as number[])).toEqual(new Float32Array(episode.tokens.logprobs));
  }
});

test("the report runs no script, loads nothing, and shows hostile text as text", async () => {
  const report = readFileSync(out("report.html"), "utf8");
  const seen = new Set<string>();
  const attributes = new Set<string>();
  await new HTMLRewriter()
    .on("*", {
      element: (element) => {
        seen.add(element.tagName);
        for (const [name] of element.attributes) attributes.add(name);
      },
    })
    .transform(new Response(report))
    .text();
  for (const tag of ["script", "img", "link", "iframe", "object", "a", "form"]) expect(seen).not.toContain(tag);
  for (const name of attributes) expect(name).not.toMatch(/^on|^style$|^src$|^href$/);
  expect(report).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
  expect(report).toContain("\\u{1b}]0;x\\u{7}\\u{0}");
  expect(report).toMatch(/Content-Security-Policy" content="default-src 'none'; style-src 'sha256-[\w+/]+=*'/);
  const style = /<style>([\s\S]*?)<\/style>/.exec(report)?.[1] ?? "";
  expect(report).toContain(new Bun.CryptoHasher("sha256").update(style).digest("base64"));
  expect(report).toContain("quadratic fit");
  expect(report).toContain("held-out, greedy");
});

test("a run that never committed exports too", async () => {
  const empty = await writeSampleRun(store, { name: "empty", steps: 5, until: -1 });
  const path = await exportRun(store, empty, join(folder, "empty"), { status: "failed" });
  expect(JSON.parse(readFileSync(path, "utf8"))).toMatchObject({
    status: "failed",
    steps: 0,
    heldOut: { final: null },
  });
  expect(readFileSync(join(folder, "empty", "report.html"), "utf8")).toContain("Nothing was evaluated");
});

test("chosen formats only, and a folder that cannot be made is named", async () => {
  await exportRun(store, runId, join(folder, "some"), { formats: ["metrics"] });
  expect(readdirSync(join(folder, "some")).sort()).toEqual(["metrics.jsonl", "summary.json"]);
  writeFileSync(join(folder, "file"), "");
  const message = await exportRun(store, runId, join(folder, "file", "x")).then(
    () => "",
    (error) => `${error.code}: ${error.message}`,
  );
  expect(message).toMatch(/^usage: .*file\/x/);
  expect(existsSync(join(folder, "file", "x"))).toBe(false);
});
