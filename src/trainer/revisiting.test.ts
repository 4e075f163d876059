import { expect, test } from "bun:test";
import type { StopReason, TokenRecord } from "../core/types.ts";
import { type Attempt, chooseSolutions, judgeAttempts, need, shareOut } from "./revisiting.ts";

function attempt(task: string, member: number, reward: number, length = 9, stopReason: StopReason = "done"): Attempt {
  const tokens = { ids: new Int32Array(length), mask: new Uint8Array(length).fill(1) } as unknown as TokenRecord;
  return { groupId: task, member, family: task[0] as string, reward, stopReason, tokens, turns: [] };
}

const ATTEMPTS = [
  ...[attempt("a1", 0, 1, 12), attempt("a1", 1, 1, 8), attempt("a1", 2, 0, 3), attempt("a1", 3, 1, 8)],
  ...[attempt("b1", 0, 0), attempt("b1", 1, 0), attempt("b1", 2, 0, 9, "sandbox_error"), attempt("b1", 3, 1)],
  ...[attempt("c1", 0, 0), { ...attempt("c1", 1, 1), alerts: ["tunnel"] }],
];

test("the shortest solution of a task is its best, and the machine's failures count for nobody", () => {
  const { rates, solutions } = judgeAttempts(ATTEMPTS);
  expect(Object.fromEntries(rates)).toEqual({ a: 0.75, b: 1 / 3, c: 0 });
  expect(solutions.map(({ attempt: { groupId, member }, rate }) => [groupId, member, rate])).toEqual([
    ["a1", 1, 0.75],
    ["b1", 3, 1 / 3],
  ]);
});

test("what fails more is chosen more often, without repetition, and the same for the same key", () => {
  const revisited = {
    rates: new Map([
      ["a", 1],
      ["b", 0.1],
    ]),
    solutions: Array.from({ length: 40 }, (_, i) => ({
      ...{ family: i < 20 ? "a" : "b", rate: i < 20 ? 1 : 0.1, attempt: attempt(`${i < 20 ? "a" : "b"}${i}`, 0, 1) },
    })),
  };
  const chosen = chooseSolutions(revisited, 20, 0.1, "key");
  expect(new Set(chosen.map((solution) => solution.attempt.groupId)).size).toBe(20);
  expect(chosen.filter(({ family }) => family === "b").length).toBeGreaterThan(15);
  expect(chooseSolutions(revisited, 20, 0.1, "key")).toEqual(chosen);
  expect(chooseSolutions(revisited, 100, 0.1, "key")).toHaveLength(40);
});

test("need falls with success, to the floor", () => {
  for (const [rate, expected] of [
    [0, 1],
    [0.5, 0.6],
    [1, 0.2],
  ] as const)
    expect(need(rate, 0.2)).toBeCloseTo(expected, 12);
});

test("shares are whole, in proportion, and sum to the count", () => {
  expect(shareOut(10, [1, 1, 1])).toEqual([4, 3, 3]);
  expect(shareOut(7, [0.1, 0, 0.9])).toEqual([1, 0, 6]);
  expect(shareOut(3, [0, 0])).toEqual([0, 0]);
});
