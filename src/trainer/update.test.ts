import { afterAll, describe, expect, test } from "bun:test";
import { countDenominators } from "../algorithms/aggregation.ts";
import { policyLoss } from "../algorithms/index.ts";
import { ALGORITHM_TYPES } from "../config/algorithm.ts";
import { ExperimentSchema } from "../config/experiment.ts";
import { Rng } from "../core/rng.ts";
import type { Group, Trajectory } from "../core/types.ts";
import { ARCHITECTURES, type DecoderConfig } from "../models/config.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../models/parameters.ts";
import { buildBatch } from "./batch.ts";
import { assignCredit } from "./credit.ts";
import { Learner } from "./learner.ts";
import { minibatchLoss } from "./minibatch.ts";
import { type PolicyJob, runUpdate } from "./update.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  ...{ vocabularySize: 16, hiddenSize: 16, layers: 1, heads: 2, kvHeads: 1, headDim: 8, intermediateSize: 24 },
  ...{ normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, tiedEmbeddings: true, contextLength: 16 },
};
const released: Learner[] = [];
afterAll(() => {
  for (const each of released) each.release();
});

/** A learner whose first weights, in slot 0, are published. */
function makeLearner() {
  const made = ParameterStore.inMemory(parameterLayout(CONFIG));
  initializeParameters(CONFIG, made.layout, made.parameters(0), 1);
  made.publish(0, 0);
  const of = new Learner(CONFIG, made, { threads: 1 });
  released.push(of);
  return { learner: of, store: made };
}
const { learner, store } = makeLearner();

/** `ppo` needs a value head (test/engine/credit.test.ts). */
const TYPES = ALGORITHM_TYPES.filter((type) => type !== "ppo");
/** Prompt, a turn, an observation, a turn, and an observation that nothing answers. */
const TURN_IDS = Int32Array.of(-1, -1, 0, 0, 0, -1, 1, 1, -1);
const MASK = Uint8Array.from(TURN_IDS, (id) => (id < 0 ? 0 : 1));

/** Trajectories that the published weights could have sampled: their log-probabilities are the learner's own. */
function groups(): Group[] {
  const rng = new Rng("update");
  return [0, 1].map((g) => {
    const ids = [0, 1, 2, 3].map(() => Int32Array.from(TURN_IDS, () => rng.int(0, CONFIG.vocabularySize - 1)));
    const logprobs = learner.logprobs(ids, 0);
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
        ...{ turns: [], reward: member % 2, stopReason: "done", isolation: "none", grading: "clean", startedAt: 0 },
        phases: { reset: 0, generate: 0, tool: 0, grade: 0 },
      }),
    );
    return { groupId: `${g}`, taskId: "t", trajectories };
  });
}

const COLLECTED = groups();

function jobOf(algorithm: Record<string, unknown>, minibatches = 2): PolicyJob {
  const experiment = ExperimentSchema.parse({
    algorithm,
    trainer: { steps: 1, minibatches, parityLimit: 1e-4 },
    optimizer: { lr: 1e-2, warmupSteps: 0 },
  });
  const { job } = buildBatch(experiment, { groups: COLLECTED, forks: [], imitations: [], metrics: {} }, 1);
  if (job === undefined) throw new Error("no job");
  return job;
}

/** Mean log-probability of the episodes with this reward under the weights of a slot. */
function meanLogprob(slot: number, reward: number): number {
  const chosen = COLLECTED.flatMap((group) => group.trajectories).filter((trajectory) => trajectory.reward === reward);
  const values = learner
    .logprobs(
      chosen.map((trajectory) => trajectory.tokens.ids),
      slot,
    )
    .flatMap((row) => [...row].filter((_, t) => MASK[t] === 1));
  return values.reduce((a, b) => a + b, 0) / values.length;
}

test.each(TYPES)("%s makes successes more likely and failures less", async (type) => {
  const result = await runUpdate(learner, store, jobOf({ type }));
  expect(result.updates).toBe(2);
  expect(result.tokens).toBe(8 * 5);
  expect(result.gradNorm).toBeGreaterThan(0);
  expect(result.mismatch.parity.max).toBeLessThan(1e-5);
  expect(meanLogprob(result.slot, 1)).toBeGreaterThan(meanLogprob(0, 1));
  expect(meanLogprob(result.slot, 0)).toBeLessThan(meanLogprob(0, 0));
});

