/** Learning from a teacher: real sandboxes, real engines; the shipped policy and what one step of training makes of it. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadExperiment } from "../../src/config/load.ts";
import { EventHub } from "../../src/core/events.ts";
import { EngineClient } from "../../src/device/engine-client.ts";
import type { RunOptions } from "../../src/experiment/api.ts";
import { policyFromFolder } from "../../src/experiment/policy-source.ts";
import { runExperiment } from "../../src/experiment/run.ts";
import { runSft } from "../../src/experiment/sft.ts";
import { teacherOptions } from "../../src/experiment/teacher.ts";
import { openStore } from "../../src/store/store.ts";
import { finish, Workspace } from "./support.ts";

const place = mkdtempSync(join(tmpdir(), "ale-distill-"));
const storePath = join(place, "store.db");
afterAll(() => rmSync(place, { recursive: true, force: true }));

const NEVER = new AbortController().signal;
const SETTINGS = [
  ...["trainer.steps=2", "rollout.groups=4", "rollout.groupSize=4", "sandbox.warm=4", "engine.threads=1"],
  ...["evaluation.dev=0", "evaluation.heldout=0", "evaluation.greedy=false", "sft.every=0", "optimizer.warmupSteps=0"],
  'tasks.families=["cfg", "sum", "big"]',
];

type Metrics = Readonly<Record<string, number>>;

async function run(name: string, execute: typeof runSft, overrides: readonly string[], more: Partial<RunOptions> = {}) {
  const file = join(import.meta.dir, "../../experiments/shell.toml");
  const loaded = loadExperiment({ files: [file], overrides: [...SETTINGS, ...overrides] });
  const outDir = join(place, name);
  mkdirSync(outDir, { recursive: true });
  const result = await execute({
    ...{ experiment: loaded.experiment, toml: loaded.toml, configHash: loaded.hash, outDir, serve: false },
    ...{ storePath, hub: new EventHub(), signal: NEVER, stop: NEVER, ...more },
  });
  const lines = readFileSync(join(outDir, "metrics.jsonl"), "utf8").trim().split("\n");
  return { ...result, outDir, metrics: lines.map((line) => JSON.parse(line) as Metrics) };
}

/** What differs from run to run in any case. */
const untimed = (metrics: Metrics | undefined) =>
  Object.fromEntries(Object.entries(metrics ?? {}).filter(([name]) => !/^(timing_s|perf)\//.test(name)));

/** A policy that is not the student, and the run that made it. */
let teacher = "";
let source = "";

beforeAll(async () => {
  const made = await run("teacher", runExperiment, ["optimizer.lr=3e-3"]);
  teacher = join(made.outDir, "policy");
  source = made.runId;
}, 120_000);

describe("a stage with a teacher", () => {
  const stage = (settings: string) => [`sft.stages=[{objective = "distill", teacher = "${teacher}", ${settings}}]`];
  const demonstrations = ["sft.demonstrations=64", "sft.batch=16"];

  test.each(["forward", "js"])(
    "%s: on demonstrations, the divergence falls",
    async (divergence) => {
      const of = (name: string, steps: number) =>
        run(`${divergence}-${name}`, runSft, [
          ...stage(`divergence = "${divergence}", steps = ${steps}, lr = 1e-3, weight = 0.8, topK = 8`),
          ...demonstrations,
        ]);
      const [short, long] = [await of("short", 1), await of("long", 40)];
      const [first, last] = [short, long].map(({ metrics }) => metrics.at(-1) ?? {});
      expect(first?.["distill/top_mass"]).toBeGreaterThan(0.9);
      expect(first?.["distill/divergence"]).toBeGreaterThan(0);
      // The mean over the last 20 steps of the long stage.
      expect(last?.["distill/divergence"]).toBeLessThan(0.9 * (first?.["distill/divergence"] as number));
      const mixed = 0.2 * (first?.["distill/sft_loss"] as number) + 0.8 * (first?.["distill/divergence"] as number);
      expect(first?.["distill/loss"]).toBeCloseTo(mixed, 5);
    },
    120_000,
  );

  test("on all episodes of a run, at another temperature", async () => {
    const settings = `trajectories = "${source}", episodes = "all", weight = 1, temperature = 2, steps = 4, lr = 1e-4`;
    const { metrics } = await run("episodes", runSft, stage(settings));
    expect(metrics.at(-1)?.["distill/divergence"]).toBeGreaterThan(0);
  }, 60_000);

  test("from random weights it takes the teacher's tokenizer", async () => {
    const random = 'sft.stages=[{objective = "distill", teacher = "models/shell-start", steps = 2, lr = 1e-3}]';
    const file = join(import.meta.dir, "../../experiments/shell-sft.toml");
    const loaded = loadExperiment({ files: [file], overrides: [...SETTINGS, random, ...demonstrations] });
    const outDir = join(place, "random");
    mkdirSync(outDir);
    const { experiment, toml, hash: configHash } = loaded;
    const options = { experiment, toml, configHash, outDir, serve: false, storePath, hub: new EventHub() };
    expect((await runSft({ ...options, signal: NEVER, stop: NEVER })).status).toBe("finished");
    const tokenizer = (folder: string) => readFileSync(join(folder, "tokenizer.json"), "utf8");
    expect(tokenizer(join(outDir, "policy"))).toBe(tokenizer("models/shell-start"));
  }, 60_000);

  test("a teacher with other tokens is refused, and both are named", async () => {
    const other = join(place, "other");
    cpSync("models/shell-start", other, { recursive: true });
    const tokenizer = JSON.parse(readFileSync(join(other, "tokenizer.json"), "utf8"));
    const { vocab } = tokenizer.model;
    const [first, second] = Object.keys(vocab).slice(-2) as [string, string];
    [vocab[first], vocab[second]] = [vocab[second], vocab[first]];
    writeFileSync(join(other, "tokenizer.json"), JSON.stringify(tokenizer));
    const named = new RegExp(`token \\d+ is .* for the teacher ${other} and .* for models/shell-start`);
    const settings = [`sft.stages=[{objective = "distill", teacher = "${other}", steps = 2}]`, ...demonstrations];
    await expect(run("mismatch", runSft, settings)).rejects.toThrow(named);
    const onPolicy = [`distillation={teacher = "${other}"}`];
    await expect(run("mismatch-run", runExperiment, onPolicy)).rejects.toThrow(named);
  }, 60_000);
});

describe("a teacher that judges what the policy samples", () => {
  const taught = (settings: string) => `distillation={teacher = "${teacher}", ${settings}}`;
  const DETERMINISTIC = ["deterministic=true", "trainer.minibatches=2"];

  test("in the reward, alone: equal groups teach too, and a run is the same to the bit when it is repeated", async () => {
    const settings = [taught("rl = 0"), ...DETERMINISTIC];
    const [first, second] = [await run("pure", runExperiment, settings), await run("pure-2", runExperiment, settings)];
    for (const metrics of first.metrics.slice(1)) {
      expect(metrics["distill/reverse_kl"]).toBeGreaterThan(0);
      expect(metrics["actor/updates"]).toBe(2);
    }
    expect(first.metrics.map(untimed)).toEqual(second.metrics.map(untimed));
  }, 120_000);

  test("in the loss, beside rewards, with rollout ahead and two engines", async () => {
    const { metrics } = await run("loss", runExperiment, [
      ...[taught('in = "loss", divergence = "js", topK = 4, weight = 0.5'), "async.ratio=1", "trainer.steps=3"],
      'engine.devices=["cpu", "cpu"]',
    ]);
    for (const row of metrics.slice(1)) expect(row["distill/loss"]).toBeGreaterThan(0);
  }, 120_000);

  test("a teacher's engine that is killed is started again and says the same", async () => {
    const student = policyFromFolder("models/shell-start");
    const file = join(import.meta.dir, "../../experiments/shell.toml");
    const { experiment } = loadExperiment({ files: [file], overrides: SETTINGS });
    let restarts = 0;
    const options = teacherOptions(teacher, student, experiment, place);
    const engine = await EngineClient.start(options, () => restarts++, "teacher");
    try {
      const sequences = [student.format.encodePrompt("delete the file notes.txt")];
      const asked = { temperature: 1, top: 3, vocabularySize: 512 };
      const first = await engine.score(sequences, asked);
      const again = engine.score(sequences, asked);
      process.kill(await engine.pid(), "SIGKILL");
      expect(await again).toEqual(first);
      expect(await engine.score(sequences, asked)).toEqual(first);
      expect(restarts).toBe(1);
    } finally {
      await engine.stop();
    }
  }, 60_000);

  test("behind an address: `ale serve --teacher` tells what the engine would", async () => {
    using workspace = new Workspace();
    const served = workspace.ale("serve", "--port", "0", "--no-sandboxes", "--teacher", teacher, "--json");
    let ended: ReturnType<typeof finish> | undefined;
    const { url, tokenFile } = await new Promise<{ url: string; tokenFile: string }>((resolve) => {
      let heard = "";
      ended = finish(served, (text) => {
        heard += text;
        if (heard.trim().endsWith("}")) resolve(JSON.parse(heard));
      });
    });
    try {
      process.env.ALE_TEST_TEACHER_KEY = readFileSync(tokenFile, "utf8").trim();
      const server = 'server = {model = "teacher", apiKeyEnv = "ALE_TEST_TEACHER_KEY", retries = 0}';
      const remote = `distillation={teacher = "${url}/v1", rl = 0, ${server}}`;
      const [near, far] = [
        await run("near", runExperiment, [taught("rl = 0"), "trainer.steps=1"]),
        await run("far", runExperiment, [remote, "trainer.steps=1"]),
      ];
      for (const name of ["distill/reverse_kl", "actor/grad_norm"]) {
        const [here, there] = [near, far].map(({ metrics }) => metrics.at(-1)?.[name] as number);
        expect(Math.abs((there as number) / (here as number) - 1)).toBeLessThan(1e-4);
      }
    } finally {
      served.kill("SIGINT");
      await ended;
    }
  }, 120_000);
});

describe("a stage that revisits", () => {
  const STAGES = [
    "{steps = 20, lr = 1e-3}",
    "{steps = 40, lr = 1e-4, revisit = {tasks = 9, samples = 4, share = 0.5}}",
  ];
  const settings = [`sft.stages=[${STAGES}]`, "sft.demonstrations=24", "sft.batch=8", "deterministic=true"];

  test("tries tasks, keeps its shortest solutions, and goes on with the same after an interrupt", async () => {
    const whole = await run("revisit", runSft, settings);
    const row = whole.metrics.at(-1) ?? {};
    expect(row["revisit/success/mean"]).toBeGreaterThan(0);
    expect((row["revisit/own"] as number) + (row["revisit/demonstrations"] as number)).toBe(24);
    expect(row["revisit/own"]).toBeLessThanOrEqual(9);
    await using store = await openStore(storePath, { mode: "read" });
    const tried: { group: string; reward: number }[] = [];
    for await (const { groupId, reward } of store.episodes({ runId: whole.runId, purpose: "train", step: 21 }))
      tried.push({ group: groupId, reward });
    expect(tried).toHaveLength(9 * 4);
    const solved = new Set(tried.filter(({ reward }) => reward >= 1).map(({ group }) => group)).size;
    expect(row["revisit/solved_tasks"]).toBeCloseTo(solved / 9, 9);
    expect(row["revisit/own"]).toBe(Math.min(solved, 12));

    const stop = new AbortController();
    const hub = new EventHub();
    hub.subscribe(({ event }) => {
      if (event.type === "step.finished" && event.step === 40) stop.abort();
    });
    const cut = await run("revisit-cut", runSft, settings, { hub, stop: stop.signal });
    expect(cut.status).toBe("interrupted");
    const resumed = await run("revisit-cut", runSft, settings, { resumeRunId: cut.runId });
    expect(resumed.status).toBe("finished");
    expect(untimed(resumed.metrics.at(-1))).toEqual(untimed(row));
  }, 240_000);
});
