import { afterAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Rng } from "../../src/core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../src/models/config.ts";
import { trainableLayout } from "../../src/models/decoder-graph.ts";
import { rootMeanSquare } from "../../src/models/gradient-check.ts";
import { layerGraph } from "../../src/models/layer-graphs.ts";
import { ParameterStore } from "../../src/models/parameter-store.ts";
import { initializeParameters } from "../../src/models/parameters.ts";
import { Learner } from "../../src/trainer/learner.ts";
import type { Packing } from "../../src/trainer/micro-batches.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
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
  experts: null,
  tiedEmbeddings: true,
  contextLength: 64,
};
const CANDIDATES = 2;

const learners: Learner[] = [];
afterAll(() => {
  for (const learner of learners) learner.release();
});

function makeLearner(executor: "graph" | "layers", packing: Packing, contextLength = 64): Learner {
  const config = { ...CONFIG, contextLength };
  const store = ParameterStore.inMemory(trainableLayout(CONFIG, { valueHead: true }));
  initializeParameters(config, store.layout, store.parameters(0), 1);
  const learner = new Learner(config, store, { threads: 2, maxTokensPerMicroBatch: 128, executor, packing });
  learners.push(learner);
  return learner;
}

/** Sequences, and random weights for all terms of a loss. */
function makeBatch(lengths: readonly number[]) {
  const rng = new Rng(`batch ${lengths}`);
  const sequences = lengths.map((length) => Int32Array.from({ length }, () => rng.int(0, 39)));
  const random = (width = 1) =>
    sequences.map(({ length }) => Float32Array.from({ length: length * width }, () => rng.normal()));
  const ids = sequences.map(({ length }) => Int32Array.from({ length: length * CANDIDATES }, () => rng.int(0, 39)));
  const terms = {
    entropyWeights: random(),
    values: { weights: random(), into: "trunk" as const },
    candidates: { count: CANDIDATES, ids, weights: random(CANDIDATES) },
  };
  return { sequences, weights: random(), terms };
}

function compute(learner: Learner, { sequences, weights, terms }: ReturnType<typeof makeBatch>) {
  learner.clearGradients();
  const forward = learner.forward(sequences, 0, 0.7, { values: true, candidates: terms.candidates });
  const backward = learner.backward(sequences, weights, 0, 0.7, terms);
  return { forward, backward, gradients: learner.gradients.slice() };
}

function expectClose(a: readonly Float32Array[], b: readonly Float32Array[], tolerance: number): void {
  expect(a.map(({ length }) => length)).toEqual(b.map(({ length }) => length));
  const differences = a.flatMap((row, i) => Array.from(row, (x, t) => Math.abs(x - (b[i]?.[t] as number))));
  expect(Math.max(0, ...differences)).toBeLessThan(tolerance);
}

describe.each(["graph", "layers"] as const)("several sequences per row, executor %s", (executor) => {
  const apart = makeLearner(executor, "off");
  const packed = makeLearner(executor, "on");

  test("compute what each computes in a row of its own", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 65 }), { minLength: 1, maxLength: 12 }), (lengths) => {
        const batch = makeBatch(lengths);
        const got = compute(packed, batch);
        const want = compute(apart, batch);
        for (const name of ["logprobs", "values", "candidateLogprobs"] as const) {
          expectClose(got.forward[name], want.forward[name], 1e-5);
        }
        expectClose(got.backward.logprobs, want.backward.logprobs, 1e-5);
        expect(got.backward.loss).toBeCloseTo(want.backward.loss, 3);
        expect(got.backward.entropy).toBeCloseTo(want.backward.entropy, 5);
        expect(got.backward.tokens).toBe(want.backward.tokens);
        const error = rootMeanSquare(got.gradients.map((g, i) => g - (want.gradients[i] as number)));
        expect(error).toBeLessThanOrEqual(1e-6 * rootMeanSquare(want.gradients));
      }),
      { numRuns: 4, examples: [[[30, 9, 17, 2, 1, 40, 25, 12]]] },
    );
  }, 60_000);

  test("a sequence does not see its neighbours", () => {
    const of = (other: number) =>
      packed.logprobs([Int32Array.from({ length: 30 }, (_, t) => t), new Int32Array(30).fill(other)], 0)[0];
    expect(of(7)).toEqual(of(8) as Float32Array);
  });
});

test("rows whose attention is computed again on the way back", () => {
  const batch = makeBatch([1101, 301, 100]);
  const got = compute(makeLearner("layers", "on", 2048), batch);
  const want = compute(makeLearner("layers", "off", 2048), batch);
  expectClose(got.backward.logprobs, want.backward.logprobs, 1e-5);
  const error = rootMeanSquare(got.gradients.map((g, i) => g - (want.gradients[i] as number)));
  expect(error).toBeLessThanOrEqual(1e-6 * rootMeanSquare(want.gradients));
}, 60_000);

test("the masks of a long row take little beside its scores", () => {
  const config = { ...CONFIG, contextLength: 4096 };
  const bytes = (packed: boolean) =>
    layerGraph(
      { config, adapters: undefined },
      { layer: 0, rows: 1, length: 4096, direction: "backward", packed },
    ).workingBytes();
  // a block's mask has as many elements as the scores of one head, and is bool before it is float
  expect(bytes(true)).toBeLessThan(bytes(false) + 2 * 256 * 4096 * 5);
});
