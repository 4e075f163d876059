import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../src/models/config.ts";
import { VALUE_HEAD_BIAS, VALUE_HEAD_WEIGHT } from "../../src/models/decoder-head.ts";
import { DecoderReference } from "../../src/models/decoder-reference.ts";
import { rootMeanSquare } from "../../src/models/gradient-check.ts";
import { parameterView } from "../../src/models/parameters.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: 19,
  hiddenSize: 16,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 6,
  intermediateSize: 20,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: { factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContextLength: 16 },
  tiedEmbeddings: true,
  contextLength: 32,
};
const LENGTH = 7;
const STEP = 1e-3;

/** Weights large enough that attention and gates are far from linear. */
function fill(reference: DecoderReference): void {
  const rng = new Rng("weights");
  for (const { name, kind, shape } of reference.layout.entries) {
    const view = parameterView(reference.layout, reference.parameters, name);
    const spread = kind === "norm" ? 0.2 : 1.5 * (shape[1] ?? 1) ** -0.5;
    for (let i = 0; i < view.length; i++) view[i] = (kind === "norm" ? 1 : 0) + spread * rng.normal();
  }
}

const MODELS: Readonly<Record<string, DecoderConfig>> = {
  "llama, tied embeddings": CONFIG,
  llama: { ...CONFIG, tiedEmbeddings: false },
  "qwen2: biases": { ...CONFIG, ...ARCHITECTURES.qwen2, ropeScaling: null },
  "qwen3: norms of queries and keys": { ...CONFIG, ...ARCHITECTURES.qwen3, ropeScaling: null, tiedEmbeddings: false },
  "qwen3_moe: one layer with routed experts, one without": {
    ...CONFIG,
    ...ARCHITECTURES.qwen3_moe,
    ropeScaling: null,
    experts: { count: 5, perToken: 2, intermediateSize: 6, normalizeWeights: true, sparseStep: 1, denseLayers: [1] },
  },
};

describe.each(Object.entries(MODELS))("whole model, %s", (_, config) => {
  test("gradients of all terms of a loss against central differences", () => {
    const reference = new DecoderReference(config, LENGTH, { values: "trunk", candidates: 3 });
    fill(reference);
    const rng = new Rng("data");
    // token 3 comes up often, so that rows of the embedding's gradient are sums
    const sequence = Int32Array.from({ length: LENGTH + 1 }, (_, t) => (t % 3 === 0 ? 3 : rng.int(0, 18)));
    const weights = Float64Array.from(sequence, () => (rng.next() < 0.3 ? 0 : rng.normal()));
    const bonus = Float64Array.from(sequence, () => 0.3 * rng.normal());
    const terms = {
      entropyWeights: bonus,
      valueWeights: bonus.map((weight) => weight + 0.1),
      candidates: Int32Array.from({ length: 3 * sequence.length }, (_, i) => (7 * i) % CONFIG.vocabularySize),
      candidateWeights: Float64Array.from({ length: 3 * sequence.length }, () => rng.normal()),
    };
    const loss = () => reference.run(sequence, weights, 0.8, terms);
    loss();
    const gradients = reference.gradients.slice();
    let worst = 0;
    for (const { name, offset, size } of reference.layout.entries) {
      // an expert no token chose has gradient 0
      const rms = rootMeanSquare(parameterView(reference.layout, gradients, name)) || 1;
      for (let probe = 0; probe < 2; probe++) {
        // the first probe of the embedding is in the row of the frequent token
        const element = offset + (probe === 0 && offset === 0 ? 3 * CONFIG.hiddenSize : rng.int(0, size - 1));
        const centre = reference.parameters[element] as number;
        const at = (shift: number) => {
          reference.parameters[element] = centre + shift;
          return loss();
        };
        const difference = (8 * (at(STEP) - at(-STEP)) - (at(2 * STEP) - at(-2 * STEP))) / (12 * STEP);
        reference.parameters[element] = centre;
        worst = Math.max(worst, Math.abs(difference - (gradients[element] as number)) / rms);
      }
    }
    reference.release();
    expect(worst).toBeGreaterThan(0);
    expect(worst).toBeLessThan(1e-8);
  });
});

test("gradients of values stop at the value head when asked to", () => {
  const reference = new DecoderReference(CONFIG, LENGTH, { values: "head" });
  fill(reference);
  const sequence = Int32Array.from({ length: LENGTH + 1 }, (_, t) => t);
  const ones = new Float64Array(sequence.length).fill(1);
  reference.run(
    sequence,
    ones.map(() => 0),
    1,
    { valueWeights: ones },
  );
  const trained = reference.layout.entries.filter(({ name }) =>
    parameterView(reference.layout, reference.gradients, name).some((gradient) => gradient !== 0),
  );
  expect(trained.map(({ name }) => name)).toEqual([VALUE_HEAD_WEIGHT, VALUE_HEAD_BIAS]);
  reference.release();
});
