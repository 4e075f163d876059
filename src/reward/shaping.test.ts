import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { RewardSchema } from "../config/reward.ts";
import type { Group, Trajectory } from "../core/types.ts";
import { ScriptedChatModel, type ScriptRule } from "../policy/scripted-chat.ts";
import { formatReward, lengthReward, outcomeReward, places, ringPairs } from "./components.ts";
import { type ShapingParts, shapeRewards } from "./shaping.ts";

function episode(
  member: number,
  reward: number,
  more: Partial<Trajectory> & { readonly sampled?: number } = {},
): Trajectory {
  const { sampled = 10, ...rest } = more;
  const none = new Int32Array(sampled);
  const zeros = new Float32Array(sampled);
  return {
    ...{ episodeId: `g/${member}`, groupId: "g", taskId: "t/a", family: "a", split: "train", seed: 1, member },
    tokens: {
      ...{ ids: none, mask: new Uint8Array(sampled).fill(1), logprobs: zeros, logprobsT1: zeros },
      ...{ versions: none, kvOldest: none, turnIds: none },
    },
    turns: [
      { index: 0, command: `run ${member}`, observation: "", exitCode: 0, startedMs: 0, generatedMs: 1, observedMs: 2 },
    ],
    ...{ reward, stopReason: "done", isolation: "", grading: "clean", startedAt: 0 },
    phases: { reset: 0, generate: 0, tool: 0, grade: 0 },
    ...rest,
  };
}

const turn = (command: string) => ({ ...(episode(0, 0).turns[0] as Trajectory["turns"][number]), command });

test("outcome, format and length follow from the episode", () => {
  const half = episode(0, 0, { tests: { passed: 3, total: 4 } });
  expect(outcomeReward(half, "pass-rate")).toBe(0.75);
  expect(outcomeReward({ ...half, stopReason: "turns" }, "pass-rate")).toBe(0);
  expect(outcomeReward(episode(0, 0.4), "binary")).toBe(0);
  expect(outcomeReward(episode(0, 0.4), "score")).toBe(0.4);
  expect(formatReward(episode(0, 0, { turns: [turn("ls"), turn("")] }))).toBe(-0.5);
  expect(formatReward(episode(0, 0, { stopReason: "format" }))).toBe(-1);
  const soft = { maxTokens: 100, buffer: 40 };
  const lengths = [10, 60, 80, 100, 500].map((sampled) => lengthReward(episode(0, 0, { sampled }), soft));
  expect(lengths).toEqual([0, 0, -0.5, -1, -1]);
});

test("places sum to zero, keep the order, and are shared by equals", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 12 }), (values) => {
      const found = places(values);
      expect(Math.abs(found.reduce((sum, place) => sum + place, 0))).toBeLessThan(1e-12);
      for (const [i, a] of values.entries()) {
        for (const [j, b] of values.entries()) {
          if (a > b) expect(found[i]).toBeGreaterThan(found[j] as number);
          if (a === b) expect(found[i]).toBe(found[j] as number);
        }
      }
    }),
  );
  expect(places([3, 1, 2])).toEqual([0.5, -0.5, 0]);
});

test("a ring of pairs gives everybody about as many opponents as are wanted", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 12 }), fc.integer({ min: 1, max: 20 }), (count, opponents) => {
      const pairs = ringPairs(count, opponents);
      expect(new Set(pairs.map(String)).size).toBe(pairs.length);
      const met = Array.from({ length: count }, (_, i) => pairs.filter((pair) => pair.includes(i)).length);
      const wanted = Math.min(count - 1, opponents);
      for (const number of met) {
        expect(number).toBeGreaterThanOrEqual(wanted);
        expect(number).toBeLessThanOrEqual(Math.min(count - 1, wanted + 1));
      }
    }),
  );
});

