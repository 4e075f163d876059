import { afterAll, describe, expect, test } from "bun:test";
import { Rng } from "../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../models/config.ts";
import { trainableLayout } from "../models/decoder-graph.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { EMBEDDING, initializeParameters, parameterLayout, parameterView } from "../models/parameters.ts";
import { Learner, type LearnerOptions } from "./learner.ts";
import { GlobalNorm } from "./optimizer.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  ...{ experts: null, vocabularySize: 24, hiddenSize: 16, layers: 1, heads: 2, kvHeads: 1, headDim: 8 },
  ...{ intermediateSize: 24, normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, contextLength: 16 },
  tiedEmbeddings: false,
};
const SETTINGS = { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1, clip: 1 } as const;

const rng = new Rng("lanes");
const batch = [7, 12, 5, 9, 14].map((length) => Int32Array.from({ length }, () => rng.int(0, 23)));
const weights = batch.map((sequence) => Float32Array.from(sequence, () => rng.normal()));
const valueWeights = batch.map((sequence) => Float32Array.from(sequence, () => rng.normal()));

const learners: Learner[] = [];
afterAll(() => {
  for (const learner of learners) learner.release();
});

function makeLearner(options: Partial<LearnerOptions>) {
  const store = ParameterStore.inMemory(trainableLayout(CONFIG, { valueHead: true }));
  initializeParameters(CONFIG, parameterLayout(CONFIG), store.parameters(0), 1);
  const learner = new Learner(CONFIG, store, { threads: 2, maxTokensPerMicroBatch: 32, ...options });
  learners.push(learner);
  return { learner, store };
}

/** What one kind of learner has after several updates, one of fewer micro-batches than lanes, and what it said on the way. */
function train(options: Partial<LearnerOptions>) {
  const { learner, store } = makeLearner(options);
  const norms: number[] = [];
  const embeddings: Float32Array[] = [];
  let slot = 0;
  for (const [count, values] of [
    [5, true],
    [1, false],
    [5, false],
    [0, false],
  ] as const) {
    for (const _ of [1, 2]) {
      const terms = values ? { values: { weights: valueWeights.slice(0, count), into: "trunk" as const } } : {};
      learner.backward(batch.slice(0, count), weights.slice(0, count), slot, 1, terms);
    }
    embeddings.push(parameterView(store.layout, learner.gradients, EMBEDDING).slice());
    learner.backward(batch.slice(0, count), weights.slice(0, count), slot);
    const target = store.targetFor(slot as 0 | 1 | 2);
    norms.push(learner.step(SETTINGS, slot, target).gradNorm);
    slot = target;
  }
  return {
    norms,
    embeddings,
    parameters: store.parameters(slot as 0 | 1 | 2).slice(),
    left: learner.gradients.slice(),
  };
}

describe("gradients of lanes", () => {
  test("replacing them first is the same as adding to zeros", () => {
    const added = train({});
    const replaced = train({ replaceFrom: 0 });
    expect(replaced.norms).toEqual(added.norms);
    expect(added.norms[3]).toBe(0);
    expect(replaced.parameters.every((value, i) => value === added.parameters[i])).toBe(true);
    for (const [i, embedding] of replaced.embeddings.entries()) {
      expect(embedding.every((value, j) => value === added.embeddings[i]?.[j])).toBe(true);
    }
    expect(replaced.left.every((value) => value === 0)).toBe(true);
  });

  test("the norm that adding up tells is that of the sum, and gradients that were changed have another", () => {
    const { learner } = makeLearner({ replaceFrom: 0 });
    learner.backward(batch, weights, 0);
    const told = learner.step({ ...SETTINGS, lr: 0 }, 0, 1).gradNorm;
    learner.backward(batch, weights, 0);
    const norm = new GlobalNorm(learner.gradients.slice(), 1);
    expect(told).toBe(norm.compute());
    norm.release();
    learner.gradients.fill(0);
    learner.gradients[0] = 3;
    expect(learner.step(SETTINGS, 0, 1).gradNorm).toBe(3);
  });
});
