import { expect, test } from "bun:test";
import fc from "fast-check";
import { planMicroBatches, plannedTokens } from "./micro-batches.ts";

test("every sequence is covered once, in a rectangle it fits and that is not much larger than asked", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 256 }), { maxLength: 80 }),
      fc.constantFrom(64, 512, 2048),
      (lengths, tokens) => {
        const plan = planMicroBatches(lengths, { tokens, contextLength: 256 });
        const covered = plan.flatMap((batch) => batch.members).sort((a, b) => a - b);
        expect(covered).toEqual(lengths.flatMap((length, i) => (length > 0 ? [i] : [])));
        for (const { members, rows, length } of plan) {
          expect(members.length).toBeLessThanOrEqual(rows);
          expect(rows * length).toBeLessThanOrEqual(Math.max(tokens, length));
          expect(length).toBeLessThanOrEqual(256);
          for (const member of members) expect(lengths[member] as number).toBeLessThanOrEqual(length);
        }
      },
    ),
    { numRuns: 100 },
  );
});

test("longest first; spare rows take shorter sequences", () => {
  const plan = planMicroBatches([10, 60, 60, 200, 61, 9, 8], { tokens: 256, contextLength: 256 });
  expect(plan).toEqual([
    { members: [3], starts: [0], rows: 1, length: 208, packed: false },
    { members: [4, 1, 2, 0], starts: [0, 64, 128, 192], rows: 4, length: 64, packed: false },
    { members: [5, 6], starts: [0, 16], rows: 2, length: 16, packed: false },
  ]);
});

test("packed sequences lie one behind the other, none over another or over the end of its row", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 600 }), { maxLength: 60 }),
      fc.constantFrom(16, 64, 512, 2048),
      (lengths, tokens) => {
        const plan = planMicroBatches(lengths, { tokens, contextLength: 700 }, "on");
        const covered = plan.flatMap((batch) => batch.members).sort((a, b) => a - b);
        expect(covered).toEqual(lengths.flatMap((length, i) => (length > 0 ? [i] : [])));
        for (const { members, starts, rows, length } of plan) {
          expect(rows * length).toBeLessThanOrEqual(Math.max(tokens, length));
          expect(length).toBeLessThanOrEqual(700);
          const taken = new Set<number>();
          for (const [i, member] of members.entries()) {
            const begin = starts[i] as number;
            const end = begin + (lengths[member] as number);
            expect(Math.floor(begin / length)).toBe(Math.floor((end - 1) / length));
            for (let token = begin; token < end; token++) taken.add(token);
          }
          expect(taken.size).toBe(members.reduce((sum, member) => sum + (lengths[member] as number), 0));
          for (const token of taken) expect(token).toBeLessThan(rows * length);
        }
      },
    ),
    { numRuns: 30 },
  );
});

test("first fit, longest first; of equal ones the earlier first", () => {
  const plan = planMicroBatches([100, 300, 100, 20, 60, 100], { tokens: 512, contextLength: 512 }, "on");
  expect(plan).toEqual([
    { members: [1, 4, 3], starts: [0, 300, 360], rows: 1, length: 384, packed: true },
    { members: [0, 2], starts: [0, 100], rows: 1, length: 208, packed: true },
    { members: [5], starts: [0], rows: 1, length: 128, packed: true },
  ]);
});

test("auto packs where it saves enough of the tokens", () => {
  const limits = { tokens: 1024, contextLength: 256 };
  const planned = (lengths: number[], packing: "auto" | "on" | "off") =>
    plannedTokens(planMicroBatches(lengths, limits, packing));
  const wasteful = Array.from({ length: 40 }, (_, i) => 49 + (i % 2));
  expect(planned(wasteful, "on")).toBeLessThan(0.82 * planned(wasteful, "off"));
  expect(planned(wasteful, "auto")).toBe(planned(wasteful, "on"));
  const fitting = Array.from({ length: 32 }, () => 64);
  expect(planMicroBatches(fitting, limits, "auto")).toEqual(planMicroBatches(fitting, limits, "off"));
});
