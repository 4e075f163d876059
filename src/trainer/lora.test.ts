import { afterAll, describe, expect, test } from "bun:test";
import { LORA_TARGETS, type LoraTarget } from "../config/lora.ts";
import { Rng } from "../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../models/config.ts";
import { FrozenParameters } from "../models/frozen-parameters.ts";
import { rootMeanSquare } from "../models/gradient-check.ts";
import { type Adapters, adaptersFor, initializeAdapters, mergeAdapters } from "../models/lora.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout, parameterView } from "../models/parameters.ts";
import { GenerationEngine } from "../policy/generation/engine.ts";
import { probeParity } from "../policy/generation/parity.ts";
import { Learner } from "./learner.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.qwen2,
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
const LAYOUT = parameterLayout(CONFIG);

const released: { release(): void }[] = [];
afterAll(() => {
  for (const item of released) item.release();
});

/** Adapters far from their start on a random base, and the same model merged into plain weights. */
function models(targets: readonly LoraTarget[], rslora = false) {
  const adapters = adaptersFor(CONFIG, { rank: 3, alpha: 6, targets, rslora });
  const parameters = FrozenParameters.inMemory(LAYOUT, (flat) => initializeParameters(CONFIG, LAYOUT, flat, 1));
  const base = { parameters, adapters };
  const store = ParameterStore.inMemory(adapters.layout);
  initializeAdapters(adapters, store.parameters(0), 5);
  const rng = new Rng("B");
  for (const { b } of adapters.byWeight.values()) {
    const view = parameterView(adapters.layout, store.parameters(0), b);
    for (let i = 0; i < view.length; i++) view[i] = 0.3 * rng.normal();
  }
  store.publish(0, 1);
  const merged = ParameterStore.inMemory(LAYOUT);
  merged.parameters(0).set(parameters.flat);
  mergeAdapters(adapters, store.parameters(0), { layout: LAYOUT, flat: merged.parameters(0) });
  const learner = new Learner(CONFIG, store, { threads: 1, base });
  const plain = new Learner(CONFIG, merged, { threads: 1 });
  released.push(learner, plain);
  return { base, adapters, store, merged, learner, plain };
}

function sequences(lengths: readonly number[]): Int32Array[] {
  const rng = new Rng("tokens");
  return lengths.map((length) => Int32Array.from({ length }, () => rng.int(0, CONFIG.vocabularySize - 1)));
}

const BATCH = sequences([9, 30, 2, 17]);
const WEIGHTS = BATCH.map((ids, i) => {
  const rng = new Rng(`weights ${i}`);
  return Float32Array.from(ids, () => rng.normal());
});

function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return rootMeanSquare(Float64Array.from(a, (x, i) => x - (b[i] as number))) / rootMeanSquare(b);
}

/** Gradients of A and B by the chain rule through W + s B A, from the gradients of the merged weights, in float64. */
function chainRule(adapters: Adapters, flat: Float32Array, gradients: Float32Array): Map<string, Float64Array> {
  const result = new Map<string, Float64Array>();
  const { rank } = adapters.config;
  for (const [weight, { a, b, scale }] of adapters.byWeight) {
    const dW = parameterView(LAYOUT, gradients, weight);
    const A = parameterView(adapters.layout, flat, a);
    const B = parameterView(adapters.layout, flat, b);
    const width = A.length / rank;
    const dA = new Float64Array(A.length);
    const dB = new Float64Array(B.length);
    for (let o = 0; o < B.length / rank; o++) {
      for (let r = 0; r < rank; r++) {
        for (let i = 0; i < width; i++) {
          const g = scale * (dW[o * width + i] as number);
          dA[r * width + i] = (dA[r * width + i] as number) + g * (B[o * rank + r] as number);
          dB[o * rank + r] = (dB[o * rank + r] as number) + g * (A[r * width + i] as number);
        }
      }
    }
    result.set(a, dA).set(b, dB);
  }
  return result;
}

const CHOICES: { targets: readonly LoraTarget[]; rslora: boolean }[] = [
  { targets: LORA_TARGETS, rslora: false },
  { targets: ["q_proj", "v_proj", "down_proj"], rslora: true },
];
describe.each(CHOICES)("adapters on %j", ({ targets, rslora }) => {
  const { base, adapters, store, merged, learner, plain } = models(targets, rslora);

  test("the model computes what the merged weights compute", () => {
    const expected = plain.logprobs(BATCH, 0);
    for (const [i, logprobs] of learner.logprobs(BATCH, 0).entries()) {
      for (const [t, value] of logprobs.entries()) {
        expect(Math.abs(value - (expected[i]?.[t] as number))).toBeLessThan(2e-5);
      }
    }
  });

  test("gradients are those of the merged weights by the chain rule", () => {
    learner.backward(BATCH, WEIGHTS, 0);
    plain.backward(BATCH, WEIGHTS, 0);
    for (const [name, expected] of chainRule(adapters, store.parameters(0), plain.gradients)) {
      expect(relativeError(parameterView(adapters.layout, learner.gradients, name), expected)).toBeLessThan(2e-5);
    }
    expect(rootMeanSquare(merged.parameters(0))).toBeGreaterThan(0);
  });

  test("generation computes the same as training", () => {
    const engine = new GenerationEngine(CONFIG, store, { threads: 1, slots: 4, rows: 8, context: 64, base });
    const parity = probeParity(engine, learner, BATCH, 0).max;
    engine.dispose();
    expect(parity).toBeGreaterThan(0);
    expect(parity).toBeLessThan(1e-5);
  });
});

test("training writes adapters only, and a fresh adapter changes nothing", () => {
  const { base, adapters, store, learner } = models(LORA_TARGETS);
  const hash = () => Bun.hash(base.parameters.flat);
  const before = hash();
  initializeAdapters(adapters, store.parameters(0), 7);
  const start = store.parameters(0).slice();
  const settings = { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1, clip: 1 } as const;
  const losses = [0, 1, 2, 3].map((step) => {
    const { loss } = learner.backward(BATCH, WEIGHTS, step % 2 === 0 ? 0 : 1);
    store.publish(2, 3);
    learner.step(settings, step % 2 === 0 ? 0 : 1, step % 2 === 0 ? 1 : 0);
    return loss;
  });
  expect(losses[3]).toBeLessThan(losses[0] as number);
  expect(store.parameters(0)).not.toEqual(start);
  expect(hash()).toBe(before);

  const plain = ParameterStore.inMemory(LAYOUT);
  plain.parameters(0).set(base.parameters.flat);
  store.parameters(1).set(start);
  const reference = new Learner(CONFIG, plain, { threads: 1 });
  released.push(reference);
  expect(learner.logprobs(BATCH, 1)).toEqual(reference.logprobs(BATCH, 0));
});
