/** Training on WebGPU with parameters, gradients and moments on the device, compared with the same on the processor. */

import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/core/rng.ts";
import { DeviceParameters } from "../../src/models/device-parameters.ts";
import { type AdaptedBase, FrozenParameters } from "../../src/models/frozen-parameters.ts";
import { rootMeanSquare } from "../../src/models/gradient-check.ts";
import { adaptersFor, initializeAdapters, loraTargets } from "../../src/models/lora.ts";
import { ParameterStore, type Slot } from "../../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../src/models/parameters.ts";
import type { Provider } from "../../src/runtime/provider.ts";
import { DeviceLearner } from "../../src/trainer/device-learner.ts";
import { Learner } from "../../src/trainer/learner.ts";
import { tinyDecoder, webgpu } from "./support.ts";

const CONFIG = tinyDecoder("qwen2", { vocabularySize: 24, tiedEmbeddings: false, contextLength: 32 });
const LAYOUT = parameterLayout(CONFIG);
const SETTINGS = { lr: 3e-3, betas: [0.9, 0.95] as const, eps: 1e-8, weightDecay: 0.1, clip: 0.5 };
/** Sequences of two rectangles: three rows of 16 tokens in two micro-batches. */
const MICRO_BATCH = 32;

function data(seed: number) {
  const rng = new Rng(`training on a device ${seed}`);
  const sequences = [12, 9, 15].map((length) =>
    Int32Array.from({ length }, () => rng.int(0, CONFIG.vocabularySize - 1)),
  );
  const weights = sequences.map((sequence) => Float32Array.from(sequence, () => rng.normal()));
  return { sequences, weights };
}

/** Where steps 1, 2, 3 read and write while slot 0 is published. */
const SLOTS: readonly (readonly [from: Slot, to: Slot])[] = [
  [0, 1],
  [1, 2],
  [2, 1],
];

function difference(found: Float32Array, expected: Float32Array): number {
  return rootMeanSquare(expected.map((value, i) => value - (found[i] as number))) / rootMeanSquare(expected);
}

