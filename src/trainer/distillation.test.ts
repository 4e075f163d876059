import { afterAll, describe, expect, test } from "bun:test";
import { candidateDistillation } from "../algorithms/candidate-distillation.ts";
import { DIVERGENCES, type Divergence } from "../config/distillation.ts";
import { ExperimentSchema } from "../config/experiment.ts";
import { Rng } from "../core/rng.ts";
import type { TopTokens } from "../core/teacher.ts";
import type { Group, Trajectory } from "../core/types.ts";
import { ARCHITECTURES, type DecoderConfig } from "../models/config.ts";
import { rootMeanSquare } from "../models/gradient-check.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../models/parameters.ts";
import { buildBatch } from "./batch.ts";
import {
  amongTop,
  type DistillationJob,
  distillationGradients,
  divergenceOf,
  type TeacherJob,
} from "./distillation.ts";
import { Learner } from "./learner.ts";
import { type PolicyJob, runUpdate } from "./update.ts";

const V = 16;
const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  ...{ vocabularySize: V, hiddenSize: 16, layers: 1, heads: 2, kvHeads: 1, headDim: 8, intermediateSize: 24 },
  ...{ normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, tiedEmbeddings: true, contextLength: 16 },
};
const OPTIMIZER = { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 } as const;
const LENGTH = 9;
const K = 5;

const released: Learner[] = [];
afterAll(() => {
  for (const learner of released) learner.release();
});

/** Far from uniform, or one teacher is as good as another. */
function fill(flat: Float32Array, seed: number): void {
  initializeParameters(CONFIG, parameterLayout(CONFIG), flat, seed);
  for (let i = 0; i < flat.length; i++) flat[i] = 4 * (flat[i] as number);
}

function makeLearner(seed: number) {
  const store = ParameterStore.inMemory(parameterLayout(CONFIG));
  fill(store.parameters(0), seed);
  const learner = new Learner(CONFIG, store, { threads: 1 });
  released.push(learner);
  return { learner, store };
}

const made = makeLearner(1);
let version = 0;
/** One learner for all tests, as its graphs take longer to compile than to run; each test begins with the same weights. */
function student(): typeof made {
  const { store, learner } = made;
  store.publish(1, ++version);
  fill(store.parameters(0), 1);
  store.setStep(0, 0);
  for (const moment of [store.firstMoment(0), store.secondMoment(0)]) moment.fill(0);
  store.publish(0, ++version);
  learner.clearGradients();
  return made;
}

const teacher = makeLearner(2).learner;
const rng = new Rng("distillation");
const sequences = Array.from({ length: 8 }, () => Int32Array.from({ length: LENGTH }, () => rng.int(0, V - 1)));
const MASK = Uint8Array.from({ length: LENGTH }, (_, t) => (t > 1 && t !== 5 ? 1 : 0));
const OWN = MASK.reduce((sum, bit) => sum + bit, 0) * sequences.length;
const shares = sequences.map(() => Float32Array.from(MASK, (bit) => bit / OWN));

function likeliest(temperature: number, count = K): TopTokens {
  const { topIds, topLogprobs } = teacher.forward(sequences, 0, 1, { top: { count, among: V } });
  const asked = { count, ids: topIds.map((row) => Int32Array.from(row)), logprobs: topLogprobs };
  return { ...asked, logprobs: amongTop(asked, temperature) };
}

function jobOf(divergence: Divergence, more: Partial<DistillationJob> = {}): DistillationJob {
  const { temperature = 1 } = more;
  const common = { kind: "distillation", sequences, shares, weight: 1, temperature, optimizer: OPTIMIZER } as const;
  return { ...common, top: likeliest(temperature), divergence: divergenceOf(divergence), ...more };
}

