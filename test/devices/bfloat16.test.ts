/** Matrices kept in bfloat16 on WebGPU: operators, rounding, training with float32 masters, generation. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { linear } from "../../src/autodiff/matmul.ts";
import { Rng } from "../../src/core/rng.ts";
import { BFLOAT16_CASES, roundedToBfloat16 } from "../../src/models/bfloat16-cases.ts";
import { bfloat16Bytes, keptInBfloat16 } from "../../src/models/bfloat16-matrices.ts";
import { DecoderReference } from "../../src/models/decoder-reference.ts";
import { DeviceParameters } from "../../src/models/device-parameters.ts";
import { FrozenParameters } from "../../src/models/frozen-parameters.ts";
import { type CheckedFunction, checkGradients, rootMeanSquare } from "../../src/models/gradient-check.ts";
import { adaptersFor, initializeAdapters, loraTargets } from "../../src/models/lora.ts";
import { ParameterStore } from "../../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout, parameterView } from "../../src/models/parameters.ts";
import { emitNarrow } from "../../src/onnx/bfloat16.ts";
import { OnnxBuilder } from "../../src/onnx/builder.ts";
import { GenerationEngine } from "../../src/policy/generation/engine.ts";
import { allocateBytes, allocateFloat32 } from "../../src/runtime/memory.ts";
import { copyTensors, type DeviceValue, type Provider } from "../../src/runtime/provider.ts";
import { Session } from "../../src/runtime/session.ts";
import { float32Value, Value } from "../../src/runtime/value.ts";
import { DeviceLearner } from "../../src/trainer/device-learner.ts";
import { Learner } from "../../src/trainer/learner.ts";
import { finish } from "../../src/trainer/micro-operations.ts";
import { tinyDecoder, webgpu } from "./support.ts";

const CONFIG = tinyDecoder("qwen2");
const LAYOUT = parameterLayout(CONFIG);
const SETTINGS = { lr: 0.02, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1, clip: 1 } as const;
const SHORT = LAYOUT.entries.filter((entry) => keptInBfloat16("bfloat16", entry));

function storeWith(fill: (flat: Float32Array) => void): ParameterStore {
  const store = ParameterStore.inMemory(LAYOUT);
  fill(store.parameters(0));
  store.publish(0, 0);
  return store;
}

const random = (flat: Float32Array) => initializeParameters(CONFIG, LAYOUT, flat, 7);

/** What the device computes with: matrices rounded, everything else as it is. */
function rounded(flat: Float32Array): Float32Array<ArrayBuffer> {
  const values = flat.slice() as Float32Array<ArrayBuffer>;
  for (const { name } of SHORT) {
    const view = parameterView(LAYOUT, values, name);
    view.set(roundedToBfloat16(view));
  }
  return values;
}

function batch(seed: number) {
  const rng = new Rng(`batch ${seed}`);
  const sequences = [9, 6].map((length) => Int32Array.from({ length }, () => rng.int(0, CONFIG.vocabularySize - 1)));
  return { sequences, weights: sequences.map((sequence) => Float32Array.from(sequence, () => rng.normal())) };
}

const largestDifference = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((worst, value, i) => Math.max(worst, Math.abs(value - (b[i] as number))), 0);

