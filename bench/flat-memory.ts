/**
 * Resident memory over many decode steps: `bun bench/flat-memory.ts [--steps N] [--every N] [--rows N]`
 *
 * Episodes of a tiny model (what grows does not depend on its size) come and go as in a run: groups with the same prompt, several turns, some cancelled, more
 * of them open than have a cache, weights published now and then. Prints resident memory every so many steps, and last how
 * much the second half of the run added.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Rng } from "../src/core/rng.ts";
import { configFromPreset, type DecoderConfig } from "../src/models/config.ts";
import { ParameterStore, type Slot } from "../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../src/models/parameters.ts";
import { GenerationEngine } from "../src/policy/generation/engine.ts";

const OPEN = 24;
const GROUP_SIZE = 4;
const TURNS = 4;
const STEPS_PER_VERSION = 2000;

const { values: options } = parseArgs({
  options: {
    steps: { type: "string", default: "100000" },
    every: { type: "string", default: "10000" },
    rows: { type: "string", default: "16" },
  },
});

const preset = join(import.meta.dir, "../models/shell.toml");
const config: DecoderConfig = {
  ...configFromPreset(readFileSync(preset, "utf8"), preset),
  ...{ vocabularySize: 300, hiddenSize: 32, layers: 2, heads: 2, kvHeads: 1, headDim: 16, intermediateSize: 64 },
};
const store = ParameterStore.inMemory(parameterLayout(config));
for (const slot of [0, 1, 2] as const) initializeParameters(config, store.layout, store.parameters(slot), slot + 1);
store.publish(0, 0);
const engine = new GenerationEngine(config, store, {
  threads: 1,
  slots: 8,
  rows: Number(options.rows),
  context: config.contextLength,
});

const rng = new Rng("flat memory");
/** Turns each open sequence has had. */
const turns = new Map<number, number>();
let opened = 0;

function some(source: Rng, length: number): Int32Array {
  return Int32Array.from({ length }, () => source.int(0, config.vocabularySize - 1));
}

function openNext(): void {
  const id = opened++;
  engine.open(id, `episode ${id}`);
  turns.set(id, 0);
  ask(id, some(new Rng(`group ${Math.floor(id / GROUP_SIZE)}`), 30));
}

function ask(id: number, context: Int32Array): void {
  const truncated = id % 3 === 0 ? { topP: 0.9, repetitionPenalty: 1.1 } : {};
  const sampling = { temperature: 1, greedy: false, maxTokens: rng.int(4, 20), stopIds: [], ...truncated };
  engine.submit({ sequenceId: id, context, sampling });
}

function goOn(id: number): void {
  const turn = (turns.get(id) ?? 0) + 1;
  if (turn === TURNS) {
    engine.close(id);
    turns.delete(id);
    openNext();
  } else {
    turns.set(id, turn);
    ask(id, some(rng, rng.int(1, 12)));
  }
}

/** A look at memory with nothing left that only waits to be collected. */
function residentBytes(): number {
  Bun.gc(true);
  return process.memoryUsage.rss();
}

const steps = Number(options.steps);
const every = Number(options.every);
const samples: number[] = [];
for (let i = 0; i < OPEN; i++) openNext();
while (engine.stats.decodeSteps < steps) {
  const before = engine.stats.decodeSteps;
  for (const { sequenceId } of engine.step().finished) goOn(sequenceId);
  if (engine.stats.decodeSteps === before) continue;
  const done = engine.stats.decodeSteps;
  if (done % 97 === 0) {
    const id = rng.pick([...turns.keys()]);
    engine.close(id);
    turns.delete(id);
    openNext();
  }
  if (done % STEPS_PER_VERSION === 0) store.publish(((done / STEPS_PER_VERSION) % 3) as Slot, done / STEPS_PER_VERSION);
  if (done % every === 0) {
    samples.push(residentBytes());
    console.log(`${done} steps: ${((samples.at(-1) as number) / 1e6).toFixed(1)} MB, ${opened} episodes`);
  }
}
const half = samples.slice(Math.floor(samples.length / 2));
const added = (Math.max(...half) - (half[0] as number)) / 1e6;
console.log(`${engine.stats.evictions} evictions; the second half added ${added.toFixed(1)} MB`);
engine.dispose();
