import { afterAll, describe, expect, test } from "bun:test";
import { type Experiment, ExperimentSchema } from "../../src/config/experiment.ts";
import { Rng } from "../../src/core/rng.ts";
import type { Group, Trajectory } from "../../src/core/types.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../src/models/config.ts";
import { trainableLayout } from "../../src/models/decoder-graph.ts";
import { FrozenParameters } from "../../src/models/frozen-parameters.ts";
import { ParameterStore } from "../../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../src/models/parameters.ts";
import { buildBatch } from "../../src/trainer/batch.ts";
import { assignCredit } from "../../src/trainer/credit.ts";
import { Learner } from "../../src/trainer/learner.ts";
import { type PolicyJob, type PolicyLearner, runUpdate, type UpdateResult } from "../../src/trainer/update.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: 24,
  hiddenSize: 16,
  layers: 1,
  heads: 2,
  kvHeads: 1,
  headDim: 8,
  intermediateSize: 24,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 32,
};
/** Prompt, a turn, an observation, a turn, and an observation that nothing answers. */
const TURN_IDS = Int32Array.of(-1, -1, 0, 0, 0, -1, 1, 1, -1);
const MASK = Uint8Array.from(TURN_IDS, (id) => (id < 0 ? 0 : 1));

const released: Learner[] = [];
afterAll(() => {
  for (const learner of released) learner.release();
});

function makeLearner(valueHead: boolean) {
  const layout = parameterLayout(CONFIG);
  const fill = (flat: Float32Array) => initializeParameters(CONFIG, layout, flat, 3);
  const store = ParameterStore.inMemory(trainableLayout(CONFIG, { valueHead }));
  fill(store.parameters(0));
  store.publish(0, 0);
  const learner = new Learner(CONFIG, store, { threads: 1, reference: FrozenParameters.inMemory(layout, fill) });
  released.push(learner);
  return { learner, store };
}

/** Trajectories that the published weights could have sampled; what begins with token 1 is rewarded. */
function collect(learner: Learner, slot: number, reward: (member: number) => number): Group[] {
  const rng = new Rng("credit");
  return [0, 1].map((g) => {
    const ids = [0, 1, 2, 3].map((member) =>
      Int32Array.from(TURN_IDS, (_, t) => (t === 0 ? member % 2 : rng.int(2, CONFIG.vocabularySize - 1))),
    );
    const logprobs = learner.logprobs(ids, slot);
    const trajectories = ids.map(
      (sequence, member): Trajectory => ({
        ...{ episodeId: `${g}/${member}`, groupId: `${g}`, taskId: "t", family: "f", split: "train", seed: g, member },
        tokens: {
          ids: sequence,
          mask: MASK,
          logprobs: Float32Array.from(logprobs[member] as Float32Array, (value, t) => value * (MASK[t] as number)),
          logprobsT1: new Float32Array(TURN_IDS.length),
          versions: new Int32Array(TURN_IDS.length),
          kvOldest: new Int32Array(TURN_IDS.length),
          turnIds: TURN_IDS,
        },
        ...{ turns: [], reward: reward(member), stopReason: "done", isolation: "none", grading: "clean", startedAt: 0 },
        phases: { reset: 0, generate: 0, tool: 0, grade: 0 },
      }),
    );
    return { groupId: `${g}`, taskId: "t", trajectories };
  });
}

function jobOf(settings: Record<string, unknown>, groups: Group[]): PolicyJob {
  const experiment: Experiment = ExperimentSchema.parse({
    trainer: { steps: 1, minibatches: 2, parityLimit: 0 },
    optimizer: { lr: 1e-2, warmupSteps: 0, schedule: "constant" },
    ...settings,
  });
  const { job } = buildBatch(experiment, { groups, forks: [], imitations: [], metrics: {} }, 1);
  if (job === undefined) throw new Error("no job");
  return job;
}

/** Several steps on the same tasks; each publishes what it made. */
async function steps(made: ReturnType<typeof makeLearner>, settings: Record<string, unknown>, count: number) {
  const results: UpdateResult[] = [];
  for (let step = 1; step <= count; step++) {
    const slot = made.store.published?.slot ?? 0;
    const groups = collect(made.learner, slot, (member) => member % 2);
    const result = await runUpdate(made.learner, made.store, jobOf(settings, groups));
    made.store.publish(result.slot, step);
    results.push(result);
  }
  return results;
}