test("ipa without a discount on-policy is reinforce with the group's mean", async () => {
  const ipa = await runUpdate(learner, store, jobOf({ type: "ipa", discount: 1 }, 1));
  const reinforce = await runUpdate(learner, store, jobOf({ type: "reinforce" }, 1));
  expect(ipa.gradNorm).toBeCloseTo(reinforce.gradNorm, 6);
  expect(ipa.loss).toBeCloseTo(reinforce.loss, 6);
});

test("ipa with discount 0 trains the last turn only", async () => {
  const job = jobOf({ type: "ipa", discount: 0 }, 1);
  const last = { ...job, masks: job.masks.map((mask) => mask.map((bit, t) => (TURN_IDS[t] === 1 ? bit : 0))) };
  const lastTurn = await runUpdate(learner, store, { ...last, algorithm: jobOf({ type: "reinforce" }).algorithm });
  // 2 of 5 tokens carry the gradient; the denominator still counts all
  expect((await runUpdate(learner, store, job)).gradNorm).toBeCloseTo((lastTurn.gradNorm * 2) / 5, 5);
});

test("ipa leaves out turns that the generating engine found much less likely", async () => {
  const job = jobOf({ type: "ipa" }, 1);
  const behaviour = job.behaviour.map((row) => row.map((logprob, t) => (MASK[t] === 1 ? logprob - 0.2 : 0)));
  const { gradNorm, clipFraction } = await runUpdate(learner, store, { ...job, behaviour });
  expect({ gradNorm, clipFraction }).toEqual({ gradNorm: 0, clipFraction: 1 });
});

/** What these settings ask for, with sampling probabilities of older weights: each sampled token was less likely by `gap`. */
function staleJob(algorithm: Record<string, unknown>, gap: number, minibatches = 1): PolicyJob {
  const job = jobOf(algorithm, minibatches);
  const behaviour = job.behaviour.map((row) => row.map((logprob, t) => (MASK[t] === 1 ? logprob - gap : 0)));
  const versions = job.versions.map((row) => row.map(() => -1));
  return { ...job, behaviour, untruncated: behaviour, versions, kvOldest: versions };
}

