/** Engines that train and generate at once: nothing waits for an update, nothing is lost, and the update is the same. */

import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Generation } from "../../src/core/ports.ts";
import { Rng } from "../../src/core/rng.ts";
import { eachSpan, type Span } from "../../src/core/timeline.ts";
import { EngineLost } from "../../src/device/engine-client.ts";
import { EnginePool, type PoolStats } from "../../src/device/engine-pool.ts";
import type { PoolPlacement } from "../../src/device/pool-placement.ts";
import { ARCHITECTURES, configToHuggingFace } from "../../src/models/config.ts";
import { readSafetensors } from "../../src/models/safetensors.ts";
import type { SupervisedJob } from "../../src/trainer/update.ts";

const VOCABULARY = 64;
const CONTEXT = 96;
const MODEL = configToHuggingFace({
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: VOCABULARY,
  ...{ hiddenSize: 32, layers: 2, heads: 2, kvHeads: 1, headDim: 16, intermediateSize: 64 },
  ...{ normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, tiedEmbeddings: true, contextLength: CONTEXT },
});
const MICRO_BATCHES = 60;
const rng = new Rng("multiplex");
const tokens = (length: number) => Int32Array.from({ length }, () => rng.int(0, VOCABULARY - 1));
const sequences = Array.from({ length: MICRO_BATCHES }, () => tokens(60));
const JOB: SupervisedJob = {
  kind: "supervised",
  sequences,
  weights: sequences.map(({ length }) => new Float32Array(length).fill(0.01)),
  optimizer: { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 },
};
const SAMPLING = { temperature: 1, greedy: false, maxTokens: 20, stopIds: [] };
const EPISODES = 6;
const UPDATES = 3;

const folder = mkdtempSync(join(tmpdir(), "ale-multiplex-"));
const pools: EnginePool[] = [];
afterEach(() => Promise.all(pools.splice(0).map((pool) => pool.stop())));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface StartOptions {
  readonly placement?: PoolPlacement;
  readonly trainShare?: number;
  readonly executor?: "graph" | "layers";
}

async function start(
  size: number,
  { placement = { kind: "shared" }, trainShare = 0.5, executor = "graph" }: StartOptions = {},
  onRestart = () => {},
): Promise<EnginePool> {
  const pool = await EnginePool.start(
    {
      devices: new Array<string>(size).fill("cpu"),
      folder: mkdtempSync(join(folder, "pool-")),
      sequences: EPISODES,
      engine: {
        modelConfig: MODEL,
        weights: { kind: "random", seed: 1 },
        ...{ threads: 1, slots: 4, context: CONTEXT, microBatchTokens: 60, deterministic: false, timeline: true },
        ...{ trainShare, executor },
      },
      placement,
    },
    onRestart,
  );
  pools.push(pool);
  return pool;
}

/** An episode of three turns; like one of a run it starts again when its engine is lost. */
async function episode(pool: EnginePool, noiseKey: string, lost: () => void): Promise<Generation[]> {
  const rng = new Rng(noiseKey);
  const contexts = [12, 1, 3].map((length) => Int32Array.from({ length }, () => rng.int(0, VOCABULARY - 1)));
  for (;;) {
    await using session = await pool.open(noiseKey);
    try {
      const answers: Generation[] = [];
      for (const context of contexts) answers.push(await session.generate(context, SAMPLING));
      return answers;
    } catch (error) {
      if (!(error instanceof EngineLost)) throw error;
      lost();
    }
  }
}

/** Updates the pool while episodes follow one another, and returns what these answered. */
async function updateBeside(pool: EnginePool, updates: number, disturb: (update: number) => void = () => {}) {
  let over = false;
  let lost = 0;
  const answers: Generation[][] = [];
  const episodes = Array.from({ length: EPISODES }, async (_, i) => {
    for (let round = 0; !over || round === 0; round++) {
      answers.push(await episode(pool, `${i}/${round}`, () => lost++));
    }
  });
  // Some are in the middle of an answer when the first update begins.
  await Bun.sleep(20);
  for (let version = 1; version <= updates; version++) {
    const update = pool.update(JOB, version);
    disturb(version);
    expect((await update).updates).toBe(1);
  }
  over = true;
  await Promise.all(episodes);
  return { answers, lost };
}

/** The weights of the published version. */
async function weightsOf(pool: EnginePool, name: string): Promise<Float32Array> {
  const place = join(folder, name);
  await pool.save(place);
  const { tensors } = readSafetensors(join(place, "model.safetensors"));
  return Float32Array.from(
    [...tensors.values()].flatMap((tensor) => {
      const values = new Float32Array(tensor.shape.reduce((size, axis) => size * axis, 1));
      tensor.readElements(0, values);
      return [...values];
    }),
  );
}

/** Hashes of weights and optimizer state. */
async function bitsOf(pool: EnginePool, name: string): Promise<(number | bigint)[]> {
  const place = join(folder, name);
  await pool.save(place);
  return ["model.safetensors", "optimizer.safetensors"].map((file) => Bun.hash(readFileSync(join(place, file))));
}

