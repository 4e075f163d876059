import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { AlgorithmSchema } from "../config/algorithm.ts";
import { type Composition, composeAlgorithm } from "../config/composition.ts";
import { segmentTurns } from "./chunks.ts";
import { estimateAdvantages, finishAdvantages, type ScoredEpisode, shapeRewards } from "./estimators.ts";
import { addMoments, NO_MOMENTS, normalizeRewards } from "./normalization.ts";
import { difficultyWeight, lengthWeights } from "./sample-weights.ts";
import { mean, standardDeviation } from "./statistics.ts";
import { turnStates } from "./turn-states.ts";

const settingsOf = (settings: Record<string, unknown>): Composition =>
  composeAlgorithm(AlgorithmSchema.parse({ type: "grpo", ...settings }));
const real = (bound: number) => fc.double({ min: -bound, max: bound, noNaN: true, noDefaultInfinity: true });
const rewards = fc.array(real(10), { minLength: 2, maxLength: 16 });

/** Prompt, then turns of two tokens, each answered by one token. */
function episode(turns: number, reward: number, ids: readonly number[] = []): ScoredEpisode {
  const { mask_T, turnIds_T } = segmentTurns([
    { role: "user", tokens: 2 },
    ...Array.from({ length: turns }, () => [
      { role: "assistant", tokens: 2 },
      { role: "tool", tokens: 1 },
    ]).flat(),
  ]);
  return { ids_T: Int32Array.from(mask_T, (_, t) => ids[t] ?? t), mask_T, turnIds_T, reward };
}

/** Advantages at the first token of each turn. */
function perTurn(settings: Record<string, unknown>, groups: readonly (readonly ScoredEpisode[])[]): number[][][] {
  const rows = estimateAdvantages(settingsOf(settings), groups);
  return groups.map((group, g) =>
    group.map(({ turnIds_T }, i) =>
      Array.from(rows[g]?.[i] ?? []).filter((_, t) => (turnIds_T[t] as number) >= 0 && t % 3 === 2),
    ),
  );
}

describe("advantages of a group", () => {
  const centred = [
    ...["grpo", "rloo", "reinforce", "lite_ppo", "ipa"].map((advantage) => ({ advantage })),
    { advantage: "grpo", normStd: "none" },
    { advantage: "grpo", normStd: "running" },
  ];

  test("sum to 0 and do not change when all rewards shift", () => {
    fc.assert(
      fc.property(rewards, real(5), fc.constantFrom(...centred), (values, shift, settings) => {
        // near the guard a shift may change on which side of it rounding leaves the spread
        fc.pre(standardDeviation(values) > 1e-3);
        const shape = (row: number[]) =>
          shapeRewards(settingsOf(settings), [row], addMoments(NO_MOMENTS, row))[0] as number[];
        const advantages = shape(values);
        expect(Math.abs(mean(advantages))).toBeLessThan(1e-9);
        const shifted = shape(values.map((value) => value + shift));
        for (const [i, value] of shifted.entries()) expect(value).toBeCloseTo(advantages[i] as number, 6);
      }),
    );
  });

  test("with the spread divided out do not change with the scale of the rewards", () => {
    const scopes = fc.constantFrom("group", "batch", "running");
    fc.assert(
      fc.property(rewards, fc.double({ min: 0.5, max: 8, noNaN: true }), scopes, (values, scale, normStd) => {
        fc.pre(standardDeviation(values) > 1);
        const shape = (row: number[]) =>
          shapeRewards(settingsOf({ normStd }), [row], addMoments(NO_MOMENTS, row))[0] as number[];
        const advantages = shape(values);
        const scaled = shape(values.map((value) => value * scale));
        for (const [i, value] of scaled.entries()) expect(value).toBeCloseTo(advantages[i] as number, 4);
      }),
    );
  });

  test("are exactly 0 where its rewards are equal, so that it can be left out", () => {
    const means = fc.constantFrom("group", "none");
    fc.assert(
      fc.property(real(3), fc.integer({ min: 1, max: 8 }), means, (reward, size, normMean) => {
        const group = new Array<number>(size).fill(reward);
        const shape = (settings: Record<string, unknown>) =>
          shapeRewards(settingsOf(settings), [group, [reward + 1, reward]])[0];
        expect(shape({ normMean, normStd: "group" })).toEqual(group.map(() => 0));
        expect(shape({ normMean: "group", normStd: "batch" })).toEqual(group.map(() => 0));
        expect(shape({ normMean: "group", normStd: "none" })).toEqual(group.map(() => 0));
      }),
    );
  });

  test("running moments are those of everything seen, whatever the batches", () => {
    fc.assert(
      fc.property(rewards, fc.nat(16), (values, cut) => {
        fc.pre(standardDeviation(values) > 1e-3);
        const moments = addMoments(addMoments(NO_MOMENTS, values.slice(0, cut)), values.slice(cut));
        expect(moments.mean).toBeCloseTo(mean(values), 9);
        const [normalized = []] = normalizeRewards([values], { mean: "running", spread: "running" }, moments);
        expect(standardDeviation(normalized)).toBeCloseTo(1, 2);
      }),
    );
    expect(normalizeRewards([[3]], { mean: "running", spread: "running" })).toEqual([[0]]);
  });

  test("rewards are clipped after they are normalised", () => {
    expect(shapeRewards(settingsOf({ normStd: "none", rewardClip: 0.5 }), [[0, 0, 0, 4]])).toEqual([
      [-0.5, -0.5, -0.5, 0.5],
    ]);
  });

  test("minus-one gives episodes of groups without spread a sign", () => {
    const settings = settingsOf({ type: "ipa", failure: "minus-one" });
    expect(shapeRewards(settings, [[0, 0], [1], [0.5]])).toEqual([[-1, -1], [1], [1]]);
  });
});

