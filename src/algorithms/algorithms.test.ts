import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import golden from "./golden-cases.json";
import { grpoAdvantages } from "./grpo.ts";
import { type PolicyLossInput, ppoLoss, vanillaLoss } from "./policy-loss.ts";
import { reinforceAdvantages } from "./reinforce.ts";

function close(got: number, expected: number, relative: number, absolute: number): boolean {
  return Math.abs(got - expected) <= relative * Math.abs(expected) + absolute;
}

/** Splits scores into groups, applies `advantages`, and puts the results back in the original order. */
function byGroup(
  scores: readonly number[],
  groups: readonly string[],
  advantages: (grouped: number[][]) => number[][],
): number[] {
  const names = [...new Set(groups)];
  const members = names.map((name) => groups.flatMap((g, i) => (g === name ? [i] : [])));
  const result = advantages(members.map((ids) => ids.map((i) => scores[i] as number)));
  const flat = new Array<number>(scores.length).fill(Number.NaN);
  members.forEach((ids, g) => {
    ids.forEach((i, k) => {
      flat[i] = result[g]?.[k] as number;
    });
  });
  return flat;
}

describe("group advantages match the golden vectors", () => {
  for (const { name, inputs, expected } of golden.groups) {
    test(name, () => {
      const variants: [readonly number[], number[]][] = [
        [
          expected.grpo,
          byGroup(inputs.scores, inputs.groups, (g) => g.map((r) => grpoAdvantages(r, { normalizeStd: true }))),
        ],
        [
          expected.group_mean_only,
          byGroup(inputs.scores, inputs.groups, (g) => reinforceAdvantages(g, { baseline: "group" })),
        ],
        [
          expected.batch_mean_only,
          byGroup(inputs.scores, inputs.groups, (g) => reinforceAdvantages(g, { baseline: "batch" })),
        ],
      ];
      for (const [want, got] of variants) {
        got.forEach((value, i) => {
          expect(close(value, want[i] as number, 1e-9, 1e-12)).toBe(true);
        });
      }
    });
  }
});

describe("policy losses match the golden vectors", () => {
  for (const { name, inputs, expected } of golden.losses) {
    test(name, () => {
      let loss = 0;
      inputs.logp.forEach((logp, i) => {
        const input: PolicyLossInput = {
          logprobs_T: Float32Array.from(logp),
          behaviour_T: Float32Array.from(inputs.logp_old[i] as number[]),
          advantages_T: Float32Array.from(inputs.advantages[i] as number[]),
          mask_T: Uint8Array.from(inputs.mask[i] as number[]),
        };
        const tokens = inputs.denominators.tokens;
        const output =
          inputs.variant === "ppo" ? ppoLoss(input, { clip: 0.2, tokens }) : vanillaLoss(input, { tokens });
        loss += output.loss;
        output.weights_T.forEach((weight, t) => {
          expect(close(-weight, expected.grad[i]?.[t] as number, 1e-5, 1e-6)).toBe(true);
        });
      });
      expect(close(loss, expected.loss, 1e-5, 1e-6)).toBe(true);
    });
  }
});

test("group-relative advantages sum to 0 and do not change when all rewards shift", () => {
  const rewards = fc.array(fc.double({ min: -10, max: 10, noNaN: true }), { minLength: 1, maxLength: 16 });
  fc.assert(
    fc.property(rewards, fc.double({ min: -5, max: 5, noNaN: true }), (values, shift) => {
      const advantages = grpoAdvantages(values, { normalizeStd: false });
      expect(Math.abs(advantages.reduce((a, b) => a + b, 0))).toBeLessThan(1e-9);
      const shifted = grpoAdvantages(
        values.map((v) => v + shift),
        { normalizeStd: false },
      );
      shifted.forEach((value, i) => {
        expect(Math.abs(value - (advantages[i] as number))).toBeLessThan(1e-5);
      });
    }),
  );
});

test("equal rewards give exactly 0, so the group can be left out", () => {
  expect(grpoAdvantages([1, 1, 1, 1], { normalizeStd: true })).toEqual([0, 0, 0, 0]);
  expect(grpoAdvantages([0.5], { normalizeStd: true })).toEqual([0]);
});

test("tokens outside the mask never get a weight", () => {
  const input: PolicyLossInput = {
    logprobs_T: Float32Array.of(-1, -2, -3),
    behaviour_T: Float32Array.of(0, 0, 0),
    advantages_T: Float32Array.of(5, 5, 5),
    mask_T: Uint8Array.of(0, 1, 0),
  };
  expect([...ppoLoss(input, { clip: 0.2, tokens: 1 }).weights_T].filter((w) => w !== 0)).toHaveLength(1);
  expect([...vanillaLoss(input, { tokens: 1 }).weights_T].filter((w) => w !== 0)).toHaveLength(1);
});
