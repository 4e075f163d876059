import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadExperiment } from "../config/load.ts";
import { openStore } from "../store/store.ts";
import { runCli } from "./program.ts";

let folder: string;
let storePath: string;
const ids: Record<string, string> = {};

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ale-runs-"));
  storePath = join(folder, "ale.db");
  const { toml, hash } = loadExperiment({ files: [], overrides: ["trainer.steps=4"] });
  await using store = await openStore(storePath);
  for (const name of ["finished", "interrupted", "edited", "gone", "running"] as const) {
    const outDir = join(folder, name);
    ids[name] = await store.createRun({
      ...{ name, algorithm: "grpo", seed: 1, configToml: toml, configHash: hash, outDir },
      ...{ isolation: "root+userns", steps: 4, aleVersion: "0.1.0" },
    });
    for (const step of [0, 2]) {
      const rate = 0.4 + step / 10;
      await store.commitStep(ids[name], step, {
        metrics: { "critic/rewards/mean": rate },
        weightVersion: step,
        wallSeconds: 65 * step,
        evaluations: [
          { step, split: "heldout", greedy: false, rate, n: 420, low: rate - 0.05, high: rate + 0.05, perFamily: {} },
        ],
      });
    }
    if (name === "gone") continue;
    mkdirSync(outDir);
    writeFileSync(join(outDir, "config.toml"), name === "edited" ? toml.replace("seed = 1 ", "seed = 2 ") : toml);
  }
  await store.endRun(ids.finished ?? "", "finished");
  for (const name of ["interrupted", "edited", "gone"]) await store.endRun(ids[name] ?? "", "interrupted");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function ale(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  let out = "";
  let err = "";
  const code = await runCli([...argv, "--store", storePath], {
    stdout: { write: (text) => (out += text) },
    stderr: { write: (text) => (err += text) },
    env: {},
  });
  return { code, out, err };
}

describe("runs", () => {
  test("ls is a table without colours, newest first, with the gain on held-out instances", async () => {
    const { code, out } = await ale("runs", "ls");
    expect(code).toBe(0);
    const lines = out.trimEnd().split("\n");
    expect(lines).toHaveLength(6);
    expect(lines[0]).toMatch(/^run +status +algorithm +seed +step +episodes +work +held-out +started$/);
    expect(lines[1]).toStartWith(ids.running ?? "");
    expect(lines[1]).toMatch(/ running +grpo +1 +2\/4 +0 +2 min 10 s +40\.0 % → 60\.0 % +[\d.]+ m?s ago$/);
    expect(out).not.toContain("\x1b");
  });

  test("ls --json and --limit", async () => {
    const runs = JSON.parse((await ale("runs", "ls", "--json", "--limit", "2")).out);
    expect(runs).toHaveLength(2);
    expect(runs[0]).toMatchObject({ id: ids.running, status: "running", committedStep: 2, steps: 4 });
    expect(runs[0].evaluations).toHaveLength(2);
  });

  test("show by id, by its beginning, by folder", async () => {
    const byId = await ale("runs", "show", ids.interrupted ?? "");
    expect(byId.code).toBe(0);
    expect(byId.out).toContain("2 of 4, 0 episodes, 2 min 10 s of work");
    expect(byId.out).toContain(`ale resume ${ids.interrupted}`);
    expect(byId.out).toMatch(/2 +held-out +sampled +60\.0 % +\[55\.0, 65\.0\] +420/);
    expect((await ale("runs", "show", "interrupted-")).out).toBe(byId.out);
    expect((await ale("runs", "show", join(folder, "interrupted"))).out).toBe(byId.out);
    const { run, metrics } = JSON.parse((await ale("runs", "show", "finished", "--json")).out);
    expect(run.id).toBe(ids.finished);
    expect(metrics).toHaveLength(2);
    expect((await ale("runs", "show", "zzz")).err).toBe(
      "error: there is no run zzz\n  next: list them with: ale runs ls\n",
    );
  });
});

describe("resume is refused, saying why", () => {
  test.each([
    ["running", "is running in another process"],
    ["finished", "has finished all its 4 steps"],
    ["gone", "the run directory of"],
    ["edited", "differs from what run"],
  ])("%s", async (name, message) => {
    const { code, err } = await ale("resume", ids[name] ?? "");
    expect(code).toBe(2);
    expect(err).toContain(message);
    expect(err).toContain("\n  next: ");
  });

  test("without a name, when the only run still runs", async () => {
    const path = join(folder, "one.db");
    const { toml, hash } = loadExperiment({ files: [] });
    await using store = await openStore(path);
    const id = await store.createRun({
      ...{ name: "one", algorithm: "grpo", seed: 1, configToml: toml, configHash: hash, outDir: folder },
      ...{ isolation: "root", steps: 4, aleVersion: "0.1.0" },
    });
    let err = "";
    const stderr = { write: (text: string) => (err += text) };
    expect(await runCli(["resume", "--store", path], { stdout: stderr, stderr, env: {} })).toBe(2);
    expect(err).toContain(`run ${id} is running in another process`);
  });

  test("an edited configuration names the keys", async () => {
    expect((await ale("resume", "edited")).err).toContain(": seed\n");
  });
});

test("export writes what is asked for, and not over anything", async () => {
  const out = join(folder, "exported");
  expect((await ale("export", "finished", "--out", out, "--metrics", "--json")).code).toBe(0);
  expect(await Bun.file(join(out, "summary.json")).json()).toMatchObject({ status: "finished", steps: 2, seed: 1 });
  expect((await Bun.file(join(out, "metrics.jsonl")).text()).trimEnd().split("\n")).toHaveLength(2);
  expect(await Bun.file(join(out, "report.html")).exists()).toBe(false);
  const again = await ale("export", "finished", "--out", out);
  expect(again.code).toBe(2);
  expect(again.err).toContain(`${out} is not empty`);
  expect(again.err).not.toContain("ale resume");
});