describe("advantages of turns", () => {
  const none = { normMean: "none", normStd: "none" };

  test("reinforce discounts by tokens, with and without those of observations", () => {
    const rows = (compact: boolean) =>
      estimateAdvantages(settingsOf({ ...none, advantage: "reinforce", discount: 0.5, compact }), [[episode(2, 8)]]);
    expect(Array.from(rows(true)[0]?.[0] ?? [])).toEqual([0, 0, 1, 2, 0, 4, 8, 0]);
    expect(Array.from(rows(false)[0]?.[0] ?? [])).toEqual([0, 0, 0.5, 1, 0, 4, 8, 0]);
  });

  test("ipa and step_reinforce discount by turns, and step_reinforce normalises the returns", () => {
    const group = [episode(3, 8), episode(1, 4)];
    for (const advantage of ["ipa", "step_reinforce"])
      expect(perTurn({ ...none, advantage, discount: 0.5 }, [group])).toEqual([[[2, 4, 8], [4]]]);
    const centred = perTurn({ advantage: "step_reinforce", discount: 0.5, normMean: "group" }, [group]);
    expect(centred).toEqual([[[-2.5, -0.5, 3.5], [-0.5]]]);
  });

  test("gigpo compares turns that began in the same state", () => {
    // the second turns follow different first turns but the same observation, token 9
    const group = [episode(2, 1, [0, 1, 2, 3, 9, 5, 6, 9]), episode(2, 0, [0, 1, 7, 8, 9, 5, 6, 9])];
    const of = (state: string) => perTurn({ advantage: "gigpo", discount: 0.5, normStd: "none", state }, [group]);
    // episodes ±½; first turns of returns ½ and 0: ±¼; second turns compared by observation only: ±½
    expect(of("history")).toEqual([
      [
        [0.75, 0.5],
        [-0.75, -0.5],
      ],
    ]);
    expect(of("observation")).toEqual([
      [
        [0.75, 1],
        [-0.75, -1],
      ],
    ]);
    expect(perTurn({ advantage: "gigpo", normStd: "none", episodeWeight: 0, stepWeight: 0 }, [group])[0]?.[0]).toEqual([
      0, 0,
    ]);
  });

  test("states of turns are their history, or what was shown last", () => {
    const { ids_T, turnIds_T } = episode(3, 0, [0, 1, 5, 5, 4, 5, 5, 4, 6, 6, 4]);
    const history = turnStates(ids_T, turnIds_T, "history");
    expect(new Set(history).size).toBe(3);
    const [first, second, third] = turnStates(ids_T, turnIds_T, "observation");
    expect([second, first === second]).toEqual([third, false]);
    // what a turn says itself is no part of the state it begins in
    const other = Int32Array.from(ids_T, (id, t) => (t >= 8 ? id + 1 : id));
    expect(turnStates(other, turnIds_T, "history")).toEqual(history);
  });
});

test("whitening and clipping leave the tokens of the environment alone", () => {
  const rows = [Float64Array.of(0, 1, 3), Float64Array.of(0, 0, 5)];
  const masks = [
    [0, 1, 1],
    [0, 0, 1],
  ];
  const whitened = finishAdvantages(settingsOf({ whiten: true }), rows, masks);
  const own = whitened.flatMap((row, i) => [...row].filter((_, t) => masks[i]?.[t] === 1));
  expect(mean(own)).toBeCloseTo(0, 12);
  expect(standardDeviation(own)).toBeCloseTo(1, 6);
  expect(whitened.map((row) => row[0])).toEqual([0, 0]);
  const clipped = finishAdvantages(settingsOf({ advantageClip: 2 }), rows, masks);
  expect(clipped.map((row) => [...row])).toEqual([
    [0, 1, 2],
    [0, 0, 2],
  ]);
});

test("whitening of equal advantages gives exactly 0", () => {
  fc.assert(
    fc.property(real(3), fc.integer({ min: 2, max: 40 }), (advantage, tokens) => {
      const row = new Float64Array(tokens).fill(advantage);
      const [whitened] = finishAdvantages(settingsOf({ whiten: true }), [row], [new Uint8Array(tokens).fill(1)]);
      expect(whitened?.every((value) => Math.abs(value) === 0)).toBe(true);
    }),
  );
});

test("weights of episodes", () => {
  expect(lengthWeights([10, 20, 30])).toEqual([1.5, 1, 0.5]);
  expect(lengthWeights([7, 7])).toEqual([1, 1]);
  expect([[1, 1], [1, 0], [0, 0], [-3]].map(difficultyWeight)).toEqual([0.5, 1.25, 2, 2]);
});