describe("ppo", () => {
  test("the critic learns to tell what will be rewarded, and the policy follows", async () => {
    const made = makeLearner(true);
    const before = made.learner.logprobs(
      collect(made.learner, 0, () => 1).flatMap((group) => group.trajectories.map(({ tokens }) => tokens.ids)),
      0,
    );
    const results = await steps(made, { algorithm: { type: "ppo", valueLr: 3e-2, valueClip: 10 } }, 12);
    const first = results[0]?.metrics ?? {};
    const last = results.at(-1)?.metrics ?? {};
    // The head starts at zero, so it predicts nothing.
    expect(first["critic/values/mean"]).toBe(0);
    expect(first["critic/vf_explained_var"]).toBeCloseTo(0, 6);
    expect(last["critic/vf_explained_var"]).toBeGreaterThan(0.5);
    expect(last["critic/vf_loss"]).toBeLessThan(first["critic/vf_loss"] as number);
    const slot = made.store.published?.slot ?? 0;
    const groups = collect(made.learner, slot, () => 1);
    const sums = [0, 0];
    const after = made.learner.logprobs(
      groups.flatMap((group) => group.trajectories.map(({ tokens }) => tokens.ids)),
      slot,
    );
    for (const [i, row] of after.entries()) {
      for (const [t, value] of row.entries()) {
        if (MASK[t] === 1) sums[i % 2] = (sums[i % 2] as number) + value - (before[i]?.[t] as number);
      }
    }
    expect(sums[1]).toBeGreaterThan(sums[0] as number);
  });

  test("episodes without a reward take part too", () => {
    const { learner } = makeLearner(false);
    const groups = collect(learner, 0, () => 0);
    expect(jobOf({ algorithm: { type: "ppo" } }, groups).sequences).toHaveLength(8);
    expect(() => jobOf({ algorithm: { type: "grpo" } }, groups)).toThrow("no job");
  });

  test("rewards of tokens are divided by their spread over the step, and advantages are clipped", async () => {
    const { learner } = makeLearner(true);
    const groups = collect(learner, 0, (member) => member % 2);
    const settings = { type: "ppo", whiten: false, lambda: 0, discount: 0 };
    // values are 0 at first, so with λ = γ = 0 the advantage of a token is its reward: 1 on the last one of 4 of 8 episodes
    const of = async (more: Record<string, unknown>) => {
      const { advantages } = await assignCredit(learner, jobOf({ algorithm: { ...settings, ...more } }, groups), 0);
      return advantages.map((row) => Array.from(row));
    };
    const last = TURN_IDS.lastIndexOf(1);
    const plain = await of({});
    expect(plain[1]?.map((value, t) => value === (t === last ? 1 : 0))).toEqual(Array.from(TURN_IDS, () => true));
    const mean = 4 / 40;
    const spread = Math.sqrt((4 * (1 - mean) ** 2 + 36 * mean ** 2) / 39);
    const whitened = await of({ whitenRewards: true });
    expect(whitened[1]?.[last]).toBeCloseTo((1 - mean) / spread + mean, 4);
    expect((await of({ advantageClip: 0.5 }))[1]?.[last]).toBe(0.5);
    expect((await of({ normMean: "batch", rewardClip: 0.25 }))[1]?.[last]).toBeCloseTo(0.25, 6);
  });

  test("values stop at the head when the trunk is not to be trained", async () => {
    const { learner, store } = makeLearner(true);
    const groups = collect(learner, 0, () => 1);
    // Advantages of 0 leave the policy without a gradient of its own.
    const algorithm = { type: "ppo", trunk: false, lambda: 0, discount: 0, whiten: false };
    const job = { ...jobOf({ algorithm }, groups), shapedRewards: groups.flatMap(() => [0, 0, 0, 0]) };
    const { slot } = await runUpdate(learner, store, job);
    expect(store.parameters(slot)).toEqual(store.parameters(0));
  });
});