describe.skipIf(webgpu === undefined)("bfloat16 on webgpu", () => {
  const provider = webgpu as Provider;

  test.each(Object.entries(BFLOAT16_CASES))("gradients of %s of any shape", (_, makeCase) => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { build, inputs } = makeCase(seed);
        expect(checkGradients(build, inputs, 0, { profile: "webgpu", provider }).float32Error).toBeLessThan(1e-5);
      }),
      { numRuns: 3, endOnFailure: true },
    );
  });

  test("a matrix in many blocks", () => {
    const inputs = {
      x: { shape: [3, 6], values: Array.from({ length: 18 }, (_, i) => Math.cos(i)) },
      w: { shape: [40, 6], values: roundedToBfloat16(Array.from({ length: 240 }, (_, i) => Math.sin(i))), short: true },
      b: { shape: [40], values: Array.from({ length: 40 }, (_, i) => i / 40) },
    };
    const build: CheckedFunction<"x" | "w" | "b"> = (graph, { x, w, b }) => {
      graph.widenedAtOnce = 6;
      return [linear(graph, x, w, b)];
    };
    expect(checkGradients(build, inputs, 0, { profile: "webgpu", provider }).float32Error).toBeLessThan(1e-5);
  });

  test("float32 is rounded as on the host: every finite value, what lies between, and ties", () => {
    const codes = Array.from({ length: 65_536 }, (_, code) => code).filter((code) => {
      const exponent = (code >> 7) & 255;
      return exponent >= 127 - 100 && exponent < 127 + 100;
    });
    const offsets = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    const bits = codes.flatMap((code) => offsets.map((offset) => ((code << 16) | offset) >>> 0));
    const count = bits.length - (bits.length % 256);
    const x = allocateFloat32(count);
    new Uint32Array(x.buffer, x.byteOffset, count).set(bits.slice(0, count));
    const shape = [count / 256, 256];
    const graph = new OnnxBuilder("narrow");
    emitNarrow(graph, "packed", graph.input("x", "float32", shape), "y");
    graph.output("y", "uint32", [shape[0] as number, 128]);
    const session = new Session(graph.encode(), { threads: 1, provider });
    const y = allocateBytes(2 * count);
    session.prepare({ x: float32Value(x, shape) }, { y: new Value("uint32", [shape[0] as number, 128], y) })();
    session.release();
    expect(Buffer.from(y).equals(Buffer.from(bfloat16Bytes("packed", x, 256)))).toBe(true);
  });

  test("zero and what is too small become zero, what is too large the largest", () => {
    const x = allocateFloat32(4);
    x.set([0, 2 ** -110, 2 ** 120, -(2 ** 120)]);
    const graph = new OnnxBuilder("narrow");
    emitNarrow(graph, "packed", graph.input("x", "float32", [1, 4]), "y");
    graph.output("y", "uint32", [1, 2]);
    const session = new Session(graph.encode(), { threads: 1, provider });
    const y = allocateBytes(8);
    session.prepare({ x: float32Value(x, [1, 4]) }, { y: new Value("uint32", [1, 2], y) })();
    session.release();
    expect(Buffer.from(y)).toEqual(
      Buffer.from(bfloat16Bytes("packed", Float32Array.of(0, 0, 2 ** 100, -(2 ** 100)), 4)),
    );
  });

  test("full training: gradients at the rounded weights, applied to float32 masters, whose copy follows", () => {
    const store = storeWith(random);
    const parameters = new DeviceParameters(provider, store, undefined, "bfloat16");
    const learner = new DeviceLearner(CONFIG, store, parameters);
    const host = storeWith((flat) => flat.set(rounded(store.parameters(0))));
    const expected = new Learner(CONFIG, host, { threads: 1 });
    const { sequences, weights } = batch(1);
    const found = learner.backward(sequences, weights, 0);
    const wanted = expected.backward(sequences, weights, 0);
    expect(
      largestDifference(
        found.logprobs.flatMap((row) => [...row]),
        wanted.logprobs.flatMap((row) => [...row]),
      ),
    ).toBeLessThan(1e-5);
    for (const { name } of LAYOUT.entries) {
      const view = parameterView(LAYOUT, expected.gradients, name);
      const difference = parameterView(LAYOUT, learner.gradients, name).map((g, i) => g - (view[i] as number));
      expect(rootMeanSquare(difference) / rootMeanSquare(view)).toBeLessThan(1e-4);
    }

    host.parameters(0).set(store.parameters(0)); // The masters were never rounded.
    learner.step(SETTINGS, 0, 1);
    expected.step(SETTINGS, 0, 1);
    const { short } = parameters.source(1);
    expect(Object.keys(short)).toEqual(SHORT.map(({ name }) => name));
    parameters.toStore(1);
    expect(largestDifference(store.parameters(1), host.parameters(1))).toBeLessThan(1e-4);
    for (const { name, shape } of SHORT) {
      const stored = short[name] as DeviceValue;
      const bytes = allocateBytes(2 * shape.reduce((product, size) => product * size, 1));
      copyTensors([stored], [new Value("uint32", stored.shape, bytes)]);
      const master = parameterView(LAYOUT, store.parameters(1), name);
      expect(Buffer.from(bytes).equals(Buffer.from(bfloat16Bytes("packed", master, shape[1] as number)))).toBe(true);
    }
    for (const item of [learner, expected, parameters]) item.release();
  }, 60_000);

  test("adapters on a frozen base: what a model of rounded weights computes", () => {
    const adapters = adaptersFor(CONFIG, { rank: 4, alpha: 8, targets: loraTargets(CONFIG), rslora: false });
    const make = () => {
      const store = ParameterStore.inMemory(adapters.layout);
      initializeAdapters(adapters, store.parameters(0), 5);
      const rng = new Rng("adapters");
      const flat = store.parameters(0);
      for (let i = 0; i < flat.length; i++) flat[i] = (flat[i] as number) + 0.05 * rng.normal();
      store.publish(0, 0);
      return store;
    };
    const frozen = FrozenParameters.inMemory(LAYOUT, random);
    const exact = FrozenParameters.inMemory(LAYOUT, (flat) => flat.set(rounded(frozen.flat)));
    const [store, host] = [make(), make()];
    const base = { parameters: frozen, adapters };
    const parameters = new DeviceParameters(provider, store, base, "bfloat16");
    const learner = new DeviceLearner(CONFIG, store, parameters, { base });
    const expected = new Learner(CONFIG, host, { threads: 1, base: { parameters: exact, adapters } });
    const { sequences, weights } = batch(2);
    learner.backward(sequences, weights, 0);
    expected.backward(sequences, weights, 0);
    const difference = learner.gradients.map((g, i) => g - (expected.gradients[i] as number));
    expect(rootMeanSquare(difference) / rootMeanSquare(expected.gradients)).toBeLessThan(1e-4);
    const reference = finish(learner.referenceForwarding(sequences, 1)).logprobs;
    const wanted = expected.referenceLogprobs(sequences);
    expect(
      largestDifference(
        reference.flatMap((row) => [...row]),
        wanted.flatMap((row) => [...row]),
      ),
    ).toBeLessThan(1e-5);
    for (const item of [learner, expected, parameters]) item.release();
  }, 60_000);

  test.each([true, false])(
    "generation: what training computes (tied embeddings: %p)",
    (tiedEmbeddings) => {
      const config = { ...CONFIG, tiedEmbeddings };
      const layout = parameterLayout(config);
      const store = ParameterStore.inMemory(layout);
      initializeParameters(config, layout, store.parameters(0), 9);
      store.publish(0, 0);
      const parameters = new DeviceParameters(provider, store, undefined, "bfloat16");
      const generation = new GenerationEngine(config, store, {
        threads: 1,
        slots: 2,
        rows: 2,
        context: 32,
        device: parameters,
      });
      const context = Int32Array.of(3, 9, 27, 1, 5);
      const ids: number[] = [];
      let logprobs = new Float32Array();
      generation.open(0, "sequence");
      const sampling = { temperature: 1, greedy: true, maxTokens: 5, stopIds: [] };
      generation.submit({ sequenceId: 0, context, sampling });
      generation.drain(new Set([0]), ({ generation: answer }) => {
        ids.push(...answer.ids);
        logprobs = Float32Array.from(answer.logprobsT1);
      });
      const learner = new DeviceLearner(config, store, parameters);
      const [trained] = learner.logprobs([Int32Array.of(...context, ...ids)], 0);
      expect(largestDifference(logprobs, (trained as Float32Array).subarray(context.length))).toBeLessThan(1e-5);
      const reference = new DecoderReference(config, context.length + ids.length - 1);
      for (const { name } of layout.entries) {
        const view = parameterView(layout, store.parameters(0), name);
        const short = keptInBfloat16("bfloat16", layout.byName.get(name) as (typeof layout.entries)[number]);
        parameterView(reference.layout, reference.parameters, name).set(short ? roundedToBfloat16(view) : view);
      }
      reference.run(Int32Array.of(...context, ...ids), new Float32Array(context.length + ids.length));
      expect(largestDifference(logprobs, reference.logprobs.subarray(context.length - 1))).toBeLessThan(1e-5);
      generation.dispose();
      for (const item of [learner, parameters, reference]) item.release();
    },
    60_000,
  );
});
