/**
 * `kill -9` of a writing process at random moments under the loads of `ale bench store`, small turns as fast as possible and
 * turns of 2000 tokens, 1000 a second: every commit that it reported is there, and every step is whole. Some kills here, by
 * default; `ALE_KILL_ROUNDS=100` makes it as many as are promised.
 */

import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@libsql/client/sqlite3";
import { Rng } from "../src/core/rng.ts";
import { openStore } from "../src/store/store.ts";
import { LOADS, type StoreLoad } from "./store-loads.ts";

const ROUNDS = Number(process.env.ALE_KILL_ROUNDS ?? 12);
/** Kills that one file goes through before a new one is begun: checking it takes longer as it grows. */
const ROUNDS_PER_STORE = 10;

for (const [load, settings] of Object.entries(LOADS)) {
  const rounds = Math.ceil(ROUNDS / Object.keys(LOADS).length);
  test(
    `no commit is lost or doubled in ${rounds} kills under ${load} turns`,
    async () => {
      const rng = new Rng(`kill/${load}/${Date.now()}`);
      const total = { kills: 0, commits: 0, turns: 0, ms: 0 };
      while (total.kills < rounds) {
        await killOneStore(load, settings, Math.min(ROUNDS_PER_STORE, rounds - total.kills), rng, total);
      }
      expect(total.commits).toBeGreaterThan(rounds / 2);
      const rate = Math.round((1000 * total.turns) / total.ms);
      console.log(`${total.kills} kills, ${total.commits} commits, ${rate} ${load} turns a second`);
    },
    rounds * 10_000,
  );
}

interface Total {
  kills: number;
  commits: number;
  turns: number;
  ms: number;
}

async function killOneStore(load: string, settings: StoreLoad, rounds: number, rng: Rng, total: Total): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "ale-kill-"));
  const path = join(folder, "ale.db");
  try {
    const run = await makeRun(path, folder);
    let reported = 0;
    for (let round = 0; round < rounds; round++) {
      const killed = await killWriter([path, "commit", run, load], rng.int(5, 250));
      reported = Math.max(reported, killed.step);
      total.kills++;
      total.turns += killed.turns;
      total.ms += killed.ms;
      await checkStore(path, run, reported, settings);
    }
    total.commits += reported;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function makeRun(path: string, folder: string): Promise<string> {
  await using store = await openStore(path);
  const run = await store.createRun({
    ...{ name: "kill", algorithm: "grpo", seed: 1, configToml: "", configHash: "kill", outDir: folder },
    ...{ isolation: "none", steps: 1000, aleVersion: "0" },
  });
  await store.endRun(run, "interrupted");
  return run;
}

interface Killed {
  /** The last step it reported, and what it had written by then. */
  readonly step: number;
  readonly turns: number;
  readonly ms: number;
}

/** Lets a process commit steps and kills it `ms` after its first report. */
async function killWriter(args: readonly string[], ms: number): Promise<Killed> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "store-child.ts"), ...args], {
    stdout: "pipe",
    stderr: "inherit",
  });
  let text = "";
  let timer: Timer | undefined;
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    timer ??= setTimeout(() => child.kill("SIGKILL"), ms);
    text += chunk;
  }
  await child.exited;
  clearTimeout(timer);
  expect(child.signalCode).toBe("SIGKILL");
  const [step = Number.NaN, turns = 0, worked = 0] = (text.trimEnd().split("\n").at(-1) ?? "").split(" ").map(Number);
  return { step, turns, ms: worked };
}

async function checkStore(path: string, run: string, reported: number, { episodes, turns }: StoreLoad): Promise<void> {
  await using store = await openStore(path, { mode: "read" });
  const last = (await store.lastCommitted(run))?.step ?? 0;
  // The last commit may have happened without its report.
  expect(last).toBeGreaterThanOrEqual(reported);
  expect(last).toBeLessThanOrEqual(reported + 1);
  const steps = Array.from({ length: last }, (_, i) => i + 1);
  expect((await store.readSteps(run)).map((row) => row.step)).toEqual(steps);
  expect((await store.readMetrics(run)).map((row) => [row.step, row.metrics.half])).toEqual(
    steps.map((s) => [s, s / 2]),
  );
  const perStep = new Map<number, number>();
  for await (const episode of store.episodes({ runId: run })) {
    perStep.set(episode.step, (perStep.get(episode.step) ?? 0) + 1);
    expect(episode.turns).toHaveLength(turns);
  }
  for (const step of steps) expect(perStep.get(step)).toBe(episodes);
  expect((await store.getRun(run)).status).toBe("interrupted");
  const client = createClient({ url: `file:${path}`, concurrency: 1 });
  expect((await client.execute("PRAGMA integrity_check")).rows[0]?.[0]).toBe("ok");
  expect((await client.execute("PRAGMA foreign_key_check")).rows).toHaveLength(0);
  client.close();
}
