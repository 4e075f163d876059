import { afterAll, describe, expect, test } from "bun:test";
import { candidateDistillation } from "../algorithms/candidate-distillation.ts";
import { Rng } from "../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../models/config.ts";
import { trainableLayout } from "../models/decoder-graph.ts";
import { VALUE_HEAD_BIAS, VALUE_HEAD_WEIGHT } from "../models/decoder-head.ts";
import { DecoderReference } from "../models/decoder-reference.ts";
import { rootMeanSquare } from "../models/gradient-check.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout, parameterView } from "../models/parameters.ts";
import { Learner, type LearnerOptions } from "./learner.ts";
import type { BackwardTerms } from "./loss-terms.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: 40,
  hiddenSize: 32,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  intermediateSize: 48,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 48,
};
const K = 3;
const LENGTHS = [9, 30, 2, 17, 21];

const rng = new Rng("terms");
const sequences = LENGTHS.map((length) => Int32Array.from({ length }, () => rng.int(0, CONFIG.vocabularySize - 1)));
const numbers = (width: number) =>
  LENGTHS.map((length) => Float32Array.from({ length: length * width }, () => rng.normal()));
const weights = numbers(1);
const candidateIds = LENGTHS.map((length) =>
  Int32Array.from({ length: length * K }, (_, i) => (11 * i) % CONFIG.vocabularySize),
);
const terms = {
  entropyWeights: numbers(1),
  values: { weights: numbers(1), into: "trunk" },
  candidates: { count: K, ids: candidateIds, weights: numbers(K) },
} satisfies BackwardTerms;

const released: { release(): void }[] = [];
afterAll(() => {
  for (const item of released) item.release();
});

function makeLearner(maxTokensPerMicroBatch: number, options: Partial<LearnerOptions> = {}) {
  const store = ParameterStore.inMemory(trainableLayout(CONFIG, { valueHead: true }));
  const flat = store.parameters(0);
  initializeParameters(CONFIG, parameterLayout(CONFIG), flat, 1);
  const head = new Rng("head");
  for (const name of [VALUE_HEAD_WEIGHT, VALUE_HEAD_BIAS]) {
    const view = parameterView(store.layout, flat, name);
    for (let i = 0; i < view.length; i++) view[i] = head.normal();
  }
  const learner = new Learner(CONFIG, store, { threads: 1, maxTokensPerMicroBatch, ...options });
  released.push(learner);
  return { learner, store };
}

function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return rootMeanSquare(Float64Array.from(a, (x, i) => x - (b[i] as number))) / rootMeanSquare(b);
}

describe("a loss of log-probabilities, entropy, values and candidates", () => {
  const { learner, store } = makeLearner(2048);
  const whole = learner.backward(sequences, weights, 0, 0.7, terms);

  test("has the loss, the outputs and the gradients of float64", () => {
    const reference = new DecoderReference(CONFIG, 29, { values: "trunk", candidates: K });
    reference.parameters.set(store.parameters(0));
    const gradients = new Float64Array(store.layout.length);
    const forward = learner.forward(sequences, 0, 0.7, { values: true, candidates: terms.candidates });
    let loss = 0;
    for (const [i, sequence] of sequences.entries()) {
      loss += reference.run(sequence, weights[i] as Float32Array, 0.7, {
        entropyWeights: terms.entropyWeights[i] as Float32Array,
        valueWeights: terms.values.weights[i] as Float32Array,
        candidates: candidateIds[i] as Int32Array,
        candidateWeights: terms.candidates.weights[i] as Float32Array,
      });
      for (const [j, gradient] of reference.gradients.entries()) gradients[j] = (gradients[j] as number) + gradient;
      const predictions = sequence.length - 1;
      const expected = [reference.logprobs, reference.values, reference.candidateLogprobs] as const;
      for (const [part, width] of [[0, 1] as const, [1, 1] as const, [2, K] as const]) {
        const rows = [forward.logprobs, forward.values, forward.candidateLogprobs][part] as Float32Array[];
        const got = (rows[i] as Float32Array).subarray(width);
        expect(relativeError(got, (expected[part] as Float64Array).subarray(0, predictions * width))).toBeLessThan(
          1e-5,
        );
      }
    }
    reference.release();
    expect(Math.abs(whole.loss - loss) / Math.abs(loss)).toBeLessThan(1e-5);
    for (const { name } of store.layout.entries) {
      const expected = parameterView(store.layout, gradients, name);
      expect(relativeError(parameterView(store.layout, learner.gradients, name), expected)).toBeLessThan(1e-5);
    }
  });

  test("is the same however its sequences are split into micro-batches", () => {
    for (const tokens of [32, 64]) {
      const split = makeLearner(tokens).learner;
      const { loss } = split.backward(sequences, weights, 0, 0.7, terms);
      expect(Math.abs(loss - whole.loss) / Math.abs(whole.loss)).toBeLessThan(1e-6);
      expect(relativeError(split.gradients, learner.gradients)).toBeLessThan(1e-6);
    }
  });

  test("is the same layer by layer, a few tokens of the head at a time", () => {
    const layered = makeLearner(2048, { executor: "layers", logitBytes: 40 * 4 * 7 }).learner;
    const { loss } = layered.backward(sequences, weights, 0, 0.7, terms);
    expect(Math.abs(loss - whole.loss) / Math.abs(whole.loss)).toBeLessThan(1e-6);
    expect(relativeError(layered.gradients, learner.gradients)).toBeLessThan(1e-6);
    const { values } = layered.forward(sequences, 0, 0.7, { values: true });
    expect(
      relativeError(
        values[1] as Float32Array,
        learner.forward(sequences, 0, 0.7, { values: true }).values[1] as Float32Array,
      ),
    ).toBeLessThan(1e-6);
  });

  test("a candidate that is the label weighs as much as the label", () => {
    const zeros = weights.map((row) => new Float32Array(row.length));
    const labels = { count: 1, ids: sequences, weights };
    learner.clearGradients();
    const asCandidates = learner.backward(sequences, zeros, 0, 1, { candidates: labels });
    const gradients = learner.gradients.slice();
    learner.clearGradients();
    const asLabels = learner.backward(sequences, weights, 0);
    expect(asCandidates.loss).toBeCloseTo(asLabels.loss, 4);
    expect(relativeError(gradients, learner.gradients)).toBeLessThan(1e-5);
  });
});

