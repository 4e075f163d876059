import { expect, test } from "bun:test";
import fc from "fast-check";
import { planMicroBatches } from "./micro-batches.ts";

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
    { members: [3], rows: 1, length: 208 },
    { members: [4, 1, 2, 0], rows: 4, length: 64 },
    { members: [5, 6], rows: 2, length: 16 },
  ]);
});
