/**
 * `bun bench/data-parallel.ts [--size NAME] [--engines N] [--rounds N] [--updates N]`: N engines of one thread beside one
 * engine of N threads: time of an update, sampled tokens per second, and what the engines' meetings cost. Both are real
 * pools of engine processes and take turns; reported are medians of the rounds and ratios.
 *
 * An update has two minibatches of 32 sequences of 64 tokens. A rollout has 32 groups of 8 sequences, 25 tokens of prompt
 * shared by a group, 12 sampled tokens each; tools take no time.
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MODEL_SIZES } from "../src/cli/benches/model-sizes.ts";
import { composeAlgorithm } from "../src/config/composition.ts";
import { ExperimentSchema } from "../src/config/experiment.ts";
import { Rng } from "../src/core/rng.ts";
import { EnginePool } from "../src/device/engine-pool.ts";
import { ownStretch } from "../src/device/shares.ts";
import { configFromPreset, configToHuggingFace, type DecoderConfig } from "../src/models/config.ts";
import { parameterLayout } from "../src/models/parameters.ts";
import { allocateFloat32 } from "../src/runtime/memory.ts";
import { GradientSum } from "../src/trainer/optimizer.ts";
import type { PolicyJob } from "../src/trainer/update.ts";
import { median } from "./peers.ts";

const SEQUENCES = 64;
const LENGTH = 65;
const GROUPS = 32;
const GROUP_SIZE = 8;
const PROMPT = 25;
const ANSWER = 12;

const { values: options } = parseArgs({
  options: {
    size: { type: "string", default: "shell" },
    engines: { type: "string", default: "2" },
    rounds: { type: "string", default: "7" },
    updates: { type: "string", default: "3" },
  },
});
const config = chooseModel(options.size);
const engines = Number(options.engines);
const rng = new Rng("data-parallel");
let version = 0;

function chooseModel(name: string): DecoderConfig {
  const preset = join(import.meta.dir, "../models/shell.toml");
  if (name === "shell") return configFromPreset(readFileSync(preset, "utf8"), preset);
  const size = MODEL_SIZES.find((candidate) => candidate.name === name);
  if (size === undefined) throw new Error(`--size: shell, ${MODEL_SIZES.map((each) => each.name).join(", ")}`);
  return size.config;
}

function tokens(length: number): Int32Array {
  return Int32Array.from({ length }, () => rng.int(0, config.vocabularySize - 1));
}

function makeJob(): PolicyJob {
  const sequences = Array.from({ length: SEQUENCES }, () => tokens(LENGTH));
  const { algorithm } = ExperimentSchema.parse({ algorithm: { type: "grpo" } });
  return {
    kind: "policy",
    sequences,
    masks: sequences.map(() => Uint8Array.from({ length: LENGTH }, (_, t) => (t > PROMPT ? 1 : 0))),
    behaviour: sequences.map(() => new Float32Array(LENGTH).fill(-Math.log(config.vocabularySize))),
    advantages: sequences.map((_, i) => new Float32Array(LENGTH).fill(i % 2 === 0 ? 1 : -1)),
    shapedRewards: sequences.map((_, i) => (i + 1) % 2),
    turnIds: sequences.map(() => Int32Array.from({ length: LENGTH }, (_, t) => (t > PROMPT ? 0 : -1))),
    rewards: sequences.map((_, i) => (i + 1) % 2),
    groups: sequences.map(() => 0),
    algorithm: composeAlgorithm(algorithm),
    ...{ temperature: 1, minibatches: 2, epochs: 1, orderKey: "bench" },
    versions: sequences.map(() => new Int32Array(LENGTH)),
    kvOldest: sequences.map(() => new Int32Array(LENGTH)),
    parityLimits: { max: 0, mean: 0, kl: 0 },
    optimizer: { lr: 1e-5, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 },
  };
}

function startPool(folder: string, devices: number, threads: number): Promise<EnginePool> {
  return EnginePool.start({
    devices: new Array<string>(devices).fill("cpu"),
    folder,
    sequences: GROUPS * GROUP_SIZE,
    engine: {
      modelConfig: configToHuggingFace(config),
      weights: { kind: "random", seed: 1 },
      threads,
      slots: 32,
      context: 128,
      microBatchTokens: 2048,
      deterministic: false,
    },
  });
}

interface Round {
  readonly updateMs: number;
  /** Per update, the mean over the engines. */
  readonly meetingMs: number;
  readonly tokensPerSecond: number;
}

