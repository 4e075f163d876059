/**
 * `bun bench/multiplex.ts [--engines N] [--rounds N] [--batches N] [--latency MS] [--ratio N] [--micro-batch TOKENS]
 * [--simulate] [--json]`: the placements of engines of one thread under one workload, real engines beside the simulator. Rounds take turns;
 * reported are medians. Costs of the simulation are fitted to the spans that the real engines recorded; with `--simulate`
 * nothing else runs, at the costs of a quiet machine (ADR 3 and 8). Commands are simulated by waiting.
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Rng } from "../src/core/rng.ts";
import { eachSpan, type Span } from "../src/core/timeline.ts";
import { EnginePool } from "../src/device/engine-pool.ts";
import type { PoolPlacement } from "../src/device/pool-placement.ts";
import { configFromPreset, configToHuggingFace } from "../src/models/config.ts";
import type { SupervisedJob } from "../src/trainer/update.ts";
import { type Costs, SimulatedWorld } from "./multiplex-simulator.ts";
import { contextLength, drive, type Outcome, type Workload, type World } from "./multiplex-workload.ts";
import { median } from "./peers.ts";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    batches: { type: "string", default: "10" },
    latency: { type: "string", default: "50" },
    engines: { type: "string", default: "2" },
    ratio: { type: "string", default: "1" },
    "micro-batch": { type: "string", default: "512" },
    simulate: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
const ENGINES = Number(options.engines);
const SLOTS = 32;
const LENGTH = 64;
/** Sequences of an update: generation takes about twice as long as training. */
const SEQUENCES = 48;
const preset = join(import.meta.dir, "../models/shell.toml");
const model = configFromPreset(readFileSync(preset, "utf8"), preset);
const rng = new Rng("multiplex");
const tokens = (length: number) => Int32Array.from({ length }, () => rng.int(0, model.vocabularySize - 1));
const sequences = Array.from({ length: SEQUENCES }, () => tokens(LENGTH + 1));
const JOB: SupervisedJob = {
  kind: "supervised",
  sequences,
  weights: sequences.map(({ length }) => new Float32Array(length).fill(1e-4)),
  optimizer: { lr: 1e-6, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 },
};
const BASE: Workload = {
  batches: Number(options.batches),
  batch: 64,
  ratio: Number(options.ratio),
  ...{ turns: 4, prompt: 24, observation: 8, answer: 24 },
  latencyMs: Number(options.latency),
  seed: "0",
};

interface Mode {
  readonly name: string;
  readonly placement: PoolPlacement;
  readonly trainShare: number;
  readonly ratio: number;
}

const SHARED = { kind: "shared" } as const;
const MODES: readonly Mode[] = [
  { name: "synchronous", placement: SHARED, trainShare: 0.5, ratio: 0 },
  ...[0.05, 0.25, 0.5, 0.75, 0.95].map((trainShare) => ({
    name: `shared, trainShare ${trainShare}`,
    ...{ placement: SHARED, trainShare, ratio: BASE.ratio },
  })),
  ...Array.from({ length: ENGINES - 1 }, (_, i) => ({
    name: `split ${i + 1} : ${ENGINES - 1 - i}`,
    placement: { kind: "split" as const, trainers: i + 1 },
    ...{ trainShare: 0.5, ratio: BASE.ratio },
  })),
  { name: "elastic", placement: { kind: "elastic" }, trainShare: 0.5, ratio: BASE.ratio },
];

interface Result extends Outcome {
  readonly idle: number;
  /** Time from the end of a decode step or prefill of an engine to the next, where training came between. */
  readonly waits: readonly number[];
}

function startPool(folder: string, { placement, trainShare }: Mode): Promise<EnginePool> {
  return EnginePool.start({
    devices: new Array<string>(ENGINES).fill("cpu"),
    folder,
    sequences: 2 * BASE.batch,
    placement,
    engine: {
      modelConfig: configToHuggingFace(model),
      weights: { kind: "random", seed: 1 },
      ...{ threads: 1, slots: SLOTS, context: 256, microBatchTokens: Number(options["micro-batch"]) },
      ...{ trainShare, deterministic: false, timeline: true, updatesPerStep: 1 },
    },
  });
}

/** Real engines; commands are waited for in this process. */
function realWorld(pool: EnginePool, load: Workload, fail: (error: unknown) => void): World {
  const sampling = { temperature: 1, greedy: false, maxTokens: load.answer, stopIds: [] };
  return {
    now: () => performance.now(),
    after: (ms, then) => void setTimeout(then, ms),
    open: (episode) => {
      const session = pool.open(episode);
      return {
        answer: (turn, then) => {
          const context = tokens(contextLength(load, turn));
          session.then((open) => open.generate(context, sampling)).then(then, fail);
        },
        close: () => void session.then((open) => open.close()),
      };
    },
    update: (_, then) => void pool.update(JOB, ++version).then(then, fail),
  };
}
let version = 0;

const spans: Span[] = [];

async function measure(pool: EnginePool, mode: Mode, round: number): Promise<Result> {
  await pool.stats();
  const load = { ...BASE, ratio: mode.ratio, seed: String(round) };
  const outcome = await new Promise<Outcome>((resolve, reject) => {
    drive(realWorld(pool, load, reject), load, resolve);
  });
  const stats = await pool.stats();
  const share = (of: "idleMs" | "syncMs") => stats.reduce((sum, each) => sum + each[of] / each.wallMs, 0);
  const waits: number[] = [];
  for (const each of stats) {
    const own = each.spans === undefined ? [] : [...eachSpan(each.spans)];
    spans.push(...own);
    waits.push(...waitsOf(own));
  }
  return { ...outcome, idle: (share("idleMs") + share("syncMs")) / stats.length, waits };
}

