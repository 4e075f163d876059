import { afterAll, describe, expect, test } from "bun:test";
import { ExperimentSchema } from "../config/experiment.ts";
import { Rng } from "../core/rng.ts";
import type { TokenRecord } from "../core/types.ts";
import { ARCHITECTURES, type DecoderConfig } from "../models/config.ts";
import { FrozenParameters } from "../models/frozen-parameters.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../models/parameters.ts";
import { Learner } from "./learner.ts";
import { pairUp, preferenceGradients, preferenceJob } from "./preference.ts";
import { runUpdate, type UpdateResult } from "./update.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  ...{ vocabularySize: 24, hiddenSize: 16, layers: 1, heads: 2, kvHeads: 1, headDim: 8, intermediateSize: 24 },
  ...{ normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, tiedEmbeddings: true, contextLength: 32 },
};
const released: Learner[] = [];
afterAll(() => {
  for (const learner of released) learner.release();
});

function makeLearner() {
  const layout = parameterLayout(CONFIG);
  const fill = (flat: Float32Array) => initializeParameters(CONFIG, layout, flat, 3);
  const store = ParameterStore.inMemory(layout);
  fill(store.parameters(0));
  store.publish(0, 0);
  const learner = new Learner(CONFIG, store, { threads: 1, reference: FrozenParameters.inMemory(layout, fill) });
  released.push(learner);
  return { learner, store };
}

const rng = new Rng("preference");
/** Answers of different lengths to a prompt of two tokens. */
function answer(length: number): TokenRecord {
  const ids = Int32Array.from({ length: length + 2 }, () => rng.int(0, CONFIG.vocabularySize - 1));
  const zeros = new Int32Array(ids.length);
  const floats = new Float32Array(ids.length);
  const mask = Uint8Array.from(ids, (_, t) => (t < 2 ? 0 : 1));
  return { ids, mask, logprobs: floats, logprobsT1: floats, versions: zeros, kvOldest: zeros, turnIds: zeros };
}
const PAIRS = [3, 5, 4].map((length) => ({ chosen: answer(length), rejected: answer(length + 1) }));

function jobOf(stage: Record<string, unknown>) {
  const experiment = ExperimentSchema.parse({
    sft: { stages: [{ trajectories: "run", ...stage }] },
    optimizer: { clip: 0 },
  });
  const [parsed] = experiment.sft.stages;
  if (parsed === undefined) throw new Error("no stage");
  return preferenceJob(experiment, parsed, PAIRS, 1e-2);
}

async function steps(stage: Record<string, unknown>, count: number): Promise<UpdateResult[]> {
  const { learner, store } = makeLearner();
  const results: UpdateResult[] = [];
  for (let step = 1; step <= count; step++) {
    const result = await runUpdate(learner, store, jobOf(stage));
    store.publish(result.slot, step);
    results.push(result);
  }
  return results;
}

describe("pairs", () => {
  const isEven = (value: number) => value % 2 === 0;

  test("are the better ones of a group beside the others, each used once", () => {
    expect(pairUp([1, 2, 3, 4, 6], isEven)).toEqual([
      { chosen: 2, rejected: 1 },
      { chosen: 4, rejected: 3 },
    ]);
    expect(pairUp([1, 2, 3, 4], isEven, 1)).toHaveLength(1);
  });

  test("need both", () => {
    expect([pairUp([2, 4], isEven), pairUp([1, 3], isEven), pairUp([], isEven)]).toEqual([[], [], []]);
  });
});

describe("a preference", () => {
  test.each([
    [{ objective: "dpo" }, Math.LN2],
    [{ objective: "dpo", labelSmoothing: 0.2, beta: 0.5 }, Math.LN2],
    [{ objective: "ipo", beta: 0.5 }, 1],
  ])("%j begins at the reference and is learned", async (stage, start) => {
    const results = await steps(stage, 12);
    const [first, last] = [results[0], results.at(-1)];
    expect(first?.loss).toBeCloseTo(start, 4);
    expect(first?.metrics["rewards/margins"]).toBeCloseTo(0, 4);
    expect(last?.loss).toBeLessThan(first?.loss as number);
    expect(last?.metrics["rewards/margins"]).toBeGreaterThan(0);
    expect(last?.metrics["rewards/accuracies"]).toBe(1);
    expect(first?.tokens).toBe(3 + 4 + 5 + 6 + 4 + 5);
  });

  test("has the gradient of its loss", async () => {
    const { learner, store } = makeLearner();
    const moved = await runUpdate(learner, store, jobOf({ objective: "dpo" }));
    store.publish(moved.slot, 1);
    const job = jobOf({ objective: "dpo", beta: 0.7, labelSmoothing: 0.1 });
    learner.clearGradients();
    await preferenceGradients(learner, job, moved.slot);
    const gradients = Float32Array.from(learner.gradients);
    const parameters = store.parameters(moved.slot);
    const loss = async () => (await preferenceGradients(learner, job, moved.slot)).loss;
    const largest = [...gradients.keys()].sort((a, b) => Math.abs(gradients[b] ?? 0) - Math.abs(gradients[a] ?? 0));
    for (const i of largest.slice(0, 3)) {
      const value = parameters[i] as number;
      parameters[i] = value + 1e-2;
      const above = await loss();
      parameters[i] = value - 1e-2;
      const slope = (above - (await loss())) / 2e-2;
      parameters[i] = value;
      expect(slope / (gradients[i] as number)).toBeCloseTo(1, 1);
    }
  });

  test("of an answer for itself moves nothing", async () => {
    const { learner, store } = makeLearner();
    const same = PAIRS.map(({ chosen }) => ({ chosen, rejected: chosen }));
    const { gradNorm, metrics } = await runUpdate(learner, store, { ...jobOf({ objective: "dpo" }), pairs: same });
    expect(gradNorm).toBeLessThan(1e-6);
    expect(metrics["rewards/accuracies"]).toBe(0);
  });
});
