import { expect, test } from "bun:test";
import { ARCHITECTURES, type DecoderConfig } from "./config.ts";
import { trainingFlops } from "./flops.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  ...{ vocabularySize: 10, hiddenSize: 4, layers: 2, heads: 2, kvHeads: 1, headDim: 3, intermediateSize: 5 },
  ...{ normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, tiedEmbeddings: true, contextLength: 16, experts: null },
};
/** Queries and output 4 × 6 each, keys and values 4 × 3 each, three matrices of 4 × 5 in the MLP, in 2 layers; the head. */
const WEIGHTS = 2 * (2 * 24 + 2 * 12 + 3 * 20) + 40;

test("weights that a token meets, pairs of positions, and half as much again for each gradient", () => {
  // Lengths 2 and 1: 3 tokens, 3 + 1 pairs; each pair is 2 products of 6 numbers in each layer.
  const forward = { weights: 2 * WEIGHTS * 3, attention: 2 * 2 * 2 * 6 * 4 };
  expect(trainingFlops(CONFIG, [2, 1], false)).toBe(3 * (forward.weights + forward.attention));
  expect(trainingFlops(CONFIG, [2, 1], true)).toBe(2 * forward.weights + 3 * forward.attention);
  expect(trainingFlops(CONFIG, [], false)).toBe(0);
});

test("of experts only those that work on a token", () => {
  const experts = {
    count: 8,
    perToken: 2,
    intermediateSize: 3,
    normalizeWeights: true,
    sparseStep: 2,
    denseLayers: [],
  };
  const sparse = { ...CONFIG, experts };
  // The second layer: a router of 8 × 4 and two experts of three matrices 4 × 3 in place of the MLP.
  const difference = 8 * 4 + 2 * 3 * 12 - 3 * 20;
  expect(trainingFlops(sparse, [1], false) - trainingFlops(CONFIG, [1], false)).toBe(3 * 2 * difference);
});
