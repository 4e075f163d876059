import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { getPriority, tmpdir } from "node:os";
import { join } from "node:path";
import { firstTokens } from "../../src/core/generation.ts";
import { EngineLost } from "../../src/device/engine-client.ts";
import { EnginePool } from "../../src/device/engine-pool.ts";
import { ARCHITECTURES, configToHuggingFace } from "../../src/models/config.ts";
import type { SupervisedJob } from "../../src/trainer/update.ts";

const MODEL = configToHuggingFace({
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: 64,
  hiddenSize: 32,
  layers: 2,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  intermediateSize: 64,
  normEps: 1e-5,
  ropeTheta: 10000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 64,
});

const SETTINGS = {
  modelConfig: MODEL,
  weights: { kind: "random", seed: 1 },
  ...{ threads: 1, slots: 4, context: 64, microBatchTokens: 256, deterministic: true },
} as const;

const SAMPLING = { temperature: 1, greedy: false, maxTokens: 12, stopIds: [] };
const PROMPT = Int32Array.of(1, 5, 9, 2);

const job: SupervisedJob = {
  kind: "supervised",
  sequences: [Int32Array.of(1, 5, 9, 2, 7, 7, 7), Int32Array.of(1, 6, 8, 2, 3)],
  weights: [Float32Array.of(0, 0, 0, 0, 0.2, 0.2, 0.2), Float32Array.of(0, 0, 0, 0, 0.4)],
  optimizer: { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 },
};

