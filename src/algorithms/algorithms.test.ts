import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ALGORITHM_TYPES, AlgorithmSchema } from "../config/algorithm.ts";
import { LEVELS } from "../config/components.ts";
import { composeAlgorithm } from "../config/composition.ts";
import { countDenominators, rowDivisor } from "./aggregation.ts";
import { chunkReturns } from "./chunk-return.ts";
import { denseTurnIds, segmentTurns } from "./chunks.ts";
import { estimateAdvantages } from "./estimators.ts";
import { compactGae } from "./gae.ts";
import { policyLoss } from "./index.ts";
import { ipaLoss, ipaReturns } from "./ipa.ts";
import { filterMismatch } from "./mismatch.ts";
import { passAtK } from "./pass-at-k.ts";
import { type PolicyLossInput, ppoLoss, vanillaLoss } from "./policy-loss.ts";
import { placeReward, placeRewardOnAttended } from "./reward-placement.ts";

const TYPES = ALGORITHM_TYPES.filter((type) => type !== "ppo");
const configOf = (type: (typeof TYPES)[number], settings: Record<string, unknown> = {}) =>
  composeAlgorithm(AlgorithmSchema.parse({ type, ...settings }));
const real = (bound: number) => fc.double({ min: -bound, max: bound, noNaN: true, noDefaultInfinity: true });

/** Two turns between prompt and observations; the last observation is answered by nobody. */
const TURNS = segmentTurns([
  { role: "user", tokens: 2 },
  { role: "assistant", tokens: 3 },
  { role: "tool", tokens: 1 },
  { role: "assistant", tokens: 2 },
  { role: "tool", tokens: 2 },
]);
const T = TURNS.mask_T.length;
const row = fc.array(real(2), { minLength: T, maxLength: T });
const inputs = fc
  .record({ logprobs_T: row, behaviour_T: row, proximal_T: row, advantages_T: row })
  .map((arrays): PolicyLossInput => ({ ...arrays, ...TURNS, score: 1 }));

