import { expect, test } from "bun:test";
import { MachineHealth } from "./health.ts";

const FAILED = { stopReason: "sandbox_error", error: "no space left" } as const;
const DONE = { stopReason: "done" } as const;
const WRONG = { stopReason: "turns" } as const;

function abortsAfter(health: MachineHealth, outcomes: readonly (typeof FAILED | typeof DONE | typeof WRONG)[]): number {
  for (const [i, outcome] of outcomes.entries()) {
    health.record(outcome);
    if (health.signal.aborted) return i + 1;
  }
  return Number.POSITIVE_INFINITY;
}

const times = <T>(count: number, outcome: T): T[] => new Array<T>(count).fill(outcome);

test("one failed sandbox among others is data, and so is half of them", () => {
  expect(abortsAfter(new MachineHealth(8), [FAILED, ...times(7, DONE)])).toBe(Number.POSITIVE_INFINITY);
  expect(abortsAfter(new MachineHealth(8), [...times(4, FAILED), ...times(4, WRONG)])).toBe(Number.POSITIVE_INFINITY);
  expect(abortsAfter(new MachineHealth(256), [DONE, ...times(128, FAILED)])).toBe(Number.POSITIVE_INFINITY);
});

test("the rest is stopped once most have failed, or none has worked", () => {
  expect(abortsAfter(new MachineHealth(8), times(8, FAILED))).toBe(5);
  expect(abortsAfter(new MachineHealth(256), [DONE, ...times(200, FAILED)])).toBe(130);
  const health = new MachineHealth(256);
  expect(abortsAfter(health, times(200, FAILED))).toBe(16);
  expect(() => health.signal.throwIfAborted()).toThrow(
    "16 of 256 episodes failed before they could be judged: no space left",
  );
  expect(health.signal.reason.hint).toContain("ale doctor");
});

test("where the graders failed the tasks are the first thing to look at", () => {
  const health = new MachineHealth(4);
  for (let i = 0; i < 3; i++) health.record({ stopReason: "grader_error", error: "reward.txt does not hold a number" });
  expect(health.signal.reason.hint).toContain("ale tasks check");
});