describe.each([1, 2])("%d engines", (size) => {
  const folder = mkdtempSync(join(tmpdir(), "ale-engine-"));
  const restarts: string[] = [];
  let engine: EnginePool;

  const generate = async (noiseKey: string, prompt = PROMPT) => {
    await using session = await engine.open(noiseKey);
    return await session.generate(prompt, SAMPLING);
  };
  const kill = async (rank: number) => process.kill((await engine.pids())[rank] as number, "SIGKILL");
  const restarted = async (times: number) => {
    while (restarts.length < times) await Bun.sleep(1);
  };

  beforeAll(async () => {
    engine = await EnginePool.start(
      {
        devices: new Array<string>(size).fill("cpu"),
        folder,
        sequences: 8,
        engine: SETTINGS,
      },
      ({ device }) => restarts.push(device),
    );
  });

  afterAll(async () => {
    await engine.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  test("engines go behind control where the processor is busy", async () => {
    for (const pid of await engine.pids()) expect(getPriority(pid)).toBe(Math.min(19, getPriority() + 5));
  });

  test("the same noise key gives the same answer, alone and among others, whatever engine gives it", async () => {
    const alone = await generate("a");
    const [first, ...others] = await Promise.all(["a", "b", "c", "d", "e"].map((key) => generate(key)));
    expect(first).toEqual(alone);
    expect(others.some((other) => other.ids.join() !== alone.ids.join())).toBe(true);
    // Other prompts take the places on the engine that gave the first answer, so the next one comes from another.
    const prompts = Array.from({ length: 6 }, (_, i) => Int32Array.of(1, 5, i));
    const all = await Promise.all([...prompts.map((prompt) => generate("x", prompt)), generate("a")]);
    expect(all.at(-1)).toEqual(alone);
    const stats = await engine.stats();
    expect(stats).toHaveLength(size);
    for (const { sampledTokens, generateMs, wallMs } of stats) {
      expect(sampledTokens).toBeGreaterThan(0);
      expect(generateMs).toBeLessThan(wallMs);
    }
  });

  test("a listener hears the tokens as they come and ends the answer; the sequence goes on from there", async () => {
    const whole = await generate("listened");
    for (const count of [1, 5, 11, 12]) {
      await using session = await engine.open("listened");
      const heard: [number, number][] = [];
      const answer = await session.generate(PROMPT, SAMPLING, undefined, (...token) => heard.push(token) === count);
      expect(answer).toEqual(firstTokens(whole, count));
      expect(heard).toEqual([...answer.ids].map((id, t) => [id, answer.logprobs[t] as number]));
      const rest = await session.generate(new Int32Array(0), { ...SAMPLING, maxTokens: 13 - count });
      expect([...rest.ids].slice(0, -1)).toEqual([...whole.ids.slice(count)]);
    }
    await using session = await engine.open("listened");
    expect(await session.generate(PROMPT, SAMPLING, undefined, () => false)).toEqual(whole);
  });

  test("an update lowers the loss and publishes a version that answers carry", async () => {
    const first = await engine.update(job, 1);
    let last = first;
    for (let version = 2; version <= 20; version++) last = await engine.update(job, version);
    expect(last.loss).toBeLessThan(first.loss * 0.7);
    expect(engine.version).toBe(20);
    for (const key of ["a", "b", "c"]) expect([...(await generate(key)).versions]).toEqual(new Array(12).fill(20));
    expect((await engine.stats()).every(({ trainMs }) => trainMs > 0)).toBe(true);
  });

  test("engines killed at any moment are started again; no update is lost or doubled, the rest goes on", async () => {
    const before = await generate("replay");
    const waiting = ["lost", "kept"].map((key, i) => generate(key, Int32Array.of(1, i)).catch((error) => error));
    await Bun.sleep(1);
    await kill(0);
    const [lost, kept] = await Promise.all(waiting);
    expect(lost instanceof EngineLost || lost.ids !== undefined).toBe(true);
    if (size > 1) expect(kept.ids).toHaveLength(12);
    // The answer may have come before the end was seen: a session opened now may still belong to the dead process.
    await restarted(1);
    expect(await generate("replay")).toEqual(before);

    const folderOf = (name: string) => join(folder, name);
    let version = 20;
    await engine.save(folderOf("before"));
    for (const [i, delay] of [0, 1, 2, 4, 7, 11].entries()) {
      const killed = engine.update(job, ++version);
      setTimeout(() => kill(i % size), delay);
      expect((await killed).updates).toBe(1);
      expect(engine.version).toBe(version);
      await restarted(i + 2);
    }
    await engine.save(folderOf("killed"));
    // The same updates, undisturbed, from where those began.
    const undisturbed = await EnginePool.start({
      devices: new Array<string>(size).fill("cpu"),
      folder: mkdtempSync(folderOf("undisturbed-")),
      sequences: 8,
      engine: {
        ...SETTINGS,
        weights: { kind: "checkpoint", folder: folderOf("before"), version: 20 },
        deterministic: false,
      },
    });
    for (version = 21; version <= 26; version++) await undisturbed.update(job, version);
    await undisturbed.save(folderOf("expected"));
    await undisturbed.stop();
    for (const file of ["model.safetensors", "optimizer.safetensors"]) {
      const [killed, expected] = ["killed", "expected"].map((name) => readFileSync(join(folderOf(name), file)));
      expect(Bun.hash(killed as Buffer)).toBe(Bun.hash(expected as Buffer));
    }
  }, 60_000);

  test("generation and training agree", async () => {
    const answers = await Promise.all(["p", "q", "r"].map((key) => generate(key)));
    const sequences = answers.map(({ ids }) => Int32Array.of(...PROMPT, ...ids));
    const { max, layouts } = await engine.probeParity(sequences);
    expect(max).toBeLessThan(1e-4);
    for (const { tokens } of Object.values(layouts)) expect(tokens).toBeGreaterThan(10);
  });
});

/** Processes of engines that this one has started. */
function startedEngines(): number[] {
  const read = (file: string) => {
    try {
      return readFileSync(file, "utf8");
    } catch {
      return ""; // it ended meanwhile
    }
  };
  const tasks = readdirSync("/proc/self/task").map((task) => `/proc/self/task/${task}/children`);
  const children = tasks.flatMap((file) => read(file).split(" ").filter(Boolean).map(Number));
  return children.filter((pid) => read(`/proc/${pid}/cmdline`).includes("=engine"));
}

/** Starts two engines and kills, `times` times, one that has not got its model yet. */
async function startAndKill(folder: string, times: number) {
  const restarts: string[] = [];
  const options = { devices: ["cpu", "cpu"], folder, sequences: 8, engine: SETTINGS };
  const pool = EnginePool.start(options, ({ reason }) => restarts.push(reason));
  pool.catch(() => {});
  const killed = new Set<number>();
  while (killed.size < times) {
    const next = startedEngines().find((pid) => !killed.has(pid));
    if (next !== undefined) {
      process.kill(next, "SIGKILL");
      killed.add(next);
    }
    await Bun.sleep(1);
  }
  return { pool, restarts };
}

test("an engine that is killed while it starts is started again, but not for ever", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ale-engine-"));
  const { pool, restarts } = await startAndKill(folder, 2);
  const engine = await pool;
  expect(restarts).toEqual(["signal SIGKILL", "signal SIGKILL"]);
  await using session = await engine.open("a");
  expect((await session.generate(PROMPT, SAMPLING)).ids).toHaveLength(12);
  await engine.stop();
  const { pool: hopeless } = await startAndKill(folder, 3);
  await expect(hopeless).rejects.toThrow("ended 3 times while it was starting, last with signal SIGKILL");
  expect(startedEngines()).toEqual([]);
  rmSync(folder, { recursive: true, force: true });
}, 60_000);