describe("turns", () => {
  test("a trailing observation never erases a reward", () => {
    expect([...placeReward(1, TURNS.mask_T)]).toEqual([0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    expect([
      ...placeRewardOnAttended(
        1,
        TURNS.mask_T,
        TURNS.mask_T.map(() => 1),
      ),
    ]).toEqual(new Array(T).fill(0));
  });

  test("the chunk return of a reward on the last token is the return of IPA", () => {
    fc.assert(
      fc.property(real(3), fc.double({ min: 0, max: 1, noNaN: true }), (reward, discount) => {
        const rewards_T = placeReward(reward, TURNS.mask_T);
        for (const rewardOf of ["last", "sum"] as const) {
          const returns = chunkReturns(rewards_T, TURNS.turnIds_T, { discount, rewardOf });
          ipaReturns(reward, TURNS.turnIds_T, discount).forEach((value, t) => {
            expect(returns[t]).toBeCloseTo(value, 12);
          });
        }
      }),
    );
  });

  test("a turn without tokens costs no discount", () => {
    expect([...denseTurnIds([-1, 0, 0, -1, 2, 5])]).toEqual([-1, 0, 0, -1, 1, 2]);
    const episode = {
      ...{ ids_T: Int32Array.of(1, 2, 3, 4, 5), mask_T: [0, 1, 1, 0, 1], turnIds_T: [-1, 0, 0, -1, 3], reward: 2 },
    };
    const ofType = (settings: Record<string, unknown>) => [
      ...(estimateAdvantages(composeAlgorithm(AlgorithmSchema.parse(settings)), [[episode]])[0]?.[0] ?? []),
    ];
    expect(ofType({ type: "ipa", discount: 0.5, normMean: "none" })).toEqual([0, 1, 1, 0, 2]);
    expect(ofType({ type: "grpo", normMean: "none", normStd: "none" })).toEqual([0, 2, 2, 0, 2]);
  });

  test("compact advantages do not depend on the length of observations", () => {
    const options = { discount: 0.9, lambda: 0.8 };
    const long = { rewards_T: [0, 9, 9, 1], values_T: [0.5, 7, 7, 0.25], mask_T: [1, 0, 0, 1] };
    const short = { rewards_T: [0, 1], values_T: [0.5, 0.25], mask_T: [1, 1] };
    const of = (input: typeof long) => [...compactGae(input, options).advantages_T].filter((value) => value !== 0);
    expect(of(long)).toEqual(of(short));
  });

  test("a chunk never splits under a filter of its level", () => {
    fc.assert(
      fc.property(row, row, fc.constantFrom(...LEVELS), (proximal_T, behaviour_T, level) => {
        const kept = filterMismatch({ proximal_T, behaviour_T, ...TURNS }, [{ level, ratio: [0.8, 1.25] }]);
        for (const [begin, end] of level === "token" ? [] : TURNS.spans)
          expect(new Set(kept.subarray(begin, end)).size).toBe(1);
        kept.forEach((bit, t) => {
          expect(bit).toBeLessThanOrEqual(TURNS.mask_T[t] as number);
        });
      }),
    );
  });
});

describe("losses of every type", () => {
  const denominators = { tokens: 7, samples: 3, chunks: 4 };

  test("never train what the environment wrote", () => {
    fc.assert(
      fc.property(inputs, fc.constantFrom(...TYPES), (input, type) => {
        const { weights_T, losses_T, loss } = policyLoss(configOf(type), input, denominators);
        expect(Number.isFinite(loss)).toBe(true);
        TURNS.mask_T.forEach((bit, t) => {
          if (bit === 0) expect([weights_T[t], losses_T[t]]).toEqual([0, 0]);
        });
      }),
    );
  });

  test("are the plain policy gradient where nothing has changed yet", () => {
    fc.assert(
      fc.property(row, real(3), fc.constantFrom(...TYPES), (logprobs_T, advantage, type) => {
        const algorithm = configOf(type);
        const advantages_T = Float64Array.from(TURNS.mask_T, (bit) => bit * advantage);
        const input = { logprobs_T, behaviour_T: logprobs_T, advantages_T, ...TURNS };
        const { weights_T, clipped, approxKl } = policyLoss(algorithm, input, denominators);
        const divisor = rowDivisor({ ...denominators, aggregation: algorithm.aggregation }, 5);
        weights_T.forEach((weight, t) => {
          expect(weight).toBeCloseTo(((advantages_T[t] as number) * (TURNS.mask_T[t] as number)) / divisor, 5);
        });
        expect([clipped, approxKl]).toEqual([0, 0]);
      }),
    );
  });

  test("move no positive token down and no negative token up", () => {
    // gspo too: its ratio is shared, and so is the sign of an episode's advantage; kimi pulls back to the old policy
    const monotone = TYPES.filter((type) => type !== "kimi");
    fc.assert(
      fc.property(inputs, real(3), fc.constantFrom(...monotone), (input, advantage, type) => {
        const algorithm = configOf(type);
        const advantages_T = Float64Array.from(TURNS.mask_T, (bit) => bit * advantage);
        for (const weight of policyLoss(algorithm, { ...input, advantages_T }, denominators).weights_T)
          expect(weight * advantage).toBeGreaterThanOrEqual(0);
      }),
    );
  });
});

describe("losses", () => {
  const input: PolicyLossInput = {
    logprobs_T: Float32Array.of(-1, -2, -3),
    behaviour_T: Float32Array.of(0, 0, 0),
    advantages_T: Float32Array.of(5, 5, 5),
    mask_T: Uint8Array.of(0, 1, 0),
  };

  test("give weights to the masked token only", () => {
    expect([...ppoLoss(input, { clip: 0.2, tokens: 1 }).weights_T].filter((w) => w !== 0)).toHaveLength(1);
    expect([...vanillaLoss(input, { tokens: 1 }).weights_T].filter((w) => w !== 0)).toHaveLength(1);
  });

  test("name a denominator that is missing", () => {
    expect(() => vanillaLoss(input, { tokens: 1, aggregation: "chunk-mean" })).toThrow("the number of chunks");
    expect(() => ppoLoss(input, { clip: 0.2, tokens: 1, ratio: "chunk" })).toThrow("the turn of each token");
  });

  test("count tokens, sequences and turns of a minibatch", () => {
    const empty = { mask_T: [0, 0], turnIds_T: [-1, -1] };
    expect(countDenominators([TURNS, empty, TURNS])).toEqual({ tokens: 10, samples: 2, chunks: 4 });
  });

  test("ipa leaves whole turns out whose probabilities differ between the engines", () => {
    const zeros = new Array(T).fill(0);
    const behaviour_T = zeros.map((_, t) => (t === 3 ? -0.3 : 0));
    const options = { tokens: 1, mismatchHigh: 1.05, positives: "advantage" } as const;
    const advantages_T = zeros.map(() => 1);
    const of = { logprobs_T: zeros, proximal_T: zeros, advantages_T, ...TURNS };
    const { weights_T, clipped } = ipaLoss({ ...of, behaviour_T }, options);
    expect([...weights_T]).toEqual([0, 0, 0, 0, 0, 0, 1, 1, 0, 0]);
    expect(clipped).toBe(3);
    expect(ipaLoss({ ...of, behaviour_T: zeros }, options).clipped).toBe(0);
  });
});

test("pass@k needs k tries", () => {
  expect(passAtK(4, 1, 4)).toBe(1);
  expect(() => passAtK(3, 1, 4)).toThrow("at least 4 tries");
});