describe("tokens of older weights", () => {
  test("are no error of computation", async () => {
    const { mismatch } = await runUpdate(learner, store, staleJob({ type: "grpo" }, 0.3));
    expect(mismatch.parity.tokens).toBe(0);
    expect(mismatch.staleness.tokens).toBe(8 * 5);
    expect(mismatch.staleness.mean).toBeCloseTo(Math.exp(0.3), 5);
  });

  test("PPO clips against what was sampled from, or against training's view before the first update", async () => {
    const behaviour = await runUpdate(learner, store, staleJob({ type: "grpo" }, 0.3));
    expect(behaviour.clipFraction).toBeCloseTo(0.5, 6); // every token of a success
    expect(behaviour.metrics["clip_ratio/high_mean"]).toBeCloseTo(0.5, 6);
    expect(behaviour.metrics["critic/advantages/max"]).toBe(-(behaviour.metrics["critic/advantages/min"] as number));
    const fallen = await runUpdate(learner, store, staleJob({ type: "grpo" }, -0.3)); // every token of a failure
    expect([fallen.metrics["clip_ratio/low_mean"], fallen.metrics["clip_ratio/high_mean"]]).toEqual([0.5, 0]);
    expect((await runUpdate(learner, store, jobOf({ type: "reinforce" }))).metrics).not.toHaveProperty(
      "clip_ratio/low_mean",
    );
    const recomputed = await runUpdate(learner, store, staleJob({ type: "grpo", proximal: "recompute" }, 0.3));
    const fresh = await runUpdate(learner, store, jobOf({ type: "grpo" }, 1));
    expect(recomputed.clipFraction).toBe(0);
    expect(recomputed.gradNorm).toBeCloseTo(fresh.gradNorm, 6);
  });

  test("decoupled PPO multiplies by the bounded weight", async () => {
    const correction = { weight: "token", weightBound: 2 };
    const { gradNorm, metrics } = await runUpdate(
      learner,
      store,
      staleJob({ type: "decoupled_ppo", correction }, Math.log(1.5)),
    );
    const fresh = await runUpdate(learner, store, jobOf({ type: "grpo" }, 1));
    expect(gradNorm / fresh.gradNorm).toBeCloseTo(1.5, 4);
    expect(metrics["rollout_corr/rollout_is_mean"]).toBeCloseTo(1.5, 4);
    expect(metrics["rollout_corr/rollout_is_eff_sample_size"]).toBeCloseTo(1, 6);
    const bounded = await runUpdate(learner, store, staleJob({ type: "decoupled_ppo", correction }, 3));
    expect(bounded.gradNorm / fresh.gradNorm).toBeCloseTo(2, 4);
  });

  test.each(["token", "chunk", "sequence"])("a filter at %s level leaves them out", async (level) => {
    const correction = { filters: [{ level, ratioHigh: 1.2 }] };
    const kept = await runUpdate(learner, store, staleJob({ type: "reinforce", correction }, 0.1));
    expect(kept.metrics["rollout_corr/rollout_rs_masked_fraction"]).toBe(0);
    expect(kept.gradNorm).toBeGreaterThan(0);
    const out = await runUpdate(learner, store, staleJob({ type: "reinforce", correction }, 0.3));
    expect(out.metrics["rollout_corr/rollout_rs_masked_fraction"]).toBe(1);
    expect(out.gradNorm).toBe(0);
  });

  test.each(TYPES)("%s: an episode may begin under one version and go on under the next", async (type) => {
    const other = makeLearner();
    const { slot } = await runUpdate(other.learner, other.store, jobOf({ type: "grpo" }));
    other.store.publish(slot, 1);
    const job = jobOf({ type }, 1);
    const now = other.learner.logprobs(job.sequences as Int32Array[], slot);
    // the first turn is of version 0, as collected; the second one of version 1
    const behaviour = job.behaviour.map((row, i) =>
      row.map((old, t) => (TURN_IDS[t] === 1 ? (now[i]?.[t] ?? 0) : old)),
    );
    const versions = job.versions.map(() => Int32Array.from(TURN_IDS, (turn) => (turn === 1 ? 1 : 0)));
    const mixed = { ...job, epochs: 2, behaviour, untruncated: behaviour, versions, kvOldest: versions };
    const { mismatch, gradNorm, loss } = await runUpdate(other.learner, other.store, mixed);
    // 2 tokens of each episode must be what training computes too (parityLimit is on), 3 may be off
    expect([mismatch.parity.tokens, mismatch.staleness.tokens]).toEqual([8 * 2, 8 * 3]);
    expect(mismatch.parity.max).toBeLessThan(1e-5);
    expect(Math.abs(mismatch.staleness.max - 1)).toBeGreaterThan(1e-3);
    expect(gradNorm).toBeGreaterThan(0);
    expect(Number.isFinite(loss)).toBe(true);
  });

  test("in some turns only, a filter leaves those turns out", async () => {
    const correction = { filters: [{ level: "chunk", ratioHigh: 1.2 }] };
    const job = jobOf({ type: "reinforce", correction }, 1);
    const behaviour = job.behaviour.map((row) =>
      row.map((logprob, t) => (TURN_IDS[t] === 0 ? logprob - 0.3 : logprob)),
    );
    const { metrics } = await runUpdate(learner, store, { ...job, behaviour });
    expect(metrics["rollout_corr/rollout_rs_masked_fraction"]).toBeCloseTo(3 / 5, 6);
  });
});

describe("minibatches", () => {
  test.each([1, 3, 5, 8, 20])("%i of them take every episode exactly once an epoch", async (minibatches) => {
    const job = { ...jobOf({ type: "reinforce" }, minibatches), epochs: 2 };
    const { tokens, updates } = await runUpdate(learner, store, job);
    expect(tokens).toBe(2 * 8 * 5);
    expect(updates).toBe(2 * Math.min(8, minibatches));
  });

  test.each(TYPES)("%s: the losses and weights of parts add up to those of the whole", async (type) => {
    const job = jobOf({ type }, 1);
    const credit = await assignCredit(learner, job, 0);
    const all = job.sequences.map((_, i) => i);
    const current = learner.logprobs(job.sequences as Int32Array[], 0).map((row, i) => row.map((x) => x + 0.01 * i));
    const whole = minibatchLoss(job, all, credit, { logprobs: current, values: [], candidateLogprobs: [] });
    const rows = all.map((i) => ({ mask_T: job.masks[i] as Uint8Array, turnIds_T: job.turnIds[i] as Int32Array }));
    const denominators = countDenominators(rows);
    let loss = 0;
    for (const i of all) {
      const part = policyLoss(
        job.algorithm,
        {
          ...(rows[i] as (typeof rows)[number]),
          logprobs_T: current[i] as Float32Array,
          behaviour_T: job.behaviour[i] as Float32Array,
          proximal_T: credit.proximal?.[i],
          advantages_T: credit.advantages[i] as Float32Array,
          factors_T: credit.corrections?.[i]?.factors_T,
        },
        denominators,
      );
      loss += part.loss;
      expect(part.weights_T).toEqual(whole.weights[i] as Float32Array);
    }
    expect(loss).toBeCloseTo(whole.loss, 12);
  });
});

