/** Faults of other implementations that ours must not have, one test each; see docs/algorithms.md, "What ours does not do". */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { AlgorithmSchema } from "../config/algorithm.ts";
import { composeAlgorithm } from "../config/composition.ts";
import { chunkReturns } from "./chunk-return.ts";
import { denseTurnIds, maskRuns, segmentTurns } from "./chunks.ts";
import { correct } from "./correction.ts";
import { estimateAdvantages } from "./estimators.ts";
import { policyLoss } from "./index.ts";
import { rewardsWithKl } from "./kl.ts";
import { pool } from "./levels.ts";
import type { PolicyLossInput } from "./policy-loss.ts";

const settingsOf = (settings: Record<string, unknown>) => composeAlgorithm(AlgorithmSchema.parse(settings));

/** Two turns with nothing between them, an observation, a turn, and an observation that nothing answers. */
const TURNS = segmentTurns([
  { role: "user", tokens: 1 },
  { role: "assistant", tokens: 2 },
  { role: "assistant", tokens: 3 },
  { role: "tool", tokens: 2 },
  { role: "assistant", tokens: 2 },
  { role: "tool", tokens: 1 },
]);
const T = TURNS.mask_T.length;
const row = fc.array(fc.double({ min: -2, max: 0, noNaN: true }), { minLength: T, maxLength: T });
const DENOMINATORS = { tokens: 7, samples: 1, chunks: 3 };

describe("a token filter", () => {
  test("does not change the ratio of a chunk, nor split it", () => {
    fc.assert(
      fc.property(row, row, row, (logprobs_T, proximal_T, behaviour_T) => {
        const input = { ...TURNS, logprobs_T, proximal_T, behaviour_T, advantages_T: new Array(T).fill(1) };
        const settings = settingsOf({ type: "tis", ratio: "chunk", upper: 100 });
        const filters = [{ level: "token" as const, ratioLow: 0.8, ratioHigh: 1.25 }];
        const { lossMask_T = new Uint8Array(T) } = correct(input, { filters });
        const whole = policyLoss(settings, input, DENOMINATORS).weights_T;
        const filtered = policyLoss(settings, { ...input, lossMask_T }, DENOMINATORS).weights_T;
        filtered.forEach((weight, t) => {
          expect(weight).toBe(lossMask_T[t] === 1 ? (whole[t] as number) : 0);
        });
        // and one that comes after it at chunk level keeps or drops chunks as if it were alone
        const byChunk = { level: "chunk" as const, ratioLow: 0.8, ratioHigh: 1.25 };
        const both = correct(input, { filters: [...filters, byChunk] }).lossMask_T as Uint8Array;
        const alone = correct(input, { filters: [byChunk] }).lossMask_T as Uint8Array;
        for (const [begin, end] of TURNS.spans) expect(new Set(alone.subarray(begin, end)).size).toBe(1);
        both.forEach((bit, t) => {
          expect(bit).toBe((alone[t] as number) & (lossMask_T[t] as number));
        });
      }),
    );
  });
});

describe("a reward inside a chunk", () => {
  test("is not lost: the penalty of every token reaches the chunk's return", () => {
    fc.assert(
      fc.property(row, row, (logprobs_T, reference_T) => {
        const input = { logprobs_T, reference_T, mask_T: TURNS.mask_T };
        const { rewards_T } = rewardsWithKl(new Array(T).fill(0), input, { beta: 1, kind: "k1" });
        const returns_T = chunkReturns(rewards_T, TURNS.turnIds_T, { discount: 1, rewardOf: "sum" });
        const expected = rewards_T.reduce((sum, reward) => sum + reward, 0);
        expect(returns_T[1]).toBeCloseTo(expected, 9);
      }),
    );
  });
});

describe("an observation at the end", () => {
  test.each(["reinforce", "grpo", "ipa", "step_reinforce", "gigpo"])("does not erase the reward: %s", (advantage) => {
    const settings = settingsOf({ type: "grpo", advantage });
    const episode = (reward: number) => ({ ...TURNS, ids_T: Int32Array.from({ length: T }, (_, t) => t), reward });
    const [[solved, failed] = []] = estimateAdvantages(settings, [[episode(1), episode(0)]]);
    TURNS.mask_T.forEach((bit, t) => {
      if (bit === 1) expect(solved?.[t]).toBeGreaterThan(failed?.[t] as number);
      else expect([solved?.[t], failed?.[t]]).toEqual([0, 0]);
    });
  });
});

describe("topr", () => {
  /** A success below its group's mean: positive score, negative advantage. */
  const input: PolicyLossInput = {
    ...TURNS,
    logprobs_T: new Array(T).fill(0),
    behaviour_T: new Array(T).fill(-3),
    advantages_T: new Array(T).fill(-1),
    score: 1,
  };
  const weightsOf = (settings: Record<string, unknown>, given = input) =>
    policyLoss(settingsOf({ type: "topr", ...settings }), given, { ...DENOMINATORS, tokens: 1 }).weights_T;

  test("tapers whatever pushes a token down, by default", () => {
    const rare = { ...input, logprobs_T: new Array(T).fill(-3), behaviour_T: new Array(T).fill(0) };
    expect(weightsOf({}, rare)[1]).toBeCloseTo(-Math.exp(-3), 6);
  });

  test("does not, where the raw score decides as in ROLL", () => {
    const rare = { ...input, logprobs_T: new Array(T).fill(-3), behaviour_T: new Array(T).fill(0) };
    expect(weightsOf({ positives: "score" }, rare)[1]).toBe(-1);
  });
});

describe("two turns without an observation between them", () => {
  test("are two chunks, where runs of the mask are one", () => {
    expect(TURNS.spans).toEqual([
      [1, 3],
      [3, 6],
      [8, 10],
    ]);
    expect(maskRuns(TURNS.mask_T)[3]).toBe(0);
    expect(denseTurnIds(TURNS.turnIds_T)[3]).toBe(1);
    const values_T = TURNS.turnIds_T.map((turn) => turn * 10);
    expect([...pool(values_T, TURNS, "chunk")].slice(1, 6)).toEqual([0, 0, 10, 10, 10]);
    const settings = settingsOf({ type: "ipa", normMean: "none", discount: 0.5 });
    const episode = { ...TURNS, ids_T: new Int32Array(T), reward: 1 };
    const [[returns_T = new Float64Array(0)] = []] = estimateAdvantages(settings, [[episode]]);
    expect([...returns_T]).toEqual([0, 0.25, 0.25, 0.5, 0.5, 0.5, 0, 0, 1, 1, 0]);
  });
});