test("the value head has a learning rate of its own and no weight decay", () => {
  const { learner, store } = makeLearner(2048);
  learner.backward(sequences, weights, 0, 1, terms);
  const settings = { lr: 0, valueLr: 0.5, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.3, clip: 0 } as const;
  learner.step(settings, 0, 1);
  for (const { name, kind } of store.layout.entries) {
    const before = parameterView(store.layout, store.parameters(0), name);
    const after = parameterView(store.layout, store.parameters(1), name);
    const moved = before.map((value, i) => Math.abs(value - (after[i] as number)));
    if (kind === "value-head") for (const step of moved) expect(step).toBeCloseTo(0.5, 3);
    else expect(Math.max(...moved)).toBe(0);
  }
});

test("weight decay leaves alone what it is told to", () => {
  const store = ParameterStore.inMemory(parameterLayout(CONFIG));
  initializeParameters(CONFIG, store.layout, store.parameters(0), 1);
  const learner = new Learner(CONFIG, store, { threads: 1, noDecay: ["norms", "embeddings"] });
  released.push(learner);
  learner.step({ lr: 0.1, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.5, clip: 0 }, 0, 1);
  for (const { name, kind } of store.layout.entries) {
    const before = parameterView(store.layout, store.parameters(0), name);
    const factor = kind === "norm" || kind === "embedding" ? 1 : 0.95;
    expect(
      relativeError(
        parameterView(store.layout, store.parameters(1), name),
        before.map((v) => v * factor),
      ),
    ).toBeLessThan(1e-6);
  }
});

test("a student comes nearer to its teacher, token by token of the vocabulary", () => {
  const { learner: student, store } = makeLearner(2048);
  const teacher = makeLearner(2048);
  initializeParameters(CONFIG, parameterLayout(CONFIG), teacher.store.parameters(0), 2);
  const count = CONFIG.vocabularySize;
  const ids = sequences.map(({ length }) => Int32Array.from({ length: length * count }, (_, i) => i % count));
  const taught = teacher.learner.forward(sequences, 0, 1, { candidates: { count, ids } }).candidateLogprobs;
  const predictions = sequences.reduce((sum, { length }) => sum + length - 1, 0);
  const zeros = sequences.map(({ length }) => new Float32Array(length));
  const settings = { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 } as const;
  const losses = Array.from({ length: 8 }, (_, step) => {
    const slot = step % 2;
    const { candidateLogprobs } = student.forward(sequences, slot, 1, { candidates: { count, ids } });
    let loss = 0;
    const weights = candidateLogprobs.map((row, i) => {
      const result = new Float32Array(row.length);
      for (let at = count; at < row.length; at += count) {
        const teacher_K = (taught[i] as Float32Array).subarray(at, at + count);
        const output = candidateDistillation(row.subarray(at, at + count), teacher_K, {
          kind: "jensen-shannon",
          normaliser: "top-k",
        });
        loss += output.loss / predictions;
        result.set(
          output.weights_K.map((weight) => weight / predictions),
          at,
        );
      }
      return result;
    });
    student.backward(sequences, zeros, slot, 1, { candidates: { count, ids, weights } });
    store.publish(2, 1);
    student.step(settings, slot, 1 - slot);
    return loss;
  });
  expect(losses.at(-1)).toBeLessThan(0.6 * (losses[0] as number));
});
