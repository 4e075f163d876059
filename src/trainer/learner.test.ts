import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Rng } from "../core/rng.ts";
import { ARCHITECTURES, configFromHuggingFace, type DecoderConfig } from "../models/config.ts";
import { DecoderReference } from "../models/decoder-reference.ts";
import { rootMeanSquare } from "../models/gradient-check.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout, parameterView } from "../models/parameters.ts";
import { readSafetensors } from "../models/safetensors.ts";
import { readWeights } from "../models/weights.ts";
import { Learner, type LearnerOptions } from "./learner.ts";

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
const SETTINGS = { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1, clip: 1 } as const;

const learners: Learner[] = [];
afterAll(() => {
  for (const learner of learners) learner.release();
});

function makeLearner(options: Partial<LearnerOptions> = {}, config = CONFIG) {
  const store = ParameterStore.inMemory(parameterLayout(config));
  initializeParameters(config, store.layout, store.parameters(0), 1);
  const learner = new Learner(config, store, { threads: 1, ...options });
  learners.push(learner);
  return { learner, store };
}

function sequences(lengths: readonly number[], label = "tokens"): Int32Array[] {
  const rng = new Rng(label);
  return lengths.map((length) => Int32Array.from({ length }, () => rng.int(0, CONFIG.vocabularySize - 1)));
}

function randomWeights(of: readonly Int32Array[], label: string): Float32Array[] {
  const rng = new Rng(label);
  return of.map((sequence) => Float32Array.from(sequence, () => (rng.next() < 0.3 ? 0 : rng.normal())));
}

/** rms(a − b) / rms(b). */
function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return rootMeanSquare(Float64Array.from(a, (x, i) => x - (b[i] as number))) / rootMeanSquare(b);
}

describe("gradients and log-probabilities", () => {
  const batch = sequences([9, 30, 2, 17, 1]);
  const weights = randomWeights(batch, "weights");
  const bonus = randomWeights(batch, "bonus");

  const model = new DecoderReference(CONFIG, 29);
  afterAll(() => model.release());

  /** Sums over the sequences, each alone and in float64. */
  function reference(temperature: number, entropyWeights?: readonly Float32Array[]) {
    const { layout } = model;
    const flat = new Float32Array(layout.length);
    initializeParameters(CONFIG, layout, flat, 1);
    model.parameters.set(flat);
    const gradients = new Float64Array(layout.length);
    let loss = 0;
    const logprobs = batch.map((sequence, i) => {
      loss += model.run(sequence, weights[i] as Float32Array, temperature, {
        ...(entropyWeights === undefined ? {} : { entropyWeights: entropyWeights[i] as Float32Array }),
      });
      for (const [j, g] of model.gradients.entries()) gradients[j] = (gradients[j] as number) + g;
      return [0, ...model.logprobs.subarray(0, sequence.length - 1)];
    });
    return { layout, gradients, logprobs, loss };
  }

  test.each(["without", "with"])("agree with float64, sequence by sequence, %s entropy bonus", (which) => {
    const entropyWeights = which === "with" ? bonus : undefined;
    const expected = reference(0.7, entropyWeights);
    const { learner } = makeLearner({ maxTokensPerMicroBatch: 128 });
    const result = learner.backward(batch, weights, 0, 0.7, { entropyWeights });
    for (const [i, logprobs] of result.logprobs.entries()) {
      const difference = logprobs.map((x, t) => x - (expected.logprobs[i]?.[t] as number));
      expect(Math.max(...difference.map(Math.abs))).toBeLessThan(1e-5);
    }
    expect(result.loss).toBeCloseTo(expected.loss, 3);
    for (const { name } of expected.layout.entries) {
      const got = parameterView(expected.layout, learner.gradients, name);
      const want = parameterView(expected.layout, expected.gradients, name);
      expect(relativeError(got, want)).toBeLessThan(1e-5);
    }
    if (which === "without") expect(learner.logprobs(batch, 0, 0.7)).toEqual(result.logprobs);
  });

  test("sums do not depend on the micro-batches, and add up until cleared", () => {
    const { learner: small } = makeLearner({ maxTokensPerMicroBatch: 16 });
    const { learner: large } = makeLearner({ maxTokensPerMicroBatch: 128, threads: 2 });
    small.backward(batch, weights, 0);
    large.backward(batch, weights, 0);
    expect(relativeError(small.gradients, large.gradients)).toBeLessThan(1e-6);
    const { learner: packed } = makeLearner({ maxTokensPerMicroBatch: 64, packing: "on" });
    packed.backward(batch, weights, 0);
    expect(relativeError(packed.gradients, large.gradients)).toBeLessThan(1e-6);
    const once = large.gradients.slice();
    large.backward(batch, weights, 0);
    expect(
      relativeError(
        large.gradients,
        once.map((g) => 2 * g),
      ),
    ).toBeLessThan(1e-6);
    large.clearGradients();
    large.backward(batch, weights, 0);
    expect(large.gradients).toEqual(once);
  });

  test("entropy is the mean over tokens with a weight", () => {
    const { learner, store } = makeLearner({ maxTokensPerMicroBatch: 16 });
    store.parameters(0).fill(0);
    expect(learner.backward(batch.slice(0, 1), weights, 0).entropy).toBeCloseTo(Math.log(CONFIG.vocabularySize), 5);
    expect(learner.backward([], [], 0)).toEqual({ loss: 0, logprobs: [], entropy: 0, tokens: 0, divergence: 0 });
  });

  test("a token outside the vocabulary and a sequence beyond the context are refused", () => {
    const { learner } = makeLearner();
    expect(() => learner.logprobs([Int32Array.of(1, 40)], 0)).toThrow("token 40 is outside the vocabulary of 40");
    expect(() => learner.logprobs(sequences([50]), 0)).toThrow("50 tokens does not fit the context of 48");
    expect(() => learner.logprobs(sequences([5]), 3)).toThrow("no slot 3");
  });
});

