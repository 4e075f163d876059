/**
 * `bun bench/generation.ts [--model shell|small] [--python PATH] [--rounds N] [--steps N] [--threads N] [--rows 1,8,32]`
 *
 * 1. Decode steps (sampling included) beside PyTorch's eager mode; processes of their own that take turns, medians of the
 *    rounds. `shell` is the shipped model with contexts of 40 tokens; `small` has 6 layers of width 256 and 256 tokens.
 * 2. Prefill of a group of 8 with the same context beside that of one.
 * 3. The generation of one training step: 32 groups of 8 episodes, 25 tokens of prompt shared by a group, two answers of
 *    about 11 tokens, an observation of 10 tokens between them; tools take no time.
 */

import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { SamplingOptions } from "../src/core/ports.ts";
import { Rng } from "../src/core/rng.ts";
import { configFromPreset, type DecoderConfig } from "../src/models/config.ts";
import { ParameterStore } from "../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../src/models/parameters.ts";
import { GenerationEngine } from "../src/policy/generation/engine.ts";
import { median, Peer } from "./peers.ts";

const GROUPS = 32;
const GROUP_SIZE = 8;
/** Rounds until every cache has been in use. */
const WARM_UP = 4;

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    rounds: { type: "string", default: "11" },
    steps: { type: "string", default: "100" },
    threads: { type: "string", default: "2" },
    rows: { type: "string", default: "1,8,32" },
    model: { type: "string", default: "shell" },
    worker: { type: "boolean", default: false },
  },
});

const preset = join(import.meta.dir, "../models/shell.toml");
const shell = configFromPreset(readFileSync(preset, "utf8"), preset);
const small: DecoderConfig = {
  ...shell,
  ...{ hiddenSize: 256, layers: 6, heads: 4, kvHeads: 4, headDim: 64, intermediateSize: 768, contextLength: 512 },
};
const config = options.model === "small" ? small : shell;
const contextTokens = options.model === "small" ? 256 : 40;
const threads = Number(options.threads);

function newEngine(rows = 256): GenerationEngine {
  const store = ParameterStore.inMemory(parameterLayout(config));
  initializeParameters(config, store.layout, store.parameters(0), 1);
  store.publish(0, 0);
  return new GenerationEngine(config, store, { threads, slots: 32, rows, context: config.contextLength });
}

function tokens(rng: Rng, length: number): Int32Array {
  return Int32Array.from({ length }, () => rng.int(0, config.vocabularySize - 1));
}

function sampling(maxTokens: number): SamplingOptions {
  return { temperature: 1, greedy: false, maxTokens, stopIds: [] };
}

/** The Ale side: a line in (rows, steps), a line out (milliseconds of wall and of CPU time per step). */
async function work(): Promise<void> {
  const engine = newEngine();
  console.log("ale");
  for await (const line of console) {
    const [rows, steps] = line.split(" ").map(Number) as [number, number];
    for (let row = 0; row < rows; row++) {
      engine.open(row, `row ${row}`);
      const context = tokens(new Rng(`row ${row}`), contextTokens);
      // Rows that are ready first get some tokens more than the others.
      engine.submit({ sequenceId: row, context, sampling: sampling(steps + 64) });
    }
    while (engine.step().sampled.length < rows);
    const wall = performance.now();
    const cpu = process.cpuUsage();
    for (let step = 0; step < steps; step++) engine.step();
    const used = process.cpuUsage(cpu);
    const ms = (performance.now() - wall) / steps;
    for (let row = 0; row < rows; row++) engine.close(row);
    console.log(`${ms.toFixed(4)} ${((used.user + used.system) / 1000 / steps).toFixed(4)}`);
  }
}

async function compareDecode(rounds: number, steps: number): Promise<void> {
  const shape = {
    vocabulary: config.vocabularySize,
    hidden: config.hiddenSize,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    intermediate: config.intermediateSize,
    context: config.contextLength,
    start: contextTokens,
    threads,
  };
  const ale = new Peer([process.execPath, import.meta.path, "--worker", ...process.argv.slice(2)]);
  const torch = new Peer([options.python, join(import.meta.dir, "generation_torch.py"), JSON.stringify(shape)]);
  const names = [await ale.line(), await torch.line()];
  const hasTorch = names[1] !== "missing";
  if (!hasTorch) console.log(`${options.python} has no torch: Ale alone (give --python PATH for a comparison)`);
  const peers = hasTorch ? [ale, torch] : [ale];
  for (const rows of options.rows.split(",").map(Number)) {
    const results = peers.map((): number[][] => []);
    for (const peer of peers) await peer.ask(`${rows} ${steps}`);
    for (let round = 0; round < rounds; round++) {
      for (const [i, peer] of peers.entries()) results[i]?.push(await peer.ask(`${rows} ${steps}`));
    }
    for (const [i, values] of results.entries()) {
      const [wall, cpu] = [0, 1].map((k) => median(values.map((value) => value[k] as number))) as [number, number];
      const rate = Math.round((1000 * rows) / wall);
      console.log(
        `${rows} rows, ${names[i]}: ${wall.toFixed(2)} ms a step, ${rate} tokens/s, CPU ${cpu.toFixed(2)} ms`,
      );
    }
    if (hasTorch) {
      const ratio = (k: number) =>
        median((results[0] ?? []).map((ours, i) => (results[1]?.[i]?.[k] as number) / (ours[k] as number)));
      console.log(`${rows} rows, torch / ale: ${ratio(0).toFixed(2)} wall, ${ratio(1).toFixed(2)} CPU time`);
    }
  }
  for (const peer of [ale, torch]) await peer.close();
}