describe.skipIf(webgpu === undefined)("webgpu", () => {
  const provider = webgpu as Provider;

  /** Three steps on both; returns largest relative differences. */
  function compare(make: () => ParameterStore, base?: AdaptedBase) {
    const host = make();
    const store = make();
    const parameters = new DeviceParameters(provider, store, base);
    const options = { maxTokensPerMicroBatch: MICRO_BATCH, exemptNorms: true, base };
    const expected = new Learner(CONFIG, host, { ...options, threads: 1 });
    const learner = new DeviceLearner(CONFIG, store, parameters, options);
    const worst = { logprobs: 0, gradients: 0, norm: 0, parameters: 0, moments: 0 };
    for (const [step, [from, to]] of SLOTS.entries()) {
      const { sequences, weights } = data(step);
      const there = learner.backward(sequences, weights, from);
      const here = expected.backward(sequences, weights, from);
      expect(there.loss).toBeCloseTo(here.loss, 3);
      expect(there.entropy).toBeCloseTo(here.entropy, 4);
      for (const [i, values] of here.logprobs.entries()) {
        const found = there.logprobs[i] as Float32Array;
        worst.logprobs = Math.max(worst.logprobs, ...values.map((value, t) => Math.abs(value - (found[t] as number))));
      }
      worst.gradients = Math.max(worst.gradients, difference(learner.gradients, expected.gradients));
      const norm = expected.step(SETTINGS, from, to).gradNorm;
      worst.norm = Math.max(worst.norm, Math.abs(learner.step(SETTINGS, from, to).gradNorm / norm - 1));
    }
    const last = (SLOTS.at(-1) as (typeof SLOTS)[number])[1];
    expect(learner.gradients.every((value) => value === 0)).toBe(true);
    expect(store.step(last)).toBe(SLOTS.length);
    expect(difference(store.parameters(last), host.parameters(last))).toBeGreaterThan(1e-3); // Not back yet,
    parameters.toStore(last); // now it is.
    worst.parameters = difference(store.parameters(last), host.parameters(last));
    worst.moments = Math.max(
      difference(store.firstMoment(last), host.firstMoment(last)),
      difference(store.secondMoment(last), host.secondMoment(last)),
    );
    for (const item of [learner, expected, parameters]) item.release();
    return worst;
  }

  test("three steps of full training", () => {
    const worst = compare(() => {
      const store = ParameterStore.inMemory(LAYOUT);
      initializeParameters(CONFIG, LAYOUT, store.parameters(0), 7);
      store.publish(0, 0);
      return store;
    });
    expect(worst.logprobs).toBeLessThan(1e-4);
    expect(worst.gradients).toBeLessThan(1e-4);
    expect(worst.norm).toBeLessThan(1e-5);
    expect(worst.parameters).toBeLessThan(1e-4);
    expect(worst.moments).toBeLessThan(1e-4);
  }, 60_000);

  test("three steps of adapters on a frozen base", () => {
    const adapters = adaptersFor(CONFIG, { rank: 4, alpha: 8, targets: loraTargets(CONFIG), rslora: false });
    const frozen = FrozenParameters.inMemory(LAYOUT, (flat) => initializeParameters(CONFIG, LAYOUT, flat, 7));
    const make = () => {
      const store = ParameterStore.inMemory(adapters.layout);
      initializeAdapters(adapters, store.parameters(0), 5);
      store.publish(0, 0);
      return store;
    };
    const worst = compare(make, { parameters: frozen, adapters });
    expect(worst.gradients).toBeLessThan(1e-4);
    expect(worst.parameters).toBeLessThan(1e-4);
  }, 60_000);

  test.each(["all parameters", "adapters"])(
    "the divergence from a frozen model, %s",
    (what) => {
      const frozen = FrozenParameters.inMemory(LAYOUT, (flat) => initializeParameters(CONFIG, LAYOUT, flat, 8));
      const adapters = adaptersFor(CONFIG, { rank: 4, alpha: 8, targets: loraTargets(CONFIG), rslora: false });
      const isAdapted = what === "adapters";
      const store = ParameterStore.inMemory(isAdapted ? adapters.layout : LAYOUT);
      if (isAdapted) store.parameters(0).set(store.parameters(0).map((_, i) => Math.sin(i) / 4));
      else initializeParameters(CONFIG, LAYOUT, store.parameters(0), 7);
      store.publish(0, 0);
      const base = isAdapted ? { parameters: frozen, adapters } : undefined;
      const parameters = new DeviceParameters(provider, store, base);
      const options = { maxTokensPerMicroBatch: MICRO_BATCH, base, reference: isAdapted ? undefined : frozen };
      const expected = new Learner(CONFIG, store, { ...options, threads: 1 });
      const learner = new DeviceLearner(CONFIG, store, parameters, options);
      const { sequences, weights } = data(0);
      const [there, here] = [learner, expected].map((each) => each.forward(sequences, 0, 0.8, { divergence: true }));
      for (const [i, row] of (here?.divergences ?? []).entries()) {
        expect(Math.max(...row)).toBeGreaterThan(1e-4);
        for (const [t, value] of row.entries())
          expect(Math.abs((there?.divergences[i]?.[t] as number) - value)).toBeLessThan(1e-5);
      }
      const terms = { divergenceWeights: weights };
      const found = learner.backward(sequences, weights, 0, 0.8, terms);
      expect(found.divergence).toBeCloseTo(expected.backward(sequences, weights, 0, 0.8, terms).divergence, 4);
      expect(difference(learner.gradients, expected.gradients)).toBeLessThan(1e-4);
      for (const item of [learner, expected, parameters]) item.release();
    },
    60_000,
  );

  test("a gradient that is not finite leaves the target alone and does not stay", () => {
    const store = ParameterStore.inMemory(LAYOUT);
    initializeParameters(CONFIG, LAYOUT, store.parameters(0), 7);
    store.publish(0, 0);
    const parameters = new DeviceParameters(provider, store);
    const learner = new DeviceLearner(CONFIG, store, parameters, { maxTokensPerMicroBatch: MICRO_BATCH });
    const { sequences, weights } = data(0);
    learner.backward(
      sequences,
      weights.map((values) => values.map(() => Number.NaN)),
      0,
    );
    expect(learner.step(SETTINGS, 0, 1).gradNorm).toBeNaN();
    expect(store.step(1)).toBe(0);
    learner.backward(sequences, weights, 0);
    expect(Number.isFinite(learner.step(SETTINGS, 0, 1).gradNorm)).toBe(true);
    expect(() => learner.step(SETTINGS, 1, 0)).toThrow("slot 0 is published");
    for (const item of [learner, parameters]) item.release();
  });
});