test("the likeliest tokens of a teacher are those with the largest log-probabilities, best first", () => {
  const ids = sequences.map(() => Int32Array.from({ length: LENGTH * V }, (_, i) => i % V));
  const { candidateLogprobs } = teacher.forward(sequences, 0, 1, { candidates: { count: V, ids } });
  const { topIds, topLogprobs } = teacher.forward(sequences, 0, 1, { top: { count: 3, among: 10 } });
  for (const [i, row] of candidateLogprobs.entries()) {
    for (let t = 1; t < LENGTH; t++) {
      const logprobs = [...row.subarray(t * V, t * V + 10)];
      const order = [...logprobs.keys()].sort((a, b) => (logprobs[b] as number) - (logprobs[a] as number)).slice(0, 3);
      expect([...(topIds[i]?.subarray(t * 3, t * 3 + 3) ?? [])]).toEqual(order);
      const best = topLogprobs[i]?.[t * 3] as number;
      expect(Math.abs(best - (logprobs[order[0] as number] as number))).toBeLessThan(1e-5);
    }
  }
});

test("they are the same layer by layer, a few tokens of the head at a time", () => {
  const store = ParameterStore.inMemory(parameterLayout(CONFIG));
  fill(store.parameters(0), 2);
  const layered = new Learner(CONFIG, store, { threads: 1, executor: "layers", logitBytes: V * 4 * 5 });
  released.push(layered);
  const [found, expected] = [layered, teacher].map((each) =>
    each.forward(sequences, 0, 1, { top: { count: 3, among: V } }),
  );
  expect(found?.topIds).toEqual(expected?.topIds as Float32Array[]);
});

describe("on given sequences", () => {
  test.each(DIVERGENCES)("%s: the student comes nearer to its teacher", async (divergence) => {
    const { learner, store } = student();
    const values: number[] = [];
    for (let step = 1; step <= 10; step++) {
      const result = await runUpdate(learner, store, jobOf(divergence));
      values.push(result.metrics["distill/divergence"] as number);
      expect(result.loss).toBeCloseTo(result.metrics["distill/divergence"] as number, 6);
      store.publish(result.slot, ++version);
    }
    expect(values[0]).toBeGreaterThan(0.05);
    expect(values.at(-1)).toBeLessThan(0.7 * (values[0] as number));
  });

  test("mixed, gradients are (1 − w) times those of imitation and w times those of the divergence", async () => {
    const gradients = async (job: DistillationJob) => {
      const { learner } = student();
      const { loss } = await distillationGradients(learner, job, 0);
      return { loss, gradients: learner.gradients.slice() };
    };
    for (const temperature of [1, 2]) {
      const [imitation, taught, mixed] = [
        await gradients(jobOf("forward", { weight: 0, temperature })),
        await gradients(jobOf("forward", { weight: 1, temperature })),
        await gradients(jobOf("forward", { weight: 0.3, temperature })),
      ];
      expect(mixed.loss).toBeCloseTo(0.7 * imitation.loss + 0.3 * taught.loss, 5);
      const expected = imitation.gradients.map((value, i) => 0.7 * value + 0.3 * (taught.gradients[i] as number));
      const difference = mixed.gradients.map((value, i) => value - (expected[i] as number));
      expect(rootMeanSquare(difference) / rootMeanSquare(expected)).toBeLessThan(1e-4);
      // Imitation does not know of the temperature.
      const { learner } = student();
      const { loss } = learner.backward(sequences, shares, 0, 1);
      expect(imitation.loss).toBeCloseTo(loss, 5);
    }
  });
});

/** Episodes the student could have sampled, all of them rewarded alike. */
function collect(learner: Learner, slot: number): Group[] {
  const logprobs = learner.logprobs(sequences, slot);
  const zeros = new Int32Array(LENGTH);
  const trajectories = sequences.map(
    (ids, member): Trajectory => ({
      ...{ episodeId: `${member}`, groupId: "g", taskId: "t", family: "f", split: "train", seed: 1, member },
      tokens: {
        ...{ ids, mask: MASK, logprobsT1: new Float32Array(LENGTH), versions: zeros, kvOldest: zeros },
        logprobs: (logprobs[member] as Float32Array).map((value, t) => value * (MASK[t] as number)),
        turnIds: Int32Array.from(MASK, (bit, t) => (bit === 0 ? -1 : t < 5 ? 0 : 1)),
      },
      ...{ turns: [], reward: 1, stopReason: "done", isolation: "none", grading: "clean", startedAt: 0 },
      phases: { reset: 0, generate: 0, tool: 0, grade: 0 },
    }),
  );
  return [{ groupId: "g", taskId: "t", trajectories }];
}