function spansOf(stats: PoolStats): Span[] {
  return stats.spans === undefined ? [] : [...eachSpan(stats.spans)];
}

/** Decode steps that lie between two micro-batches of one update. */
function decodedInside(spans: readonly Span[]): number {
  const updates = spans.filter(({ name }) => name === "update");
  const inside = (outer: Span, name: string) =>
    spans.filter((span) => span.name === name && span.begin >= outer.begin && span.end <= outer.end);
  return updates.reduce((sum, update) => {
    const batches = inside(update, "backward");
    const [first, last] = [batches.at(0), batches.at(-1)];
    if (first === undefined || last === undefined) return sum;
    return sum + inside(update, "decode").filter(({ begin, end }) => begin > first.end && end < last.begin).length;
  }, 0);
}

function expectDisjoint(spans: readonly Span[]): void {
  const parts = spans.filter(({ name }) => name !== "update").sort((a, b) => a.begin - b.begin);
  for (const [i, span] of parts.entries()) {
    // Times since 1970 as float64 have steps of a quarter of a microsecond.
    expect(span.begin).toBeGreaterThan((parts[i - 1]?.end ?? 0) - 1e-3);
  }
}

/** Every token has the version that sampled it, and its cache none that is younger. */
function expectVersions(answers: readonly (readonly Generation[])[], updates: number): void {
  for (const turns of answers) {
    let version = 0;
    for (const { versions, kvOldest, ids } of turns) {
      expect(ids).toHaveLength(20);
      for (const [t, sampledBy] of versions.entries()) {
        expect(sampledBy).toBeGreaterThanOrEqual(version);
        expect(kvOldest[t]).toBeLessThanOrEqual(sampledBy);
        expect(kvOldest[t]).toBeGreaterThanOrEqual(0);
        version = sampledBy;
      }
      expect(new Set(kvOldest).size).toBe(1);
    }
    expect(version).toBeLessThanOrEqual(updates);
  }
}

const undisturbed = new Map<number, (number | bigint)[]>();
async function expectedBits(size: number): Promise<(number | bigint)[]> {
  const known = undisturbed.get(size);
  if (known !== undefined) return known;
  const pool = await start(size);
  for (let version = 1; version <= UPDATES; version++) await pool.update(JOB, version);
  const bits = await bitsOf(pool, `undisturbed-${size}`);
  undisturbed.set(size, bits);
  return bits;
}

describe.each([1, 2])("%d engines", (size) => {
  test("generate between the micro-operations of an update, which gives the same bits", async () => {
    const pool = await start(size);
    await pool.stats();
    const { answers } = await updateBeside(pool, UPDATES);
    expect(await bitsOf(pool, `beside-${size}`)).toEqual(await expectedBits(size));
    expect(answers.length).toBeGreaterThanOrEqual(EPISODES);
    expectVersions(answers, UPDATES);
    // An answer began under one version and ended under another.
    expect(answers.flat().some(({ versions }) => versions[0] !== versions.at(-1))).toBe(true);
    for (const stats of await pool.stats()) {
      const spans = spansOf(stats);
      expect(decodedInside(spans)).toBeGreaterThan(UPDATES * 10);
      expectDisjoint(spans);
      const { trainMs, generateMs, syncMs, idleMs, wallMs } = stats;
      expect(Math.min(trainMs, generateMs)).toBeGreaterThan(0);
      expect(trainMs + generateMs + syncMs + idleMs).toBeLessThanOrEqual(wallMs);
      const lasted = (...names: string[]) =>
        spans.filter(({ name }) => names.includes(name)).reduce((sum, { begin, end }) => sum + end - begin, 0);
      // Spans have times since 1970, whose steps are a quarter of a microsecond.
      expect(lasted("decode", "prefill")).toBeCloseTo(generateMs, 0);
      expect(lasted("backward", "optimizer")).toBeLessThan(trainMs + 1);
      expect(lasted("exchange")).toBeCloseTo(syncMs, 0);
    }
  });

  test("killed in the middle of both, the update is made once and no episode is lost", async () => {
    let restarts = 0;
    const pool = await start(size, {}, () => restarts++);
    const { answers, lost } = await updateBeside(pool, UPDATES, (update) => {
      setTimeout(async () => process.kill((await pool.pids())[update % size] as number, "SIGKILL"), 15);
    });
    expect(restarts).toBeGreaterThan(0);
    expect(lost).toBeGreaterThan(0);
    expectVersions(answers, UPDATES);
    expect(await bitsOf(pool, `killed-${size}`)).toEqual(await expectedBits(size));
  }, 60_000);

  test("messages are answered while an update is under way; a probe waits for its end", async () => {
    const pool = await start(size);
    const order: string[] = [];
    const done = (what: string) => () => void order.push(what);
    const update = pool.update(JOB, 1).then(done("update"));
    const probe = pool.probeParity(sequences.slice(0, 2)).then(done("probe"));
    await Promise.all([pool.stats().then(done("stats")), pool.save(join(folder, `early-${size}`)).then(done("save"))]);
    const controller = new AbortController();
    await using session = await pool.open("cancelled");
    const cancelled = session.generate(Int32Array.of(1, 2), SAMPLING, controller.signal).catch(done("cancelled"));
    controller.abort();
    await Promise.all([cancelled, update, probe]);
    expect(order.slice(0, 3).sort()).toEqual(["cancelled", "save", "stats"]);
    expect(order.slice(3)).toEqual(["update", "probe"]);
  });
});