describe("a step", () => {
  const group = (...trajectories: Trajectory[]): Group => ({ groupId: "g", taskId: "t/a", trajectories });
  const step = (...groups: Group[]) => ({
    groups,
    forks: [],
    metrics: { before: 1 } as Record<string, number>,
    imitations: "kept",
  });
  const parts = (more: Partial<ShapingParts> = {}): ShapingParts => ({
    ...{ instructionOf: () => "Do it.", signal: new AbortController().signal, ...more },
  });
  const model = (rules: readonly ScriptRule[]) =>
    new ScriptedChatModel("script", rules, { writeCommand: (command) => command, done: "DONE" });
  const rewards = (groups: readonly Group[]) =>
    groups.flatMap(({ trajectories }) => trajectories.map(({ reward }) => reward));

  test("without [reward] stays as it is, but for what verifiers wrote besides", async () => {
    const before = step(group(episode(0, 1, { scores: { style: 1 } }), episode(1, 0, { scores: { style: 0.5 } })));
    const after = await shapeRewards(before, undefined, parts());
    expect(after.groups).toBe(before.groups);
    expect(after.metrics).toEqual({ before: 1, "reward/style": 0.75 });
  });

  test("is trained on the sum, and each part is a metric; episodes stay as they were", async () => {
    const config = RewardSchema.parse({
      outcomeWeight: 2,
      formatPenalty: 1,
      length: { maxTokens: 20, buffer: 10, penalty: 0.5 },
      ranking: { by: "tokens", weight: 0.2 },
    });
    const before = step(
      group(
        episode(0, 1, { sampled: 10 }),
        episode(1, 1, { sampled: 20 }),
        episode(2, 0, { stopReason: "format" }),
        episode(3, 0, { stopReason: "sandbox_error" }),
      ),
    );
    const after = await shapeRewards(before, config, parts());
    expect(rewards(after.groups)).toEqual([2.1, 2 - 0.5 - 0.1, -1, 0]);
    expect(rewards(before.groups)).toEqual([1, 1, 0, 0]);
    const { metrics } = after;
    expect(metrics["reward/outcome"]).toBeCloseTo(4 / 3, 12);
    const sum = ["outcome", "format", "length", "ranking"].reduce(
      (total, name) => total + (metrics[`reward/${name}`] ?? 0),
      0,
    );
    expect(metrics["reward/total"]).toBeCloseTo(sum, 12);
    expect(after.imitations).toBe("kept");
  });

  test("has episodes judged, and compared in both orders", async () => {
    const config = RewardSchema.parse({
      outcomeWeight: 0,
      judge: { policy: "scripted:x", rubric: "Is it short?", votes: 3, weight: 1 },
      ranking: { by: "judge", policy: "scripted:x", rubric: "Which is shorter?", among: "all", weight: 1 },
    });
    const judge = model([
      { when: ["Is it short?", "$ run 0"], answers: ['Hm. {"score": 8, "reason": "yes"}'] },
      { when: "Is it short?", answers: ["I do not know"] },
    ]);
    // Always the first one: in both orders that is no preference at all.
    const biased = model([{ answers: ['{"better": "A"}'] }]);
    const before = step(group(episode(0, 1), episode(1, 1), episode(2, 1)));
    const first = await shapeRewards(before, config, parts({ judge, rankingJudge: biased })).catch((error) => error);
    expect(first).toMatchObject({ code: "remote", message: expect.stringContaining("failed for 2 of 3 questions") });
    const fair = model([{ when: ["$ run 0"], answers: ['{"better": "tie"}'] }, { answers: ['{"better": "B"}'] }]);
    const known = model([{ when: "$ run 2", answers: ["?"] }, { answers: ['{"score": 6}'] }]);
    const after = await shapeRewards(before, config, parts({ judge: known, rankingJudge: fair }));
    // Number 2 was not judged and gets the mean of the others.
    for (const reward of rewards(after.groups)) expect(reward).toBeCloseTo(0.6, 12);
    expect(after.metrics["reward/judge_failed"]).toBeCloseTo(1 / 3, 12);
    expect(after.metrics["reward/ranking_failed"]).toBe(0);
  });

  test("leaves a punishment as it is", async () => {
    const config = RewardSchema.parse({ outcome: "binary", formatPenalty: 1, ranking: { by: "turns" } });
    const before = step(group(episode(0, -1), episode(1, 1), episode(2, 1, { turns: [turn("a"), turn("b")] })));
    const after = await shapeRewards(before, config, parts({ isPunished: ({ member }) => member === 0 }));
    expect(rewards(after.groups)).toEqual([-1, 1.5, 0.5]);
  });

  test("asks a function of the user's, whose failure ends the step", async () => {
    const config = RewardSchema.parse({ function: "mine.ts", sha256: "0".repeat(64), functionWeight: 0.5 });
    const call = async ({
      turns,
      outcome,
      instruction,
    }: {
      turns: readonly unknown[];
      outcome: number;
      instruction: string;
    }) => turns.length + outcome + instruction.length;
    const after = await shapeRewards(step(group(episode(0, 1))), config, parts({ call }));
    expect(rewards(after.groups)).toEqual([1 + 0.5 * (1 + 1 + 6)]);
    const failing = shapeRewards(
      step(group(episode(0, 1))),
      config,
      parts({ call: () => Promise.reject(new Error("no")) }),
    );
    await expect(failing).rejects.toThrow("no");
  });
});
