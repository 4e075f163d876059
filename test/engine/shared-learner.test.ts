import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { composeAlgorithm } from "../../src/config/composition.ts";
import { ExperimentSchema } from "../../src/config/experiment.ts";
import { Rng } from "../../src/core/rng.ts";
import { Exchange } from "../../src/device/exchange.ts";
import { SharedLearner } from "../../src/device/shared-learner.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../src/models/config.ts";
import { FrozenParameters } from "../../src/models/frozen-parameters.ts";
import { ParameterStore } from "../../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../src/models/parameters.ts";
import { divergenceOf } from "../../src/trainer/distillation.ts";
import { Learner } from "../../src/trainer/learner.ts";
import { type PolicyJob, type PolicyLearner, runUpdate, type UpdateResult } from "../../src/trainer/update.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  ...{ vocabularySize: 16, hiddenSize: 16, layers: 1, heads: 2, kvHeads: 1, headDim: 8, intermediateSize: 24 },
  ...{ normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, tiedEmbeddings: true, contextLength: 32 },
};
const LAYOUT = parameterLayout(CONFIG);
const REFERENCE = FrozenParameters.inMemory(LAYOUT, (flat) => initializeParameters(CONFIG, LAYOUT, flat, 2));
const folder = mkdtempSync(join(tmpdir(), "ale-shared-"));
const released: { release(): void }[] = [];
afterAll(() => {
  for (const item of released) item.release();
  rmSync(folder, { recursive: true, force: true });
});

function freshStore(path: string): ParameterStore {
  const store = ParameterStore.open(path, LAYOUT);
  initializeParameters(CONFIG, LAYOUT, store.parameters(0), 1);
  store.publish(0, 0);
  return store;
}

/** Engines of a pool, here in one process: each has a mapping of its own of the same two files. */
function makeEngines(name: string, size: number) {
  const path = join(folder, `${name}.store`);
  freshStore(path);
  return Array.from({ length: size }, (_, rank) => {
    const store = ParameterStore.open(path, LAYOUT);
    const exchange = Exchange.open(join(folder, `${name}.exchange`), { rank, size, length: LAYOUT.length });
    const inner = new Learner(CONFIG, store, { threads: 1, reference: REFERENCE, gradients: exchange.gradients(rank) });
    const learner = new SharedLearner(inner, store, exchange, { threads: 1 });
    released.push(inner, learner);
    return { store, exchange, inner, learner };
  });
}

const rng = new Rng("shared");
const SEQUENCES = [9, 30, 4, 17, 12, 25, 6].map((length) => Int32Array.from({ length }, () => rng.int(0, 15)));

function policyJob(learner: Learner): PolicyJob {
  const experiment = ExperimentSchema.parse({ algorithm: { type: "grpo" } });
  return {
    kind: "policy",
    sequences: SEQUENCES,
    masks: SEQUENCES.map(({ length }) => Uint8Array.from({ length }, (_, t) => (t > 2 ? 1 : 0))),
    behaviour: learner.logprobs(SEQUENCES, 0),
    advantages: SEQUENCES.map(({ length }, i) => new Float32Array(length).fill(i % 2 === 0 ? 1 : -0.7)),
    shapedRewards: SEQUENCES.map((_, i) => (i + 1) % 2),
    turnIds: SEQUENCES.map(({ length }) => Int32Array.from({ length }, (_, t) => (t > 2 ? 0 : -1))),
    rewards: SEQUENCES.map((_, i) => (i + 1) % 2),
    groups: SEQUENCES.map(() => 0),
    algorithm: composeAlgorithm(experiment.algorithm),
    versions: SEQUENCES.map(({ length }) => new Int32Array(length)),
    kvOldest: SEQUENCES.map(({ length }) => new Int32Array(length)),
    parityLimits: { max: 1e-4, mean: 0, kl: 0 },
    ...{ temperature: 1, minibatches: 2, epochs: 2, orderKey: "order" },
    optimizer: { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1, clip: 0.5 },
  };
}

const store = freshStore(join(folder, "alone.store"));
const alone = new Learner(CONFIG, store, { threads: 1, reference: REFERENCE });
released.push(alone);
const JOB = policyJob(alone);

function relativeError(got: Float32Array, expected: Float32Array): number {
  const norm = (values: Iterable<number>) => Math.sqrt([...values].reduce((sum, x) => sum + x * x, 0));
  return norm(got.map((x, i) => x - (expected[i] as number))) / norm(expected);
}

function metrics({ ms: _, mismatch, metrics, ...result }: UpdateResult): Record<string, number> {
  return { ...result, ...metrics, parity: mismatch.parity.max };
}

async function updateAll(name: string, size: number, job = JOB) {
  const engines = makeEngines(name, size);
  for (const { exchange } of engines) exchange.begin(1);
  const results = await Promise.all(engines.map((engine) => runUpdate(engine.learner, engine.store, job)));
  return { engines, results };
}