test("layer by layer, an update beside generation gives the same bits", async () => {
  const [beside, alone] = [await start(1, { executor: "layers" }), await start(1, { executor: "layers" })];
  await updateBeside(beside, 1);
  await alone.update(JOB, 1);
  expect(await bitsOf(beside, "layers-beside")).toEqual(await bitsOf(alone, "layers-alone"));
});

/** How many updates each engine took part in, and how many decode steps it made. */
function workOf(stats: readonly PoolStats[]) {
  const count = (spans: readonly Span[], wanted: string) => spans.filter(({ name }) => name === wanted).length;
  return stats.map((each) => {
    const spans = spansOf(each);
    return { updates: count(spans, "update"), decodes: count(spans, "decode") };
  });
}

describe("split", () => {
  test.each([
    [2, 1],
    [3, 2],
  ])("of %d engines %d only train, the others only generate", async (size, trainers) => {
    const pool = await start(size, { placement: { kind: "split", trainers } });
    await pool.stats();
    const { answers } = await updateBeside(pool, UPDATES);
    expectVersions(answers, UPDATES);
    for (const [rank, { updates, decodes }] of workOf(await pool.stats()).entries()) {
      expect(updates).toBe(rank < trainers ? UPDATES : 0);
      expect(decodes > 0).toBe(rank >= trainers);
    }
    expect(await bitsOf(pool, `split-${size}`)).toEqual(await expectedBits(trainers));
    const { max } = await pool.probeParity(sequences.slice(0, 4));
    expect(max).toBeLessThan(1e-4);
  });

  test("whoever is killed, the update is made once and no episode is lost", async () => {
    let restarts = 0;
    const pool = await start(2, { placement: { kind: "split", trainers: 1 } }, () => restarts++);
    const { answers, lost } = await updateBeside(pool, UPDATES, (update) => {
      setTimeout(async () => process.kill((await pool.pids())[update % 2] as number, "SIGKILL"), 15);
    });
    expect(restarts).toBeGreaterThanOrEqual(2);
    expect(lost).toBeGreaterThan(0);
    expectVersions(answers, UPDATES);
    expect(await bitsOf(pool, "split-killed")).toEqual(await expectedBits(1));
  }, 60_000);

  test("is refused where nobody would generate", async () => {
    await expect(start(2, { placement: { kind: "split", trainers: 2 } })).rejects.toThrow("nobody would generate");
  });
});

describe("elastic", () => {
  test("trains on all engines when nothing is generated", async () => {
    const pool = await start(2, { placement: { kind: "elastic" } });
    await pool.stats();
    for (let version = 1; version <= UPDATES; version++) await pool.update(JOB, version);
    expect(workOf(await pool.stats()).map(({ updates }) => updates)).toEqual([UPDATES, UPDATES]);
    expect(await bitsOf(pool, "elastic-alone")).toEqual(await expectedBits(2));
  });

  test.each([false, true])(
    "trains on some while others generate; with engines killed: %p",
    async (kills) => {
      let restarts = 0;
      const pool = await start(2, { placement: { kind: "elastic" }, trainShare: 0.2 }, () => restarts++);
      await pool.stats();
      const { answers, lost } = await updateBeside(pool, UPDATES, (update) => {
        if (!kills) return;
        setTimeout(async () => process.kill((await pool.pids())[update % 2] as number, "SIGKILL"), 15);
      });
      expectVersions(answers, UPDATES);
      const work = workOf(await pool.stats());
      if (kills) expect(Math.min(restarts, lost)).toBeGreaterThan(0);
      // Nothing is known before the first update; in it training gets a fifth of the time, which is less than one engine's.
      else expect(work.reduce((sum, { updates }) => sum + updates, 0)).toBeLessThan(2 * UPDATES);
      const weights = await weightsOf(pool, `elastic-${kills}`);
      const alone = await start(1);
      for (let version = 1; version <= UPDATES; version++) await alone.update(JOB, version);
      const expected = await weightsOf(alone, `elastic-${kills}-alone`);
      // Of how many engines a sum of gradients comes shows in its last bits only.
      for (const [i, weight] of weights.entries())
        expect(Math.abs(weight - (expected[i] as number))).toBeLessThan(1e-4);
    },
    60_000,
  );
});
