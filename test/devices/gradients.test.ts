/** Every operator and whole models on WebGPU, compared with float64 on the processor. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Rng } from "../../src/core/rng.ts";
import { ARCHITECTURES, type DecoderConfig, type ModelType } from "../../src/models/config.ts";
import {
  accumulatedName,
  decoderGraph,
  EMBEDDED_GRADIENT,
  ENTROPY,
  ENTROPY_WEIGHTS,
  gradientName,
  IDS,
  INVERSE_TEMPERATURE,
  LABELS,
  LOGPROBS,
  WEIGHTS,
} from "../../src/models/decoder-graph.ts";
import { DecoderReference } from "../../src/models/decoder-reference.ts";
import { checkGradients, rootMeanSquare } from "../../src/models/gradient-check.ts";
import { OPERATOR_CASES } from "../../src/models/operator-cases.ts";
import { EMBEDDING, parameterLayout, parameterView } from "../../src/models/parameters.ts";
import { RANDOM_OPERATORS, randomCase } from "../../src/models/random-cases.ts";
import { allocateFloat32, allocateInt32 } from "../../src/runtime/memory.ts";
import type { Provider } from "../../src/runtime/provider.ts";
import { Session } from "../../src/runtime/session.ts";
import { float32Value, int32Value } from "../../src/runtime/value.ts";
import { webgpu } from "./support.ts";

/** rms(float32 − float64) / rms(float64), of an operator's gradients; 3e-7 was seen on SwiftShader. */
const OPERATOR_LIMIT = 2e-6;
/** The same of every parameter's gradient of a two-layer model. */
const MODEL_LIMIT = 5e-6;
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

const LENGTH = 9;

function modelConfig(type: ModelType): DecoderConfig {
  return {
    ...ARCHITECTURES[type],
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
    ropeScaling: null,
    tiedEmbeddings: true,
    contextLength: 32,
  };
}

/** Largest difference of a log-probability, and largest relative one of a parameter's gradient, between WebGPU and float64. */
function compareModel(provider: Provider, type: ModelType): { logprobs: number; gradients: number } {
  const config = modelConfig(type);
  const layout = parameterLayout(config);
  const reference = new DecoderReference(config, LENGTH);
  const rng = new Rng(`webgpu ${type}`);
  for (const { name, kind, shape } of layout.entries) {
    const view = parameterView(layout, reference.parameters, name);
    const spread = kind === "norm" ? 0.2 : 1.5 * (shape[1] ?? 1) ** -0.5;
    for (let i = 0; i < view.length; i++) view[i] = Math.fround((kind === "norm" ? 1 : 0) + spread * rng.normal());
  }
  const sequence = Int32Array.from({ length: LENGTH + 1 }, (_, t) => (t % 3 === 0 ? 3 : rng.int(0, 18)));
  const weights = Float32Array.from(sequence, () => rng.normal());
  const bonus = Float32Array.from(sequence, () => 0.3 * rng.normal());
  reference.run(sequence, weights, 1, bonus);

  const parameters = allocateFloat32(layout.length);
  parameters.set(reference.parameters);
  const gradients = allocateFloat32(layout.length);
  const column = (values: ArrayLike<number>) => {
    const data = allocateFloat32(LENGTH);
    data.set(values);
    return float32Value(data, [LENGTH, 1]);
  };
  const ids = (begin: number) => {
    const data = allocateInt32(LENGTH);
    data.set(sequence.subarray(begin, begin + LENGTH));
    return int32Value(data, [LENGTH]);
  };
  const one = allocateFloat32(1).fill(1);
  const logprobs = allocateFloat32(LENGTH);
  const embedded = allocateFloat32(LENGTH * config.hiddenSize);
  const tensors = (flat: Float32Array, rename: (name: string) => string) =>
    layout.entries.map(
      ({ name, shape }) => [rename(name), float32Value(parameterView(layout, flat, name), shape)] as const,
    );
  const model = decoderGraph(config, { profile: "webgpu", rows: 1, length: LENGTH, mode: "entropy-gradients" });
  const session = new Session(model, { threads: 1, provider });
  session.prepare(
    {
      ...Object.fromEntries([
        ...tensors(parameters, (name) => name),
        ...tensors(allocateFloat32(layout.length), accumulatedName),
      ]),
      [IDS]: ids(0),
      [LABELS]: ids(1),
      [INVERSE_TEMPERATURE]: float32Value(one, []),
      [WEIGHTS]: column(weights.subarray(1)),
      [ENTROPY_WEIGHTS]: column(bonus.subarray(1)),
    },
    {
      ...Object.fromEntries(tensors(gradients, gradientName)),
      [LOGPROBS]: float32Value(logprobs, [LENGTH, 1]),
      [ENTROPY]: column([]),
      [EMBEDDED_GRADIENT]: float32Value(embedded, [LENGTH, config.hiddenSize]),
    },
  )();
  const table = parameterView(layout, gradients, EMBEDDING);
  for (const [i, value] of embedded.entries()) {
    const at = (sequence[Math.floor(i / config.hiddenSize)] as number) * config.hiddenSize + (i % config.hiddenSize);
    table[at] = (table[at] as number) + value;
  }
  const result = {
    logprobs: Math.max(...logprobs.map((value, t) => Math.abs(value - (reference.logprobs[t] as number)))),
    gradients: Math.max(
      ...layout.entries.map(({ name }) => {
        const expected = parameterView(layout, reference.gradients, name);
        const found = parameterView(layout, gradients, name);
        return rootMeanSquare(expected.map((value, i) => value - (found[i] as number))) / rootMeanSquare(expected);
      }),
    ),
  };
  session.release();
  reference.release();
  return result;
}