describe("an update on several engines", () => {
  test.each([2, 3])("%d engines have the gradients and the norm of one", async (size) => {
    const weights = SEQUENCES.map(({ length }) => Float32Array.from({ length }, (_, t) => (t % 3) - 0.5));
    const expected = alone.backward(SEQUENCES, weights, 0);
    const gradients = alone.gradients.slice();
    const engines = makeEngines(`gradients-${size}`, size);
    for (const { exchange } of engines) exchange.begin(1);
    const results = await Promise.all(engines.map(({ learner }) => learner.backward(SEQUENCES, weights, 0, 1)));
    const sum = new Float32Array(LAYOUT.length);
    for (const { inner } of engines) for (const [i, g] of inner.gradients.entries()) sum[i] = (sum[i] as number) + g;
    expect(relativeError(sum, gradients)).toBeLessThan(1e-6);
    for (const { loss, entropy } of results) {
      expect(loss).toBeCloseTo(expected.loss, 5);
      expect(entropy).toBeCloseTo(expected.entropy, 6);
    }
    const settings = { ...JOB.optimizer, clip: 0 };
    const steps = await Promise.all(engines.map(({ learner }) => learner.step(settings, 0, 1)));
    const { gradNorm } = alone.step(settings, 0, 1);
    for (const step of steps) expect(step.gradNorm / gradNorm).toBeCloseTo(1, 6);
    expect(engines.every(({ inner }) => inner.gradients.every((g) => g === 0))).toBe(true);
  });

  test.each([2, 3])("with minibatches, epochs and clipping %d engines do what one does", async (size) => {
    const expected = await runUpdate(alone, store, JOB);
    const { engines, results } = await updateAll(`update-${size}`, size);
    for (const result of results) {
      expect(metrics(result)).toEqual(metrics(results[0] as UpdateResult));
      expect(result).toMatchObject({ slot: expected.slot, updates: 4, tokens: expected.tokens });
      for (const key of ["loss", "gradNorm", "entropy", "approxKl"] as const)
        expect(result[key]).toBeCloseTo(expected[key], 5);
    }
    for (const { store: shared } of engines) {
      expect(shared.step(expected.slot)).toBe(4);
      const moved = shared.parameters(expected.slot).map((x, i) => x - (shared.parameters(0)[i] as number));
      const wanted = store.parameters(expected.slot).map((x, i) => x - (store.parameters(0)[i] as number));
      expect(relativeError(moved, wanted)).toBeLessThan(1e-4);
      expect(shared.published).toEqual({ slot: 0, version: 0 });
    }
  });

  test.each(["loss", "reward"] as const)(
    "a divergence over the vocabulary and a teacher in the %s are those of one engine",
    async (place) => {
      const count = 3;
      const ids = SEQUENCES.map(({ length }) => Int32Array.from({ length: length * count }, (_, i) => (5 * i) % 16));
      const logprobs = ids.map((row) => new Float32Array(row.length).fill(Math.log(1 / count)));
      const teacher = {
        ...{ in: place, weight: 0.5, rl: 1, logprobs: JOB.behaviour.map((row) => row.map((value) => value - 0.3)) },
        ...{ top: { count, ids, logprobs }, divergence: divergenceOf("js") },
      };
      const job: PolicyJob = { ...JOB, kl: { in: place, estimator: "full", coefficient: 0.3 }, teacher };
      const expected = await runUpdate(alone, store, job);
      const { results } = await updateAll(`teacher-${place}`, 2, job);
      const names = place === "loss" ? ["actor/kl_loss", "distill/loss"] : ["actor/reward_kl_penalty"];
      for (const { metrics, gradNorm } of results) {
        expect(gradNorm / expected.gradNorm).toBeCloseTo(1, 5);
        for (const name of [...names, "distill/reverse_kl"]) {
          expect(expected.metrics[name]).not.toBe(0);
          expect(metrics[name]).toBeCloseTo(expected.metrics[name] as number, 5);
        }
      }
    },
  );

  test("the same number of engines gives the same bits again", async () => {
    const [first, second] = [await updateAll("bits-1", 2), await updateAll("bits-2", 2)];
    expect(second.results.map(metrics)).toEqual(first.results.map(metrics));
    const slot = first.results[0]?.slot ?? 0;
    const bits = (run: typeof first) => run.engines.map((engine) => Bun.hash(engine.store.parameters(slot)));
    expect(bits(second)).toEqual(bits(first));
  });

  test("given up in the middle and begun again, it is the same update", async () => {
    const engines = makeEngines("again", 2);
    const [first, second] = engines as [(typeof engines)[0], (typeof engines)[0]];
    first.exchange.begin(1);
    second.exchange.begin(1);
    // The second engine ends after it gave its gradients, as if it were killed: the first waits for it.
    const killed: PolicyLearner = {
      forward: (...args) => second.learner.forward(...args),
      referenceLogprobs: (...args) => second.learner.referenceLogprobs(...args),
      backward: (...args) => second.learner.backward(...args),
      clearGradients: () => {},
      step: async () => {
        throw new Error("killed");
      },
    };
    const lost = runUpdate(killed, second.store, JOB).catch((error: Error) => {
      first.exchange.abandon(1);
      return error.message;
    });
    const released = runUpdate(first.learner, first.store, JOB).catch((error: Error) => error.message);
    expect(await lost).toBe("killed");
    expect(await released).toContain("given up");
    for (const { exchange } of engines) exchange.begin(2);
    const results = await Promise.all(engines.map((engine) => runUpdate(engine.learner, engine.store, JOB)));
    const { results: expected } = await updateAll("undisturbed", 2);
    expect(results.map(metrics)).toEqual(expected.map(metrics));
  });

  test("fewer sequences than engines", async () => {
    const engines = makeEngines("few", 3);
    for (const { exchange } of engines) exchange.begin(1);
    const job = { kind: "supervised", sequences: SEQUENCES.slice(0, 1), optimizer: JOB.optimizer } as const;
    const weights = [new Float32Array((SEQUENCES[0] as Int32Array).length).fill(0.1)];
    const results = await Promise.all(
      engines.map((engine) => runUpdate(engine.learner, engine.store, { ...job, weights })),
    );
    const expected = await runUpdate(alone, store, { ...job, weights });
    for (const result of results) expect(result.gradNorm / expected.gradNorm).toBeCloseTo(1, 6);
  });
});