/** How long generation stood still while training had its turns. */
function waitsOf(own: readonly Span[]): number[] {
  const inTime = own.filter(({ name }) => name !== "update").toSorted((a, b) => a.begin - b.begin);
  const waits: number[] = [];
  let since: number | undefined;
  let trained = false;
  for (const { name, begin, end } of inTime) {
    if (name === "decode" || name === "prefill") {
      if (since !== undefined && trained) waits.push(begin - since);
      since = end;
      trained = false;
    } else if (name === "backward" || name === "optimizer") trained = true;
    else since = undefined;
  }
  return waits;
}

/** Least squares: duration = first + second · amount. */
function fit(name: string): [number, number] {
  const own = spans.filter((span) => span.name === name);
  const mean = (of: (span: Span) => number) => own.reduce((sum, span) => sum + of(span), 0) / own.length;
  const [x, y] = [mean(({ amount }) => amount), mean(({ begin, end }) => end - begin)];
  const covariance = mean(({ amount, begin, end }) => (amount - x) * (end - begin - y));
  const slope =
    covariance /
    Math.max(
      1e-9,
      mean(({ amount }) => (amount - x) ** 2),
    );
  return [y - slope * x, slope];
}

function fitCosts(): Costs {
  const [stepMs, rowMs] = fit("decode");
  const [prefillMs, prefillTokenMs] = fit("prefill");
  const lasted = (name: string) => spans.filter((span) => span.name === name).map(({ begin, end }) => end - begin);
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return {
    ...{ stepMs, rowMs, prefillMs, prefillTokenMs },
    microBatchMs: mean(lasted("backward")),
    microBatches: Math.ceil((SEQUENCES * LENGTH) / Number(options["micro-batch"])),
    optimizerMs: mean(lasted("optimizer")) * 2,
  };
}

function simulate(mode: Mode, costs: Costs, round: number): Outcome & { readonly idle: number } {
  const load = { ...BASE, ratio: mode.ratio, seed: String(round) };
  const world = new SimulatedWorld({ engines: ENGINES, slots: SLOTS, ...mode }, costs, load);
  let outcome: Outcome | undefined;
  drive(world, load, (ended) => {
    outcome = ended;
  });
  world.run();
  if (outcome === undefined) throw new Error(`the simulation of "${mode.name}" came to a stop`);
  return { ...outcome, idle: world.idle };
}

const quantile = (values: readonly number[], q: number) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(q * values.length))] ?? 0;

/** The shell model on one thread of a quiet machine. */
const QUIET: Costs = {
  ...{ stepMs: 0.19, rowMs: 0.044, prefillMs: 0.1, prefillTokenMs: 0.035 },
  microBatchMs: (185 * Number(options["micro-batch"])) / 2048,
  microBatches: Math.ceil((SEQUENCES * LENGTH) / Number(options["micro-batch"])),
  optimizerMs: 2,
};

/** By mode and round. */
async function runAll(): Promise<Result[][]> {
  const folder = mkdtempSync(join(tmpdir(), "ale-multiplex-"));
  const results = MODES.map((): Result[] => []);
  try {
    for (let round = 0; round < Number(options.rounds); round++) {
      for (const [i, mode] of MODES.entries()) {
        const pool = await startPool(mkdtempSync(join(folder, "pool-")), mode);
        try {
          await measure(pool, { ...mode, name: "warm-up" }, -1);
          results[i]?.push(await measure(pool, mode, round));
        } finally {
          await pool.stop();
        }
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return results;
}

const results = options.simulate ? MODES.map(() => []) : await runAll();
const costs = options.simulate ? QUIET : fitCosts();
const table = MODES.map((mode, i) => {
  const own = results[i] ?? [];
  const predicted = Array.from({ length: Number(options.rounds) }, (_, round) => simulate(mode, costs, round));
  const of = (value: (outcome: Outcome & { readonly idle: number }) => number) => ({
    measured: own.length === 0 ? Number.NaN : median(own.map(value)),
    simulated: median(predicted.map(value)),
  });
  const waits = own.flatMap((result) => result.waits);
  return {
    name: mode.name,
    episodesPerSecond: of((outcome) => outcome.episodesPerSecond),
    staleness: of((outcome) => outcome.staleness),
    tokenAge: of((outcome) => outcome.tokenAge),
    idle: of((outcome) => outcome.idle),
    updateMs: of((outcome) => outcome.updateMs),
    waitMs: { p50: quantile(waits, 0.5), p99: quantile(waits, 0.99) },
  };
});
if (options.json) console.log(JSON.stringify({ costs, workload: BASE, modes: table }, null, 2));
else {
  const load = loadavg().map((value) => value.toFixed(2));
  console.log(`${options.rounds} rounds of ${BASE.batches} batches of ${BASE.batch} episodes, load ${load.join(" ")}`);
  console.log(
    `costs: ${JSON.stringify(costs, (_, value) => (typeof value === "number" ? Number(value.toFixed(3)) : value))}`,
  );
  console.log(
    "measured (simulated)          episodes/s      staleness       token age       idle          update ms    decode waits p50/p99 ms",
  );
  for (const { name, episodesPerSecond: e, staleness: s, tokenAge: a, idle, updateMs: u, waitMs } of table) {
    const pair = ({ measured, simulated }: { measured: number; simulated: number }, digits: number) =>
      `${Number.isNaN(measured) ? "" : measured.toFixed(digits)} (${simulated.toFixed(digits)})`.padEnd(16);
    console.log(
      `${name.padEnd(30)}${pair(e, 0)}${pair(s, 2)}${pair(a, 2)}${pair(idle, 2)}${pair(u, 0)}${waitMs.p50.toFixed(0)} / ${waitMs.p99.toFixed(0)}`,
    );
  }
}
