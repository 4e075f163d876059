import { expect, test } from "bun:test";
import {
  BORN,
  IllegalTransition,
  type Lifecycle,
  MAX_HISTORY,
  possibleEvents,
  SANDBOX_EVENTS,
  SANDBOX_STATES,
  type SandboxEvent,
  type SandboxState,
  transition,
} from "./lifecycle.ts";

/** Written out, so that a move that is added or lost is seen. */
const LEGAL = [
  "pending ready running",
  "pending fail failed",
  "running fail failed",
  "paused fail failed",
  "running pause paused",
  "paused resume running",
  "pending stop stopped",
  "running stop stopped",
  "paused stop stopped",
  "stopped stop stopped",
  "stopped restart pending",
  "pending delete deleted",
  "running delete deleted",
  "paused delete deleted",
  "stopped delete deleted",
  "failed delete deleted",
  "archived delete deleted",
  "deleted delete deleted",
  "stopped archive archiving",
  "archiving archive_done archived",
  "archiving archive_failed stopped",
  "archived restore pending",
  "pending restore_failed archived",
];

test("every pair of state and event leads where it should, or is refused", () => {
  const found: string[] = [];
  for (const state of SANDBOX_STATES)
    for (const event of SANDBOX_EVENTS) {
      const life: Lifecycle = { state, history: [] };
      try {
        found.push(`${state} ${event} ${transition("x", life, event, 1).state}`);
      } catch (error) {
        expect(error).toBeInstanceOf(IllegalTransition);
      }
    }
  expect(found.sort()).toEqual(LEGAL.toSorted());
});

test("a refusal names the sandbox, the state and what is possible", () => {
  const stopped: Lifecycle = { state: "stopped", history: [] };
  expect(() => transition("box", stopped, "pause", 1)).toThrow("sandbox box cannot be paused: it is stopped");
  const hint = (state: SandboxState, event: SandboxEvent) => new IllegalTransition("box", event, state).hint;
  expect(hint("stopped", "pause")).toBe("from here it can be restarted, deleted, archived");
  expect(hint("archived", "restart")).toBe("from here it can be deleted, restored");
  expect(hint("archiving", "delete")).toBe("wait until it is archived");
  expect(hint("deleted", "pause")).toBe("make a new one");
  expect(possibleEvents("running")).toEqual(["fail", "pause", "stop", "delete"]);
});

test("history tells what happened, the last hundred moves of it; what was done already leaves no trace", () => {
  let life = transition("x", BORN, "ready", 5, "made");
  expect(life.history).toEqual([{ from: "pending", to: "running", event: "ready", at: 5, reason: "made" }]);
  for (let at = 10; at < 10 + MAX_HISTORY; at++) life = transition("x", life, at % 2 === 0 ? "pause" : "resume", at);
  expect(life.history).toHaveLength(MAX_HISTORY);
  expect([life.history[0]?.at, life.history.at(-1)?.at]).toEqual([10, 9 + MAX_HISTORY]);
  const stopped = transition("x", life, "stop", 999);
  expect(transition("x", stopped, "stop", 1000)).toBe(stopped);
});
