/** `kill -9` of a writing process at random moments: every commit it reported is there, and every step is whole. */

import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@libsql/client/sqlite3";
import { Rng } from "../src/core/rng.ts";
import { openStore } from "../src/store/store.ts";

const ROUNDS = Number(process.env.ALE_KILL_ROUNDS ?? 12);

test(
  "no commit is lost or doubled in many kills",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "ale-kill-"));
    const path = join(folder, "ale.db");
    const rng = new Rng(`kill/${Date.now()}`);
    try {
      const first = await openStore(path);
      const run = await first.createRun({
        ...{ name: "kill", algorithm: "grpo", seed: 1, configToml: "", configHash: "kill", outDir: folder },
        ...{ isolation: "none", steps: 1000, aleVersion: "0" },
      });
      await first.endRun(run, "interrupted");
      await first.close();
      let reported = 0;
      for (let round = 0; round < ROUNDS; round++) {
        reported = Math.max(reported, await killWriter(path, run, rng.int(5, 250)));
        await checkStore(path, run, reported);
      }
      expect(reported).toBeGreaterThan(ROUNDS / 2);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
  ROUNDS * 5000,
);

/** Lets a process commit steps, kills it `ms` after its first report, and returns the last step it reported. */
async function killWriter(path: string, run: string, ms: number): Promise<number> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "store-child.ts"), path, "commit", run], {
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
  return Number(text.trimEnd().split("\n").at(-1));
}

async function checkStore(path: string, run: string, reported: number): Promise<void> {
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
    expect(episode.turns.length).toBeGreaterThan(0);
  }
  for (const step of steps) expect(perStep.get(step)).toBe(24);
  expect((await store.getRun(run)).status).toBe("interrupted");
  const client = createClient({ url: `file:${path}`, concurrency: 1 });
  expect((await client.execute("PRAGMA integrity_check")).rows[0]?.[0]).toBe("ok");
  expect((await client.execute("PRAGMA foreign_key_check")).rows).toHaveLength(0);
  client.close();
}