/** One training step's answers; returns how many tokens were sampled. */
function trainingStep(engine: GenerationEngine, round: number): number {
  const lengths = new Rng(`lengths ${round}`);
  const submit = (sequenceId: number, context: Int32Array) =>
    engine.submit({ sequenceId, context, sampling: sampling(lengths.int(8, 14)) });
  let sampled = 0;
  const pending = new Set<number>();
  for (let id = 0; id < GROUPS * GROUP_SIZE; id++) {
    engine.open(id, `${round} ${id}`);
    submit(id, tokens(new Rng(`prompt ${round} ${Math.floor(id / GROUP_SIZE)}`), 25));
    pending.add(id);
  }
  const inSecondTurn = new Set<number>();
  engine.drain(pending, ({ sequenceId: id, generation }) => {
    sampled += generation.ids.length;
    if (inSecondTurn.has(id)) {
      engine.close(id);
      return;
    }
    inSecondTurn.add(id);
    submit(id, tokens(new Rng(`observation ${round} ${id}`), 10));
    pending.add(id);
  });
  return sampled;
}

function measureTrainingStep(rounds: number): void {
  const engine = newEngine();
  trainingStep(engine, -1);
  const walls: number[] = [];
  const cpus: number[] = [];
  const before = { ...engine.stats };
  let sampled = 0;
  for (let round = 0; round < rounds; round++) {
    const wall = performance.now();
    const cpu = process.cpuUsage();
    sampled += trainingStep(engine, round);
    const used = process.cpuUsage(cpu);
    walls.push(performance.now() - wall);
    cpus.push((used.user + used.system) / 1000);
  }
  const per = (key: keyof typeof before) => (engine.stats[key] - before[key]) / rounds;
  console.log(
    `training step of ${GROUPS * GROUP_SIZE} episodes: ${median(walls).toFixed(0)} ms (fastest ${Math.min(...walls).toFixed(0)}), CPU ${median(cpus).toFixed(0)} ms`,
  );
  console.log(
    `  ${(sampled / rounds).toFixed(0)} tokens sampled in ${per("decodeSteps").toFixed(0)} steps of ${(per("decodeRows") / per("decodeSteps")).toFixed(1)} rows, ${per("decodeMs").toFixed(0)} ms; ${per("prefillTokens").toFixed(0)} prefilled, ${per("copiedPrefixes").toFixed(0)} prompts copied, ${per("prefillMs").toFixed(0)} ms`,
  );
  engine.dispose();
}

/** A group that shares a context of 200 tokens beside one sequence of it; medians of the time until all can be sampled. */
function measureGroupPrefill(rounds: number): void {
  const engine = newEngine(2 * GROUP_SIZE);
  const times: [number, number][] = [];
  const counts: [number, number] = [0, 0];
  const prefill = (members: number, label: string): readonly [ms: number, tokens: number] => {
    const context = tokens(new Rng(label), Math.min(200, config.contextLength - 8));
    const before = { ...engine.stats };
    for (let id = 0; id < members; id++) {
      engine.open(id, `${label} ${id}`);
      engine.submit({ sequenceId: id, context, sampling: sampling(1) });
    }
    engine.drain(new Set(Array.from({ length: members }, (_, id) => id)), () => {});
    for (let id = 0; id < members; id++) engine.close(id);
    const { prefillMs, reuseMs, prefillTokens } = engine.stats;
    return [prefillMs - before.prefillMs + reuseMs - before.reuseMs, prefillTokens - before.prefillTokens];
  };
  for (let round = -WARM_UP; round < rounds; round++) {
    const one = prefill(1, `one ${round}`);
    const group = prefill(GROUP_SIZE, `group ${round}`);
    if (round < 0) continue;
    times.push([one[0], group[0]]);
    counts[0] += one[1];
    counts[1] += group[1];
  }
  const [one, group] = [0, 1].map((k) => median(times.map((pair) => pair[k] as number))) as [number, number];
  const ratio = median(times.map(([alone, together]) => together / alone));
  console.log(
    `prefill of a group of ${GROUP_SIZE}: ${group.toFixed(2)} ms, of one: ${one.toFixed(2)} ms, ratio ${ratio.toFixed(2)}; tokens ${(counts[1] / counts[0]).toFixed(2)}×`,
  );
  engine.dispose();
}

if (options.worker) {
  await work();
} else {
  const load = () =>
    loadavg()
      .map((value) => value.toFixed(2))
      .join(" ");
  console.log(`${options.rounds} rounds, ${options.steps} steps each, ${threads} threads, load ${load()}`);
  await compareDecode(Number(options.rounds), Number(options.steps));
  measureGroupPrefill(Number(options.rounds));
  measureTrainingStep(Number(options.rounds));
  console.log(`load ${load()}`);
}
