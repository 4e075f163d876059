/** A tiny model with far from uniform distributions, and shorthands, for the tests of generation. */

import { expect } from "bun:test";
import type { Generation, SamplingOptions } from "../../core/ports.ts";
import { Rng } from "../../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../models/config.ts";
import { ParameterStore } from "../../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../models/parameters.ts";
import { GenerationEngine, type GenerationOptions } from "./engine.ts";
import { referenceLogits, referenceLogprob } from "./reference-forward.ts";

export const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: 40,
  hiddenSize: 32,
  layers: 2,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  intermediateSize: 48,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 64,
};
export const LAYOUT = parameterLayout(CONFIG);

/** Three slots of different random weights, large enough for distributions far from uniform; slot 0 is published. */
export const STORE = ParameterStore.inMemory(LAYOUT);
for (const slot of [0, 1, 2] as const) {
  initializeParameters(CONFIG, LAYOUT, STORE.parameters(slot), slot + 1);
  const embedding = STORE.parameters(slot).subarray(0, CONFIG.vocabularySize * CONFIG.hiddenSize);
  for (let i = 0; i < embedding.length; i++) embedding[i] = 20 * (embedding[i] as number);
}

const engines: GenerationEngine[] = [];

/** Frees what `makeEngine` made; call it after each test. */
export function disposeEngines(): void {
  for (const engine of engines.splice(0)) engine.dispose();
}

export function makeEngine(options: Partial<GenerationOptions> = {}): GenerationEngine {
  STORE.publish(0, 7);
  const engine = new GenerationEngine(CONFIG, STORE, {
    threads: 1,
    slots: 6,
    rows: 12,
    context: 64,
    bitEqual: true,
    ...options,
  });
  engines.push(engine);
  return engine;
}

export function sampling(options: Partial<SamplingOptions> = {}): SamplingOptions {
  return { temperature: 1, greedy: false, maxTokens: 10, stopIds: [], ...options };
}

export function ids(label: string, length: number): Int32Array {
  const rng = new Rng(label);
  return Int32Array.from({ length }, () => rng.int(0, CONFIG.vocabularySize - 1));
}

export function answerOf(engine: GenerationEngine, sequenceId: number): Generation {
  return answersOf(engine, [sequenceId]).get(sequenceId) as Generation;
}

export function answersOf(engine: GenerationEngine, sequenceIds: readonly number[]): Map<number, Generation> {
  const answers = new Map<number, Generation>();
  engine.drain(new Set(sequenceIds), ({ sequenceId, generation }) => answers.set(sequenceId, generation));
  return answers;
}

/** Two turns of the sequence `noiseKey`, from opening to closing. */
export function episode(engine: GenerationEngine, id: number, noiseKey: string): Generation[] {
  engine.open(id, noiseKey);
  const turns = [ids(`prompt ${noiseKey}`, 13), ids(`observation ${noiseKey}`, 6)].map((context, turn) => {
    engine.submit({ sequenceId: id, context, sampling: sampling({ temperature: turn === 0 ? 1 : 0.7 }) });
    return answerOf(engine, id);
  });
  engine.close(id);
  return turns;
}

/** Log-probabilities of `sequence` from position `start` on, in float64. */
export function reference(sequence: readonly number[], start: number, temperature = 1, slot: 0 | 1 | 2 = 0): number[] {
  const logits = referenceLogits(CONFIG, LAYOUT, STORE.parameters(slot), sequence);
  return sequence.slice(start).map((id, i) => referenceLogprob(logits[start + i - 1] as Float64Array, id, temperature));
}

export function expectClose(actual: Iterable<number>, expected: readonly number[], limit: number): void {
  const values = [...actual];
  expect(values.length).toBe(expected.length);
  for (const [i, value] of values.entries()) expect(Math.abs(value - (expected[i] as number))).toBeLessThan(limit);
}
