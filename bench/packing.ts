/**
 * `bun bench/packing.ts [--case shell|chat] [--rounds N] [--threads N]`: forward and backward pass with several sequences per
 * row beside one per row, on the shipped model with the shell recipe's lengths, and on a larger one with a conversation's. Both
 * sides have the same weights and sequences and take turns in one process; the ratio is that of the medians, off / on.
 */

import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Rng } from "../src/core/rng.ts";
import { configFromPreset, type DecoderConfig } from "../src/models/config.ts";
import { ParameterStore } from "../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../src/models/parameters.ts";
import { Learner } from "../src/trainer/learner.ts";
import { type Packing, planMicroBatches, plannedTokens } from "../src/trainer/micro-batches.ts";
import { median } from "./peers.ts";

const { values: options } = parseArgs({
  options: {
    case: { type: "string" },
    rounds: { type: "string", default: "7" },
    threads: { type: "string", default: "2" },
  },
});
const threads = Number(options.threads);

const preset = join(import.meta.dir, "../models/shell.toml");
const SHELL = configFromPreset(readFileSync(preset, "utf8"), preset);

interface Case {
  readonly config: DecoderConfig;
  readonly executor: "graph" | "layers";
  readonly microBatchTokens: number;
  readonly sequences: number;
  /** Tokens of a sequence, for a uniform number in [0, 1). */
  readonly length: (u: number) => number;
}

const CASES: Readonly<Record<string, Case>> = {
  shell: {
    config: SHELL,
    executor: "graph",
    microBatchTokens: 2048,
    sequences: 128,
    length: (u) => 20 + Math.floor(101 * u),
  },
  chat: {
    config: {
      ...SHELL,
      ...{ vocabularySize: 2048, hiddenSize: 256, heads: 8, kvHeads: 4, headDim: 32 },
      ...{ intermediateSize: 768, contextLength: 4096 },
    },
    executor: "layers",
    microBatchTokens: 4096,
    sequences: 20,
    // few long ones: the logarithm of the length falls off evenly
    length: (u) => Math.round(200 * 20 ** (1 - Math.sqrt(1 - u))),
  },
};

function measure(name: string, { config, executor, microBatchTokens, sequences: count, length }: Case): void {
  const rng = new Rng(`packing ${name}`);
  const sequences = Array.from({ length: count }, () =>
    Int32Array.from({ length: length(rng.next()) }, () => rng.int(0, config.vocabularySize - 1)),
  );
  const weights = sequences.map((sequence) => Float32Array.from(sequence, () => rng.normal() / 1000));
  const store = ParameterStore.inMemory(parameterLayout(config));
  initializeParameters(config, store.layout, store.parameters(0), 1);
  const sides = (["off", "on"] as const).map((packing: Packing) => {
    const learner = new Learner(config, store, {
      ...{ threads, executor, packing },
      maxTokensPerMicroBatch: microBatchTokens,
    });
    const step = () => {
      const start = performance.now();
      learner.backward(sequences, weights, 0);
      learner.clearGradients();
      return performance.now() - start;
    };
    const compiling = step();
    return { packing, learner, step, compiling, times: [] as number[] };
  });
  for (let round = 0; round < Number(options.rounds); round++) for (const { times, step } of sides) times.push(step());
  const lengths = sequences.map((sequence) => sequence.length - 1);
  const tokens = Math.ceil(microBatchTokens / (executor === "graph" ? threads : 1));
  const total = lengths.reduce((sum, each) => sum + each, 0);
  console.log(`${name}: ${count} sequences, ${total} tokens, ${executor}, load ${loadavg()[0]?.toFixed(2)}`);
  const figures = sides.map(({ packing, times, compiling }) => {
    const plan = planMicroBatches(lengths, { tokens, contextLength: config.contextLength }, packing);
    const planned = plannedTokens(plan);
    const ms = median(times);
    const shapes = new Set(plan.map(({ rows, length }) => `${rows}x${length}`));
    console.log(
      `  packing ${packing.padEnd(3)}: median ${ms.toFixed(0)} ms, ${planned} tokens with padding in ${plan.length} rectangles ` +
        `of ${shapes.size} shapes, first pass ${compiling.toFixed(0)} ms`,
    );
    return { planned, ms };
  });
  const [off, on] = figures as [(typeof figures)[number], (typeof figures)[number]];
  console.log(
    `  off / on: ${(off.ms / on.ms).toFixed(3)} time, ${(off.planned / on.planned).toFixed(3)} tokens; ` +
      `a token costs ${(on.ms / on.planned / (off.ms / off.planned)).toFixed(3)} times as much packed`,
  );
  for (const { learner } of sides) learner.release();
}

for (const [name, each] of Object.entries(CASES)) {
  if (options.case === undefined || options.case === name) measure(name, each);
}