function policyJob(learner: Learner, slot: number, settings: Record<string, unknown>): PolicyJob {
  const experiment = ExperimentSchema.parse({
    ...{ distillation: { teacher: "t", ...settings }, algorithm: { type: "reinforce" } },
    trainer: { steps: 1, minibatches: 2, parityLimit: 0 },
    optimizer: { lr: 1e-2, warmupSteps: 0, schedule: "constant" },
  });
  const collected = { groups: collect(learner, slot), forks: [], imitations: [], metrics: {} };
  const { job } = buildBatch(experiment, collected, 1);
  if (job === undefined || experiment.distillation === undefined) throw new Error("no job");
  const { in: place, weight, rl } = experiment.distillation;
  const taught: TeacherJob = {
    ...{ in: place, weight, rl, logprobs: teacher.logprobs(sequences, 0), divergence: divergenceOf("reverse") },
    ...(place === "loss" && { top: likeliest(1) }),
  };
  return { ...job, teacher: taught };
}

describe("on what the student samples", () => {
  test.each(["reward", "loss"])("in the %s: the student comes nearer, where rewards say nothing", async (place) => {
    const { learner, store } = student();
    // Of tokens that stand still, where the advantage pulls log π towards log π_teacher from either side.
    const gap = (slot: number) => {
      const own = learner.logprobs(sequences, slot);
      const taught = teacher.logprobs(sequences, 0);
      const squares = own.flatMap((row, i) =>
        [...row].map((value, t) => (MASK[t] as number) * (value - (taught[i]?.[t] as number)) ** 2),
      );
      return squares.reduce((sum, square) => sum + square, 0) / OWN;
    };
    const divergence = async (slot: number) => {
      const { metrics } = await distillationGradients(learner, jobOf("reverse"), slot as 0 | 1 | 2);
      learner.clearGradients();
      return metrics["distill/divergence"];
    };
    const measure = place === "loss" ? divergence : gap;
    const before = await measure(0);
    for (let step = 1; step <= 6; step++) {
      const slot = store.published?.slot ?? 0;
      const result = await runUpdate(learner, store, policyJob(learner, slot, { in: place, rl: 0 }));
      expect(Number.isFinite(result.metrics["distill/reverse_kl"])).toBe(true);
      store.publish(result.slot, ++version);
    }
    expect(await measure(store.published?.slot ?? 0)).toBeLessThan(0.8 * before);
  });

  test("the teacher's part of an advantage is −weight · (log π − log π_teacher) of that token alone", async () => {
    const { learner } = student();
    const { assignCredit } = await import("./credit.ts");
    const job = policyJob(learner, 0, { weight: 0.5, rl: 2 });
    const known = { ...job, advantages: job.advantages.map((row) => row.map((_, t) => t / 10)) };
    const { advantages } = await assignCredit(learner, known, 0);
    const own = learner.logprobs(sequences, 0);
    const taught = teacher.logprobs(sequences, 0);
    for (const i of [0, 7]) {
      for (const t of [2, 5, 8]) {
        const gap = (own[i]?.[t] as number) - (taught[i]?.[t] as number);
        expect(advantages[i]?.[t]).toBeCloseTo((2 * t) / 10 - (MASK[t] === 1 ? 0.5 * gap : 0), 4);
      }
    }
  });
});

test("what is compared sums to 1 over the teacher's tokens, at any temperature", () => {
  for (const temperature of [0.5, 1, 3]) {
    const { logprobs } = likeliest(temperature);
    const sum = [...(logprobs[0]?.subarray(2 * K, 3 * K) ?? [])].reduce((total, value) => total + Math.exp(value), 0);
    expect(sum).toBeCloseTo(1, 5);
  }
  // One distribution, seen at τ by asking at τ or by dividing afterwards.
  const teacher_K = amongTop({ count: 3, ids: [], logprobs: [Float32Array.of(0, 0, 0, -1, -2, -4)] }, 2)[0]?.subarray(
    3,
  );
  const same = candidateDistillation([-0.5, -1, -2], teacher_K ?? [], { kind: "forward", normaliser: "top-k" });
  expect(Math.abs(same.loss)).toBeLessThan(1e-6);
});