describe("entropy in the loss", () => {
  /** Mean entropy, in nats, of what could have been written instead of the sampled tokens. */
  const entropyAt = async (slot: number) => {
    const job = jobOf({ type: "reinforce" }, 1);
    const weights = job.masks.map((mask) => Float32Array.from(mask));
    const { entropy } = learner.backward(job.sequences as Int32Array[], weights, slot as 0, 1);
    learner.clearGradients();
    return entropy;
  };

  test("keeps it higher than the policy's loss alone would", async () => {
    const settings = { type: "reinforce", aggregation: "token-mean" };
    const alone = await runUpdate(learner, store, jobOf(settings, 1));
    const without = await entropyAt(alone.slot);
    const held = await runUpdate(learner, store, jobOf({ ...settings, entropy: 10 }, 1));
    expect(await entropyAt(held.slot)).toBeGreaterThan(without);
    // what is reported as the policy's loss stays that
    expect(held.loss).toBeCloseTo(alone.loss, 9);
    expect(held.gradNorm).not.toBeCloseTo(alone.gradNorm, 3);
  });

  test("is aggregated over the tokens the policy wrote", async () => {
    const job = jobOf({ type: "grpo", entropy: 0.5, aggregation: "seq-mean-token-sum" }, 1);
    const credit = await assignCredit(learner, job, 0);
    const logprobs = learner.logprobs(job.sequences as Int32Array[], 0);
    const all = job.sequences.map((_, i) => i);
    const { terms } = minibatchLoss(job, all, credit, { logprobs, values: [], candidateLogprobs: [] });
    expect(terms.entropyWeights?.map((row) => [...row])).toEqual(
      all.map(() => Array.from(MASK, (bit) => (bit * 0.5) / 8)),
    );
  });
});

test("weights of episodes scale their part of the loss", async () => {
  const plain = await runUpdate(learner, store, jobOf({ type: "reinforce" }, 1));
  // the mean reward of each group is ½, so every episode weighs 0.5 + 1.5 · ½
  const weighed = jobOf({ type: "reinforce", difficultyWeight: true }, 1);
  expect(weighed.episodeWeights).toEqual(new Array(8).fill(1.25));
  expect((await runUpdate(learner, store, weighed)).gradNorm / plain.gradNorm).toBeCloseTo(1.25, 5);
  expect(jobOf({ type: "reinforce", lengthWeight: true }, 1).episodeWeights).toBeUndefined();
});

test("what is to be imitated becomes more likely beside the policy's own gradient", async () => {
  const experiment = ExperimentSchema.parse({
    algorithm: { type: "ipa", discount: 0.5 },
    resampling: { imitation: 5 },
    trainer: { steps: 1, minibatches: 2 },
    optimizer: { lr: 1e-2, warmupSteps: 0 },
  });
  const expert = (COLLECTED[0]?.trajectories ?? []).find(({ reward }) => reward === 0);
  if (expert === undefined) throw new Error("no failure");
  const imitations = [{ tokens: expert.tokens, chunks: 1 }];
  const { job } = buildBatch(experiment, { groups: COLLECTED, forks: [], imitations, metrics: {} }, 1);
  if (job?.imitation === undefined) throw new Error("no imitation");
  // only the first chunk, with the return of a chunk that is one before the last, per imitated token
  const first = TURN_IDS.filter((turn) => turn === 0).length;
  expect([...(job.imitation.weights[0] ?? [])]).toEqual(
    Array.from(TURN_IDS, (turn) => (turn === 0 ? Math.fround((5 * 0.5) / first) : 0)),
  );
  const firstChunk = (slot: number) =>
    (learner.logprobs([expert.tokens.ids], slot)[0] as Float32Array).filter((_, t) => TURN_IDS[t] === 0);
  const sum = (values: Float32Array) => values.reduce((a, b) => a + b, 0);
  const imitated = await runUpdate(learner, store, job);
  const likely = sum(firstChunk(imitated.slot));
  const { imitation: _, ...without } = job;
  const alone = await runUpdate(learner, store, without);
  expect(likely).toBeGreaterThan(sum(firstChunk(alone.slot)));
  expect(imitated.loss).toBeGreaterThan(alone.loss);
});
