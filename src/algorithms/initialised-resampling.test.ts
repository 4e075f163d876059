import { expect, test } from "bun:test";
import { type RollbackSettings, rollBack, startRollback } from "./initialised-resampling.ts";

const settings: RollbackSettings = {
  ...{ window: 2, advanceAt: 0.7, drop: 0.2 },
  retreat: { after: 6, below: 0.1, chunks: 4 },
};

/** Anchors and actions when chunk k is written right exactly where `can` says so. */
function play(can: (chunk: number, step: number) => boolean, steps: number): [number, string][] {
  let state = startRollback(4);
  const seen: [number, string][] = [];
  for (let i = 0; i < steps; i++) {
    let outcome = 1;
    for (let chunk = state.anchor; chunk <= 4; chunk++) if (!can(chunk, i)) outcome = 0;
    const next = rollBack(state, [outcome, outcome], settings);
    seen.push([next.step.anchor, next.step.action]);
    state = next.state;
  }
  return seen;
}

test("an anchor without successes goes back one chunk, and comes again at once where that one is still mastered", () => {
  expect(play((chunk) => chunk >= 3, 7)).toEqual([
    [4, "advance"],
    [3, "advance"],
    [2, "crucial"],
    [2, "crucial"],
    [2, "retreat"],
    [3, "advance"],
    [2, "crucial"],
  ]);
});

test("what was lost meanwhile is found from the end, which is as far as it goes", () => {
  // chunk 4 is forgotten after the second step and comes back in the tenth
  const seen = play((chunk, step) => chunk === 3 || (chunk === 4 && (step < 2 || step >= 10)), 12);
  expect(seen.slice(4)).toEqual([
    [2, "retreat"],
    [3, "crucial"],
    [3, "crucial"],
    [3, "retreat"],
    [4, "crucial"],
    [4, "crucial"],
    [4, "advance"],
    [3, "advance"],
  ]);
});
