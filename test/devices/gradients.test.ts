/** Every operator and whole models on WebGPU, compared with float64 on the processor. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Rng } from "../../src/core/rng.ts";
import { ARCHITECTURES, type DecoderConfig, type ModelType } from "../../src/models/config.ts";
import { DecoderReference } from "../../src/models/decoder-reference.ts";
import { DeviceParameters } from "../../src/models/device-parameters.ts";
import { checkGradients, rootMeanSquare } from "../../src/models/gradient-check.ts";
import { OPERATOR_CASES } from "../../src/models/operator-cases.ts";
import { ParameterStore } from "../../src/models/parameter-store.ts";
import { parameterLayout, parameterView } from "../../src/models/parameters.ts";
import { RANDOM_OPERATORS, randomCase } from "../../src/models/random-cases.ts";
import type { Provider } from "../../src/runtime/provider.ts";
import { DeviceLearner } from "../../src/trainer/device-learner.ts";
import { webgpu } from "./support.ts";

/** rms(float32 − float64) / rms(float64), of an operator's gradients, as for the processor; 3e-6 was seen on SwiftShader. */
const OPERATOR_LIMIT = 1e-5;
/** The same of every parameter's gradient of a two-layer model. */
const MODEL_LIMIT = 1e-5;
const RANDOM_SHAPES = 2;

describe.skipIf(webgpu === undefined)("webgpu", () => {
  const provider = webgpu as Provider;

  test.each(Object.entries(OPERATOR_CASES))("gradients of %s", (_, { build, inputs }) => {
    const { float32Error } = checkGradients(build, inputs, 0, { profile: "webgpu", provider });
    expect(float32Error).toBeLessThan(OPERATOR_LIMIT);
  });

  test.each(RANDOM_OPERATORS)("gradients of %s of any shape", (name) => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { build, inputs } = randomCase(name, seed);
        expect(checkGradients(build, inputs, 0, { profile: "webgpu", provider }).float32Error).toBeLessThan(
          OPERATOR_LIMIT,
        );
      }),
      { numRuns: RANDOM_SHAPES, endOnFailure: true },
    );
  });

  test.each(["llama", "qwen2", "qwen3"] as const)(
    "a whole %s model: log-probabilities and every gradient",
    (type) => {
      const { logprobs, gradients } = compareModel(provider, type);
      expect(logprobs).toBeLessThan(2e-5);
      expect(gradients).toBeLessThan(MODEL_LIMIT);
    },
    60_000,
  );

  test("an operator that the device cannot do is an error, not a detour over the processor", () => {
    // The fused operators of the cpu profile: WebGPU has no LogSoftmax.
    const { build, inputs } = OPERATOR_CASES[
      "tokenDistribution: log-probability alone"
    ] as (typeof OPERATOR_CASES)[string];
    expect(() => checkGradients(build, inputs, 0, { profile: "cpu", provider })).toThrow("fallback to CPU EP");
  });
});

const LENGTH = 8;

function modelConfig(type: ModelType): DecoderConfig {
  return {
    ...ARCHITECTURES[type],
    experts: null,
    vocabularySize: 20,
    hiddenSize: 16,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    intermediateSize: 20,
    normEps: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: null,
    tiedEmbeddings: true,
    contextLength: 32,
  };
}

/** Largest difference of a log-probability, and largest relative one of a parameter's gradient, between WebGPU and float64. */
function compareModel(provider: Provider, type: ModelType): { logprobs: number; gradients: number } {
  const config = modelConfig(type);
  const layout = parameterLayout(config);
  const store = ParameterStore.inMemory(layout);
  const reference = new DecoderReference(config, LENGTH);
  const rng = new Rng(`webgpu ${type}`);
  for (const { name, kind, shape } of layout.entries) {
    const view = parameterView(layout, store.parameters(0), name);
    const spread = kind === "norm" ? 0.2 : 1.5 * (shape[1] ?? 1) ** -0.5;
    for (let i = 0; i < view.length; i++) view[i] = (kind === "norm" ? 1 : 0) + spread * rng.normal();
  }
  reference.parameters.set(store.parameters(0));
  const sequence = Int32Array.from({ length: LENGTH + 1 }, (_, t) => (t % 3 === 0 ? 3 : rng.int(0, 19)));
  const weights = Float32Array.from(sequence, () => rng.normal());
  const bonus = Float32Array.from(sequence, () => 0.3 * rng.normal());
  reference.run(sequence, weights, 0.8, { entropyWeights: bonus });
  const parameters = new DeviceParameters(provider, store);
  const learner = new DeviceLearner(config, store, parameters);
  const { logprobs } = learner.backward([sequence], [weights], 0, 0.8, { entropyWeights: [bonus] });
  const gradients = learner.gradients;
  const result = {
    logprobs: Math.max(
      ...reference.logprobs.map((value, t) => Math.abs(value - ((logprobs[0] as Float32Array)[t + 1] as number))),
    ),
    gradients: Math.max(
      ...layout.entries.map(({ name }) => {
        const expected = parameterView(layout, reference.gradients, name);
        const found = parameterView(layout, gradients, name);
        return rootMeanSquare(expected.map((value, i) => value - (found[i] as number))) / rootMeanSquare(expected);
      }),
    ),
  };
  learner.release();
  parameters.release();
  reference.release();
  return result;
}
