/** Two steps of every algorithm: real sandboxes, real engine, the shipped policy. */

import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ALGORITHM_TYPES } from "../../src/config/algorithm.ts";
import { loadExperiment } from "../../src/config/load.ts";
import { EventHub } from "../../src/core/events.ts";
import type { RunOptions } from "../../src/experiment/api.ts";
import { runExperiment } from "../../src/experiment/run.ts";
import { openStore } from "../../src/store/store.ts";

const place = mkdtempSync(join(tmpdir(), "ale-algorithms-"));
const storePath = join(place, "store.db");
afterAll(() => rmSync(place, { recursive: true, force: true }));

const NEVER = new AbortController().signal;
const SETTINGS = [
  ...["trainer.steps=2", "rollout.groups=4", "rollout.groupSize=4", "optimizer.warmupSteps=0", "sandbox.warm=4"],
  ...["evaluation.dev=0", "evaluation.heldout=0", "evaluation.greedy=false", "checkpoint.every=2", "engine.threads=1"],
  // families the shipped policy solves now and then, so that groups have a spread
  'tasks.families=["cfg", "sum", "big"]',
];

type Metrics = Readonly<Record<string, number>>;

/** Runs or resumes it. */
function run(name: string, overrides: readonly string[], more: Partial<RunOptions> = {}) {
  const file = join(import.meta.dir, "../../experiments/shell.toml");
  const loaded = loadExperiment({ files: [file], overrides: [...SETTINGS, ...overrides] });
  const outDir = join(place, name);
  mkdirSync(outDir, { recursive: true });
  return runExperiment({
    ...{ experiment: loaded.experiment, toml: loaded.toml, configHash: loaded.hash, outDir, serve: false },
    ...{ storePath, hub: new EventHub(), signal: NEVER, stop: NEVER, ...more },
  });
}

/** The metrics of its two steps. */
async function metricsOf(name: string, overrides: readonly string[]): Promise<Metrics[]> {
  expect((await run(name, overrides)).status).toBe("finished");
  const outDir = join(place, name);
  const lines = readFileSync(join(outDir, "metrics.jsonl"), "utf8").trim().split("\n");
  return lines.slice(1).map((line) => JSON.parse(line));
}

/** Both steps learned something, and every number is one. */
function expectLearning(steps: readonly Metrics[]): void {
  expect(steps).toHaveLength(2);
  expect(steps.some((metrics) => (metrics["actor/grad_norm"] ?? 0) > 0)).toBe(true);
  for (const metrics of steps)
    for (const [name, value] of Object.entries(metrics))
      expect({ name, isFinite: Number.isFinite(value) }).toEqual({ name, isFinite: true });
}

test.each([...ALGORITHM_TYPES])("%s", async (type) => {
  expectLearning(await metricsOf(type, [`algorithm.type=${type}`]));
});

test("components of several, with everything that can be put around a loss", async () => {
  const correction = '{weight = "chunk", filters = [{level = "token", ratioLow = 0.5, ratioHigh = 2.0}]}';
  const steps = await metricsOf("composed", [
    ...["algorithm.type=cispo", "algorithm.advantage=ipa", "algorithm.ratio=chunk", "algorithm.aggregation=chunk-mean"],
    ...["algorithm.normMean=running", "algorithm.normStd=running", "algorithm.rewardClip=3", "algorithm.whiten=true"],
    ...["algorithm.advantageClip=2", "algorithm.lengthWeight=true", "algorithm.difficultyWeight=true"],
    ...[`algorithm.correction=${correction}`, "algorithm.entropy=0.01", "kl.in=loss"],
    "trainer.epochs=2",
  ]);
  expectLearning(steps);
  for (const metrics of steps) {
    expect(metrics["rollout_corr/rollout_is_mean"]).toBeCloseTo(1, 3);
    expect(metrics["rollout_corr/rollout_rs_masked_fraction"]).toBe(0);
    expect(metrics["actor/updates"]).toBe(4);
  }
});

test("what running normalisation has seen survives an interrupt", async () => {
  const overrides = ["algorithm.normMean=running", "algorithm.normStd=running", "checkpoint.every=1"];
  const stop = new AbortController();
  const hub = new EventHub();
  hub.subscribe(({ event }) => {
    if (event.type === "step.finished" && event.step === 1) stop.abort();
  });
  const first = await run("running", overrides, { hub, signal: stop.signal });
  expect(first.status).toBe("interrupted");
  expect((await run("running", overrides, { resumeRunId: first.runId })).status).toBe("finished");
  await using store = await openStore(storePath);
  const { step, state } = (await store.lastCommitted(first.runId)) ?? {};
  expect(step).toBe(2);
  expect(state).toMatchObject({ training: { rewardMoments: { count: 2 * 4 * 4 } } });
});