describe("divergence from the start", () => {
  /** Mean square of what the log-probabilities of the sampled tokens moved by. */
  function drift({ learner, store }: ReturnType<typeof makeLearner>): number {
    const slot = store.published?.slot ?? 0;
    const trajectories = collect(learner, slot, () => 1).flatMap((group) => group.trajectories);
    const start = learner.referenceLogprobs(trajectories.map(({ tokens }) => tokens.ids));
    const moved = trajectories.flatMap(({ tokens }, i) =>
      [...tokens.logprobs].flatMap((value, t) => (MASK[t] === 1 ? [(value - (start[i]?.[t] as number)) ** 2] : [])),
    );
    return moved.reduce((sum, square) => sum + square, 0) / moved.length;
  }

  test.each([
    ["loss", "k3", "actor/kl_loss"],
    ["reward", "k1", "actor/reward_kl_penalty"],
  ])("in the %s by %s, it is 0 at the start and holds the policy back later", async (place, estimator, name) => {
    // Without a division by the spread, which would let no reward weigh more than another.
    const algorithm = { type: "reinforce" };
    const free = makeLearner(false);
    const held = makeLearner(false);
    await steps(free, { algorithm }, 6);
    const results = await steps(held, { algorithm, kl: { in: place, estimator, coefficient: 3 } }, 6);
    if (place === "reward") expect(Math.abs(results[0]?.metrics[name] as number)).toBeLessThan(1e-6);
    expect(Math.abs(results.at(-1)?.metrics[name] as number)).toBeGreaterThan(1e-6);
    expect(drift(held)).toBeLessThan(0.5 * drift(free));
  });

  /** Mean divergence over the vocabulary, at the tokens of episodes. */
  function meanDivergence({ learner, store }: ReturnType<typeof makeLearner>): number {
    const slot = store.published?.slot ?? 0;
    const sequences = collect(learner, slot, () => 1).flatMap((group) => group.trajectories.map((t) => t.tokens.ids));
    const { divergences } = learner.forward(sequences, slot, 1, { divergence: true });
    const own = divergences.flatMap((row) => [...row].filter((_, t) => MASK[t] === 1));
    return own.reduce((sum, value) => sum + value, 0) / own.length;
  }

  test("over the vocabulary in the loss, its value is the engine's and the policy stays near", async () => {
    const algorithm = { type: "reinforce" };
    const [free, held] = [makeLearner(false), makeLearner(false)];
    await steps(free, { algorithm }, 6);
    const before = await steps(held, { algorithm, kl: { estimator: "full", coefficient: 3 } }, 6);
    expect(meanDivergence(held)).toBeLessThan(0.5 * meanDivergence(free));
    // Two minibatches, of which the second sees what the first made of the weights.
    const [near, far] = [before.at(-1)?.metrics["actor/kl_loss"] as number, meanDivergence(held)];
    expect(near / far).toBeGreaterThan(0.5);
    expect(near / far).toBeLessThan(2);
  });

  test("over the vocabulary in the reward, an episode pays for the states it went through", async () => {
    const made = makeLearner(false);
    await steps(made, { algorithm: { type: "reinforce" } }, 3);
    const slot = made.store.published?.slot ?? 0;
    const groups = collect(made.learner, slot, (member) => member % 2);
    const kl = { in: "reward", estimator: "full", coefficient: 0.5 };
    const job = jobOf({ algorithm: { type: "reinforce" }, kl }, groups);
    const { advantages, metrics } = await assignCredit(made.learner, job, slot);
    const { divergences } = made.learner.forward(job.sequences, slot, 1, { divergence: true });
    const costs = divergences.map((row) => row.reduce((sum, value, t) => sum + value * (MASK[t] as number), 0));
    const rewards = costs.map((cost, i) => (i % 2) - 0.5 * cost);
    for (const i of [1, 6]) {
      const group = rewards.slice(4 * Math.floor(i / 4), 4 * Math.floor(i / 4) + 4);
      const centred = (rewards[i] as number) - group.reduce((sum, reward) => sum + reward, 0) / 4;
      expect(advantages[i]?.[2]).toBeCloseTo(centred, 5);
    }
    const total = costs.reduce((sum, cost) => sum + cost, 0);
    expect(metrics["actor/reward_kl_penalty"]).toBeCloseTo(total / (8 * 5), 5);
  });

  test.each(["grpo", "ipa", "step_reinforce", "gigpo"])(
    "%s: in the reward, that of every token counts",
    async (advantage) => {
      const { learner } = makeLearner(false);
      const groups = collect(learner, 0, (member) => member % 2);
      const kl = { in: "reward", estimator: "k1", coefficient: 1 };
      const algorithm = { type: "grpo", advantage, normStd: "none" };
      const free = jobOf({ algorithm }, groups);
      const job = jobOf({ algorithm, kl }, groups);
      // the reference finds one token of the first episode less likely: not the last one of its turn
      const old = learner.logprobs(job.sequences as Int32Array[], 0);
      const reference = old.map((row, i) => row.map((value, t) => (i === 0 && t === 2 ? value - 0.5 : value)));
      const compared: PolicyLearner = {
        forward: (...args) => learner.forward(...args),
        referenceLogprobs: () => reference,
        backward: (...args) => learner.backward(...args),
        step: (...args) => learner.step(...args),
        clearGradients: () => learner.clearGradients(),
      };
      const penalised = await assignCredit(compared, job, 0);
      expect(penalised.metrics["actor/reward_kl_penalty"]).toBeCloseTo(0.5 / (8 * 5), 5);
      expect(penalised.advantages[0]?.[2]).toBeLessThan((free.advantages[0]?.[2] as number) - 0.1);
    },
  );

  test("a coefficient of 0 changes nothing", async () => {
    const without = makeLearner(false);
    const none = makeLearner(false);
    await steps(without, {}, 2);
    await steps(none, { kl: { coefficient: 0 } }, 2);
    const parameters = ({ store }: typeof none) => store.parameters(store.published?.slot ?? 0);
    expect(parameters(none)).toEqual(parameters(without));
  });
});
