/** The divergence from a frozen reference over the vocabulary, through the engine, beside `fullKl`. */

import { afterAll, expect, test } from "bun:test";
import { fullKl } from "../algorithms/distribution.ts";
import { Rng } from "../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../models/config.ts";
import { FrozenParameters } from "../models/frozen-parameters.ts";
import { rootMeanSquare } from "../models/gradient-check.ts";
import { adaptersFor, initializeAdapters, loraTargets } from "../models/lora.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../models/parameters.ts";
import { Learner, type LearnerOptions } from "./learner.ts";

const V = 24;
const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  ...{ vocabularySize: V, hiddenSize: 16, layers: 2, heads: 2, kvHeads: 1, headDim: 8, intermediateSize: 24 },
  ...{ normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, tiedEmbeddings: false, contextLength: 32 },
};
const LAYOUT = parameterLayout(CONFIG);
const TEMPERATURE = 0.8;

const rng = new Rng("divergence");
const sequences = [9, 20, 3].map((length) => Int32Array.from({ length }, () => rng.int(0, V - 1)));
const zeros = sequences.map(({ length }) => new Float32Array(length));
const weights = sequences.map(({ length }) => Float32Array.from({ length }, () => rng.normal()));
/** All tokens as candidates: the way to see a whole distribution. */
const all = {
  count: V,
  ids: sequences.map(({ length }) => Int32Array.from({ length: length * V }, (_, i) => i % V)),
};

const released: Learner[] = [];
afterAll(() => {
  for (const learner of released) learner.release();
});

const frozen = (seed: number) =>
  FrozenParameters.inMemory(LAYOUT, (flat) => initializeParameters(CONFIG, LAYOUT, flat, seed));

function fullLearner(options: Partial<LearnerOptions> = {}, seed = 1) {
  const store = ParameterStore.inMemory(LAYOUT);
  initializeParameters(CONFIG, LAYOUT, store.parameters(0), seed);
  const learner = new Learner(CONFIG, store, { threads: 1, reference: frozen(2), ...options });
  released.push(learner);
  return learner;
}

/** Adapters whose second matrices are not 0, so that they make a difference. */
function adaptedLearner() {
  const adapters = adaptersFor(CONFIG, { rank: 2, alpha: 8, rslora: false, targets: loraTargets(CONFIG) });
  const store = ParameterStore.inMemory(adapters.layout);
  initializeAdapters(adapters, store.parameters(0), 1);
  const flat = store.parameters(0);
  for (let i = 0; i < flat.length; i++) flat[i] = (flat[i] as number) + 0.2 * rng.normal();
  const learner = new Learner(CONFIG, store, { threads: 1, base: { parameters: frozen(2), adapters } });
  released.push(learner);
  return learner;
}

const rows = (learner: Learner) => learner.forward(sequences, 0, TEMPERATURE, { candidates: all }).candidateLogprobs;

function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return rootMeanSquare(Float64Array.from(a, (x, i) => x - (b[i] as number))) / rootMeanSquare(b);
}

const taught = rows(fullLearner({}, 2));

test.each([
  ["all parameters", fullLearner],
  ["adapters", adaptedLearner],
  ["all parameters, layer by layer, a few tokens of the head at a time", () => layered()],
] as const)("values and gradients are those of fullKl: %s", (_, make) => {
  const learner = make();
  const own = rows(learner);
  const { divergences } = learner.forward(sequences, 0, TEMPERATURE, { divergence: true });
  let sum = 0;
  // The gradient of Σ w · KL with respect to log p over the vocabulary, which candidates take as weights.
  const slopes = own.map((row, i) => {
    const result = new Float32Array(row.length);
    const [divergence_T, weights_T, reference] = [divergences[i], weights[i], taught[i]] as Float32Array[];
    for (let t = 1; t < row.length / V; t++) {
      const at = (all: Float32Array | undefined) => (all as Float32Array).subarray(t * V, (t + 1) * V);
      const { value, gradient_V } = fullKl(at(row), at(reference));
      const weight = weights_T?.[t] as number;
      expect(Math.abs((divergence_T?.[t] as number) - value)).toBeLessThan(1e-5);
      at(result).set(gradient_V.map((slope) => weight * slope));
      sum += weight * value;
    }
    return result;
  });
  learner.clearGradients();
  learner.backward(sequences, zeros, 0, TEMPERATURE, { candidates: { ...all, weights: slopes } });
  const expected = learner.gradients.slice();
  learner.clearGradients();
  const { loss, divergence } = learner.backward(sequences, zeros, 0, TEMPERATURE, { divergenceWeights: weights });
  expect(relativeError(learner.gradients, expected)).toBeLessThan(1e-5);
  expect(divergence).toBeCloseTo(sum, 4);
  expect(loss).toBeCloseTo(-sum, 4);
});

function layered() {
  return fullLearner({ executor: "layers", logitBytes: V * 4 * 5 });
}

test("packed rows and several lanes change nothing", () => {
  const plain = fullLearner();
  plain.backward(sequences, weights, 0, TEMPERATURE, { divergenceWeights: weights });
  const packed = fullLearner({ threads: 2, packing: "on", maxTokensPerMicroBatch: 64 });
  packed.backward(sequences, weights, 0, TEMPERATURE, { divergenceWeights: weights });
  expect(relativeError(packed.gradients, plain.gradients)).toBeLessThan(1e-5);
});

test("without a reference there is no divergence", () => {
  const learner = fullLearner({ reference: undefined });
  expect(() => learner.forward(sequences, 0, 1, { divergence: true })).toThrow("no reference");
});