describe("training", () => {
  const batch = sequences([20, 20, 33, 18]);
  const weights = batch.map((sequence) => new Float32Array(sequence.length).fill(1 / 87));

  function train(steps: number, threads: number) {
    const { learner, store } = makeLearner({ threads });
    store.publish(0, 0);
    const losses: number[] = [];
    let slot = 0;
    for (let step = 0; step < steps; step++) {
      losses.push(learner.backward(batch, weights, slot).loss);
      const target = store.targetFor(slot as 0 | 1 | 2);
      losses.push(learner.step(SETTINGS, slot, target).gradNorm);
      slot = target;
    }
    return { losses, store, slot: slot as 0 | 1 | 2 };
  }

  test("memorises a batch without touching the published weights", () => {
    const { losses, store, slot } = train(30, 1);
    expect(losses[0]).toBeCloseTo(Math.log(40), 0);
    expect(losses.at(-2)).toBeLessThan(0.5);
    expect(store.step(slot)).toBe(30);
    const untouched = new Float32Array(store.layout.length);
    initializeParameters(CONFIG, store.layout, untouched, 1);
    expect(store.parameters(0)).toEqual(untouched);
  });

  test("is equal to the bit when repeated with as many threads", () => {
    const first = train(3, 2);
    const second = train(3, 2);
    expect(second.losses).toEqual(first.losses);
    expect(second.store.parameters(second.slot)).toEqual(first.store.parameters(first.slot));
    expect(second.store.secondMoment(second.slot)).toEqual(first.store.secondMoment(first.slot));
  });

  test("a gradient that is not finite changes nothing and is reported", () => {
    const { learner, store } = makeLearner();
    store.publish(0, 0);
    store.copySlot(0, 1);
    learner.backward(batch, [new Float32Array(20).fill(Number.NaN), ...weights.slice(1)], 0);
    expect(learner.step(SETTINGS, 0, 1).gradNorm).toBeNaN();
    expect(store.parameters(1)).toEqual(store.parameters(0));
    expect(() => learner.step(SETTINGS, 1, 0)).toThrow("published");
    learner.backward(batch, weights, 0);
    expect(learner.step(SETTINGS, 0, 1).gradNorm).toBeGreaterThan(0);
  });
});

describe("a Llama checkpoint with known numbers", () => {
  const folder = join(import.meta.dir, "../models/testdata/llama-tiny");
  const golden = JSON.parse(readFileSync(join(folder, "golden.json"), "utf8"));
  const config = configFromHuggingFace(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")), "config.json");
  const { learner, store } = makeLearner({}, config);
  readWeights(readSafetensors(join(folder, "model.safetensors")), store.layout, store.parameters(0));
  const ids: Int32Array[] = golden.prompts.map((prompt: { ids: number[] }) => Int32Array.from(prompt.ids));
  const shifted = (values: readonly number[], factor: number) => Float32Array.from([0, ...values], (w) => w * factor);

  test("log-probabilities", () => {
    for (const [i, logprobs] of learner.logprobs(ids, 0).entries()) {
      for (const [t, expected] of golden.prompts[i].logprobs.entries()) {
        expect(Math.abs((logprobs[t + 1] as number) - expected)).toBeLessThan(2e-4);
      }
    }
  });

  test.each(["sft", "pg"])("loss and gradient norm: %s", (kind) => {
    const key = kind === "sft" ? "loss_mask" : "pg_weights";
    const factor = kind === "sft" ? 1 / golden.sft.label_count : 1;
    const weights = golden.prompts.map((prompt: Record<string, number[]>) => shifted(prompt[key] as number[], factor));
    const { loss } = learner.backward(ids, weights, 0);
    expect(Math.abs(loss - golden[kind].loss)).toBeLessThan(2e-4);
    const { gradNorm } = learner.step({ ...SETTINGS, clip: 0 }, 0, 1);
    expect(Math.abs(gradNorm / golden[kind].grad_norm - 1)).toBeLessThan(1e-3);
  });
});
