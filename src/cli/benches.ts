/**
 * What `ale bench` measures: the costs a training step is made of, on this machine, as this executable does them. Ratios
 * to other programs are measured by `bench/` in the repository, which brings those programs along.
 */

import { availableParallelism } from "node:os";
import { AleError } from "../core/errors.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import { presetConfig } from "../experiment/policy-source.ts";
import { configFromHuggingFace, type DecoderConfig } from "../models/config.ts";
import { ParameterStore, type Slot } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../models/parameters.ts";
import { GenerationEngine } from "../policy/generation/engine.ts";
import { loadSuite } from "../tasks/suite.ts";
import { Learner } from "../trainer/learner.ts";

/** One measured number. */
export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: "ms" | "/s";
}

export interface Bench {
  readonly name: string;
  readonly summary: string;
  readonly measure: (signal: AbortSignal) => Promise<readonly Figure[]>;
}

const SUITE = "tasks/shell";
const PRESET = "shell";
const VOCABULARY = 512;
const THREADS = Math.min(2, availableParallelism());

/** Shape of the shipped experiment: tokens of a micro-batch, sequences of a decode batch. */
const TRAIN_TOKENS = 2048;
const TRAIN_LENGTH = 64;
const DECODE_SLOTS = 32;
const DECODE_CONTEXT = 208;
const DECODE_TOKENS = 36;

export const BENCHES: readonly Bench[] = [
  { name: "sandbox", summary: "make, use and destroy sandboxes", measure: measureSandboxes },
  { name: "train", summary: "training step of the shipped model", measure: measureTraining },
  { name: "generate", summary: "generation with the shipped model", measure: measureGeneration },
];

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

async function timed(work: () => Promise<unknown> | unknown): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

async function measureSandboxes(signal: AbortSignal): Promise<Figure[]> {
  const rounds = 40;
  const { openSandboxes } = await import("../experiment/resources.ts");
  const environment = firstEnvironment();
  const options = { timeoutMs: 5000, maxOutputBytes: 4096, signal };
  await using provider = await openSandboxes(SUITE);
  const useOnce = async (): Promise<{ create: number; total: number }> => {
    signal.throwIfAborted();
    const started = performance.now();
    const sandbox = await provider.create(environment, signal);
    const created = performance.now();
    try {
      const { exitCode } = await sandbox.run("echo ready", options);
      if (exitCode !== 0)
        throw new AleError("sandbox", `echo ended with ${exitCode} in a sandbox`, { hint: "ale doctor" });
    } finally {
      await sandbox.destroy();
    }
    return { create: created - started, total: performance.now() - started };
  };
  await useOnce();
  const each: { create: number; total: number }[] = [];
  for (let i = 0; i < rounds; i++) each.push(await useOnce());
  const together = await timed(async () => {
    for (let i = 0; i < rounds; i += 8) await Promise.all(Array.from({ length: 8 }, useOnce));
  });
  return [
    { name: "create, cold", value: median(each.map(({ create }) => create)), unit: "ms" },
    { name: "create, one command, destroy", value: median(each.map(({ total }) => total)), unit: "ms" },
    { name: "create, one command, destroy, 8 at once", value: (rounds / together) * 1000, unit: "/s" },
  ];
}

function firstEnvironment(): EnvironmentSpec {
  const suite = loadSuite(SUITE);
  const name = suite.families[0];
  if (name === undefined) throw new AleError("task", `${SUITE} has no families`, { hint: "ale tasks ls" });
  return suite.family(name).environment;
}

function openModel(): { config: DecoderConfig; store: ParameterStore } {
  const config = configFromHuggingFace(presetConfig(PRESET, VOCABULARY), `models/${PRESET}.toml`);
  const store = ParameterStore.inMemory(parameterLayout(config));
  initializeParameters(config, store.layout, store.parameters(0), 1);
  store.publish(0, 1);
  return { config, store };
}

/** Token ids that repeat neither within nor across rows, the same on every machine. */
function fillTokens(row: number, length: number): Int32Array {
  return Int32Array.from({ length }, (_, t) => (row * 7919 + t * 104_729) % VOCABULARY);
}

async function measureTraining(signal: AbortSignal): Promise<Figure[]> {
  const { config, store } = openModel();
  const learner = new Learner(config, store, { threads: THREADS, maxTokensPerMicroBatch: TRAIN_TOKENS });
  try {
    const rows = TRAIN_TOKENS / TRAIN_LENGTH;
    const sequences = Array.from({ length: rows }, (_, row) => fillTokens(row, TRAIN_LENGTH + 1));
    const weights = sequences.map((ids) => new Float32Array(ids.length).fill(1 / TRAIN_TOKENS));
    const settings = { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 } as const;
    let slot: Slot = 0;
    const step = (): void => {
      signal.throwIfAborted();
      learner.backward(sequences, weights, slot);
      const target = store.targetFor(slot);
      learner.step(settings, slot, target);
      slot = target;
    };
    for (let i = 0; i < 5; i++) step();
    const times: number[] = [];
    for (let i = 0; i < 15; i++) {
      times.push(await timed(step));
      await Bun.sleep(0); // Lets Ctrl-C through: a step blocks this thread.
    }
    const ms = median(times);
    return [
      { name: `step of ${TRAIN_TOKENS} tokens, ${THREADS} threads`, value: ms, unit: "ms" },
      { name: "tokens trained", value: (TRAIN_TOKENS / ms) * 1000, unit: "/s" },
    ];
  } finally {
    learner.release();
  }
}

async function measureGeneration(signal: AbortSignal): Promise<Figure[]> {
  const { config, store } = openModel();
  const options = { threads: THREADS, slots: DECODE_SLOTS, maxBlocks: 1, context: DECODE_CONTEXT };
  const engine = new GenerationEngine(config, store, options);
  const sampling = { temperature: 1, greedy: false, maxTokens: DECODE_TOKENS, stopIds: [] };
  try {
    const round = (round: number): number => {
      let tokens = 0;
      for (let row = 0; row < DECODE_SLOTS; row++) {
        engine.open(row, `bench/${round}/${row}`);
        engine.submit({ sequenceId: row, context: fillTokens(row, 40), sampling });
      }
      engine.drain(new Set(Array.from({ length: DECODE_SLOTS }, (_, row) => row)), ({ sequenceId, generation }) => {
        tokens += generation.ids.length;
        engine.close(sequenceId);
      });
      return tokens;
    };
    round(0);
    const rates: number[] = [];
    for (let i = 1; i <= 9; i++) {
      signal.throwIfAborted();
      const started = performance.now();
      const tokens = round(i);
      rates.push((tokens / (performance.now() - started)) * 1000);
      await Bun.sleep(0);
    }
    return [
      { name: `tokens sampled, ${DECODE_SLOTS} sequences, ${THREADS} threads`, value: median(rates), unit: "/s" },
    ];
  } finally {
    engine.dispose();
  }
}
