import { afterAll, describe, expect, test } from "bun:test";
import { Rng } from "../../src/core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../src/models/config.ts";
import { FrozenParameters } from "../../src/models/frozen-parameters.ts";
import { rootMeanSquare } from "../../src/models/gradient-check.ts";
import { adaptersFor } from "../../src/models/lora.ts";
import { ParameterStore } from "../../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../src/models/parameters.ts";
import { headChunk } from "../../src/trainer/head-calls.ts";
import { Learner, type LearnerOptions } from "../../src/trainer/learner.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  vocabularySize: 40,
  hiddenSize: 32,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  intermediateSize: 48,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  experts: null,
  tiedEmbeddings: true,
  contextLength: 48,
};

const WITH_EXPERTS: DecoderConfig = {
  ...CONFIG,
  ...ARCHITECTURES.qwen3_moe,
  experts: { count: 4, perToken: 2, intermediateSize: 16, normalizeWeights: true, sparseStep: 1, denseLayers: [1] },
};

const released: Learner[] = [];
afterAll(() => {
  for (const learner of released) learner.release();
});

const rng = new Rng("layered");
const batch = [9, 30, 2, 17, 1, 45].map((length) => Int32Array.from({ length }, () => rng.int(0, 39)));
const weights = batch.map((sequence) => Float32Array.from(sequence, () => (rng.next() < 0.3 ? 0 : rng.normal())));
const bonus = batch.map((sequence) => Float32Array.from(sequence, () => rng.normal()));

function run(config: DecoderConfig, adapted: boolean, options: Partial<LearnerOptions>) {
  const layout = parameterLayout(config);
  const fill = (flat: Float32Array) => initializeParameters(config, layout, flat, 1);
  const lora = { rank: 2, alpha: 4, targets: ["q_proj", "down_proj"], rslora: false } as const;
  const base = adapted
    ? { parameters: FrozenParameters.inMemory(layout, fill), adapters: adaptersFor(config, lora) }
    : undefined;
  const store = ParameterStore.inMemory(base?.adapters.layout ?? layout);
  if (base === undefined) fill(store.parameters(0));
  else store.parameters(0).set(Float32Array.from({ length: store.layout.length }, (_, i) => 0.1 * Math.sin(i + 1)));
  const learner = new Learner(config, store, { threads: 2, maxTokensPerMicroBatch: 64, base, ...options });
  released.push(learner);
  const result = learner.backward(batch, weights, 0, 0.7, { entropyWeights: bonus });
  return { result, logprobs: learner.logprobs(batch, 0, 0.7), gradients: learner.gradients.slice() };
}

function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return rootMeanSquare(Float64Array.from(a, (x, i) => x - (b[i] as number))) / rootMeanSquare(b);
}

describe.each([
  ["tied embeddings", CONFIG, false],
  ["an untied head and biases", { ...CONFIG, ...ARCHITECTURES.qwen2, tiedEmbeddings: false }, false],
  ["routed experts in two of three layers", WITH_EXPERTS, false],
  ["adapters", CONFIG, true],
] as const)("layer by layer, %s", (_name, config, adapted) => {
  const whole = run(config, adapted, { executor: "graph" });

  test.each([64 << 20, 40 * 4 * 5])("equals the whole graph, %d bytes of logits at a time", (logitBytes) => {
    const layered = run(config, adapted, { executor: "layers", logitBytes });
    expect(relativeError(layered.gradients, whole.gradients)).toBeLessThan(1e-6);
    expect(layered.result.loss).toBeCloseTo(whole.result.loss, 4);
    expect(layered.result.entropy).toBeCloseTo(whole.result.entropy, 5);
    for (const [i, logprobs] of layered.logprobs.entries()) {
      expect(logprobs).toEqual(layered.result.logprobs[i] as Float32Array);
      for (const [t, value] of logprobs.entries()) {
        expect(Math.abs(value - (whole.logprobs[i]?.[t] as number))).toBeLessThan(1e-5);
      }
    }
  });
});

test("chunks of the head are as even as their bound allows", () => {
  expect(headChunk(2048, 40)).toBe(2048);
  expect(headChunk(2048, 151_936)).toBe(108); // 19 chunks, where 110 tokens would fit
  expect(headChunk(7, 1000, 1)).toBe(1);
});