async function rollOut(pool: EnginePool): Promise<void> {
  const prompts = Array.from({ length: GROUPS }, () => tokens(PROMPT));
  const sampling = { temperature: 1, greedy: false, maxTokens: ANSWER, stopIds: [] };
  const answers = prompts.flatMap((prompt, g) =>
    Array.from({ length: GROUP_SIZE }, async (_, member) => {
      await using session = await pool.open(`${g}/${member}`);
      await session.generate(prompt, sampling);
    }),
  );
  await Promise.all(answers);
}

async function measure(pool: EnginePool, job: PolicyJob, updates: number): Promise<Round> {
  await pool.stats();
  const started = performance.now();
  for (let i = 0; i < updates; i++) await pool.update(job, ++version);
  const updated = performance.now();
  const stats = await pool.stats();
  const begun = performance.now();
  await rollOut(pool);
  const seconds = (performance.now() - begun) / 1000;
  return {
    updateMs: (updated - started) / updates,
    meetingMs: stats.reduce((sum, { syncMs }) => sum + syncMs, 0) / stats.length / updates,
    tokensPerSecond: (GROUPS * GROUP_SIZE * ANSWER) / seconds,
  };
}

/** Milliseconds an engine takes to add the gradients of all up, for its stretch. */
function measureSum(): number {
  const { begin, end } = ownStretch(parameterLayout(config).length, 0, engines);
  const sum = new GradientSum(
    Array.from({ length: engines }, () => allocateFloat32(end - begin)),
    1,
  );
  const times = Array.from({ length: 20 }, () => {
    const started = performance.now();
    sum.collect();
    return performance.now() - started;
  });
  sum.release();
  return median(times);
}

const folder = mkdtempSync(join(tmpdir(), "ale-data-parallel-"));
const names = [`1 engine, ${engines} threads`, `${engines} engines, 1 thread`];
const pools = [
  await startPool(mkdtempSync(join(folder, "one-")), 1, engines),
  await startPool(mkdtempSync(join(folder, "many-")), engines, 1),
];
try {
  const job = makeJob();
  for (const pool of pools) await measure(pool, job, 2);
  const rounds = pools.map((): Round[] => []);
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [i, pool] of pools.entries()) rounds[i]?.push(await measure(pool, job, Number(options.updates)));
  }
  const load = loadavg().map((value) => value.toFixed(2));
  const { parameterCount } = parameterLayout(config);
  console.log(
    `${options.size}, ${parameterCount} parameters, ${options.rounds} rounds of ${options.updates} updates, load ${load.join(" ")}`,
  );
  for (const [i, own] of rounds.entries()) {
    const of = (value: (round: Round) => number) => median(own.map(value));
    console.log(
      `${names[i]}: update ${of((r) => r.updateMs).toFixed(1)} ms, of which in meetings ${of((r) => r.meetingMs).toFixed(1)} ms; ` +
        `${of((r) => r.tokensPerSecond).toFixed(0)} sampled tokens/s`,
    );
  }
  const [one, many] = rounds as [Round[], Round[]];
  const ratio = (of: (a: Round, b: Round) => number) => median(one.map((a, i) => of(a, many[i] as Round))).toFixed(2);
  console.log(`adding gradients up takes ${(2 * measureSum()).toFixed(2)} ms of an update (2 minibatches)`);
  console.log(
    `speed of ${names[1]} / ${names[0]}: update ${ratio((a, b) => a.updateMs / b.updateMs)}, rollout ${ratio((a, b) => b.tokensPerSecond / a.tokensPerSecond)}`,
  );
} finally {
  for (const pool of pools) await pool.stop();
  rmSync(folder, { recursive: true, force: true });
}
