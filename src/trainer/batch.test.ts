import { describe, expect, test } from "bun:test";
import { ExperimentSchema } from "../config/experiment.ts";
import type { Group, Trajectory } from "../core/types.ts";
import { buildBatch } from "./batch.ts";

/** Prompt, a turn, an observation, a turn, and an observation that nothing answers. */
const TURN_IDS = Int32Array.of(-1, -1, 0, 0, 0, -1, 1, 1, -1);

function group(rewards: readonly number[], index = 0): Group {
  const zeros = () => new Int32Array(TURN_IDS.length);
  const floats = () => new Float32Array(TURN_IDS.length);
  const trajectories = rewards.map(
    (reward, member): Trajectory => ({
      ...{ episodeId: `${index}/${member}`, groupId: `${index}`, taskId: "t", family: "f", split: "train" },
      ...{ seed: 0, member, turns: [], reward, stopReason: "done", isolation: "none", grading: "clean", startedAt: 0 },
      phases: { reset: 0, generate: 0, tool: 0, grade: 0 },
      tokens: {
        ...{ ids: zeros(), logprobs: floats(), logprobsT1: floats(), versions: zeros(), kvOldest: zeros() },
        mask: Uint8Array.from(TURN_IDS, (id) => (id < 0 ? 0 : 1)),
        turnIds: TURN_IDS,
      },
    }),
  );
  return { groupId: `${index}`, taskId: "t", trajectories };
}

const batchOf = (
  algorithm: Record<string, unknown>,
  groups: readonly Group[],
  before?: Parameters<typeof buildBatch>[4],
) =>
  buildBatch(
    ExperimentSchema.parse({ algorithm }),
    { groups, forks: [], imitations: [], metrics: {} },
    1,
    undefined,
    before,
  );

/** Advantage of the first sampled token of each episode that takes part. */
const first = (batch: ReturnType<typeof buildBatch>) => batch.job?.advantages.map((row) => row[2]);

describe("episodes of a step", () => {
  test("that carry no signal are left out, and the others keep the statistics of all", () => {
    const groups = [group([1, 0]), group([1, 1], 1), group([0, 0], 2)];
    const batch = batchOf({ type: "grpo" }, groups);
    expect(batch.job?.groups).toEqual([0, 0]);
    // with the batch's statistics every episode has an advantage
    expect(batchOf({ type: "reinforce_plus_plus" }, groups).job?.groups).toEqual([0, 0, 1, 1, 2, 2]);
    expect(batchOf({ type: "grpo" }, [group([1, 1])]).job).toBeUndefined();
  });

  test("without a signal take part where a divergence in the loss holds all of them near the start", () => {
    const groups = [group([1, 0]), group([1, 1], 1)];
    const experiment = ExperimentSchema.parse({ kl: { in: "loss" } });
    const { job } = buildBatch(experiment, { groups, forks: [], imitations: [], metrics: {} }, 1);
    expect(job?.groups).toEqual([0, 0, 1, 1]);
    expect(job?.advantages[2]?.every((advantage) => advantage === 0)).toBe(true);
  });

  test("without any signal leave what there is to imitate", () => {
    const failures = group([0, 0]);
    const expert = failures.trajectories[0] as Trajectory;
    const experiment = ExperimentSchema.parse({ algorithm: { type: "ipa" }, resampling: { imitation: 0.5 } });
    const collected = {
      groups: [failures],
      forks: [],
      imitations: [{ tokens: expert.tokens, chunks: 1 }],
      metrics: {},
    };
    const batch = buildBatch(experiment, collected, 1);
    expect(batch.job).toBeUndefined();
    expect(batch.imitation?.kind).toBe("supervised");
    const weights = batch.imitation?.weights[0] ?? [];
    expect(weights.findIndex((weight) => weight > 0)).toBe(TURN_IDS.indexOf(0));
  });

  test("under which the machine failed do not count, neither alone nor in their group", () => {
    const [whole] = [group([1, 0, 0])];
    const [first, second, failed] = whole.trajectories as [Trajectory, Trajectory, Trajectory];
    const broken = { ...whole, trajectories: [first, second, { ...failed, stopReason: "sandbox_error" as const }] };
    const settings = { type: "reinforce" };
    const advantages = (one: Group) => batchOf(settings, [one]).job?.advantages.map((row) => row[2]);
    expect(advantages(broken)).toEqual([0.5, -0.5]);
  });

  test("are whitened over the step before they are left out", () => {
    const groups = [group([1, 1, 0, 0]), group([1, 1], 1)];
    const batch = batchOf({ type: "grpo", normStd: "none", whiten: true }, groups);
    const values = first(batch) ?? [];
    // 5 tokens each; the two of equal rewards stay at 0, which is the mean
    const deviation = Math.sqrt((4 * 5 * 0.25) / (6 * 5 - 1));
    expect(values).toHaveLength(4);
    expect(values[0]).toBeCloseTo(0.5 / deviation, 4);
  });

  test("have nothing on the tokens of the environment", () => {
    for (const type of ["grpo", "ipa", "gigpo", "step_reinforce"]) {
      const { job } = batchOf({ type }, [group([1, 0])]);
      for (const row of job?.advantages ?? [])
        row.forEach((value, t) => {
          if ((TURN_IDS[t] as number) < 0) expect(value).toBe(0);
        });
    }
  });
});

describe("running normalisation", () => {
  const settings = { type: "reinforce", normMean: "running", normStd: "running" };

  test("uses all rewards of the run, and says what to go on from", () => {
    const one = batchOf(settings, [group([1, 0])]);
    expect(one.rewardMoments).toEqual({ count: 2, mean: 0.5, squares: 0.5 });
    const two = batchOf(settings, [group([1, 1])], one.rewardMoments);
    expect(two.rewardMoments?.count).toBe(4);
    expect(two.rewardMoments?.mean).toBeCloseTo(0.75, 12);
    // a group of equal rewards has a signal beside those before it
    expect(first(two)?.[0]).toBeCloseTo(0.25 / (0.5 + 1e-6), 6);
  });

  test("goes on in the same way from what was stored as JSON", () => {
    const before = batchOf(settings, [group([1, 0, 0])]).rewardMoments;
    const stored = JSON.parse(JSON.stringify(before));
    const next = [group([0, 1, 1])];
    expect(first(batchOf(settings, next, stored))).toEqual(first(batchOf(settings, next, before)));
  });

  test("of other types leaves nothing to carry", () => {
    expect(batchOf({ type: "grpo" }, [group([1, 0])])).not.toHaveProperty("rewardMoments");
  });

  test("shapes what a critic's advantages are estimated from", () => {
    const { job } = batchOf({ type: "ppo", normStd: "batch", normMean: "batch" }, [group([1, 0])]);
    expect(job?.shapedRewards[0]).toBeCloseTo(0.5 / (Math.SQRT1_2 + 1e-6), 9);
    expect(job?.rewards).toEqual([1, 0]);
  });
});
