import { describe, expect, test } from "bun:test";
import { ExperimentSchema } from "../config/experiment.ts";
import type { TokenRecord } from "../core/types.ts";
import { supervisedJob } from "./supervised.ts";
import { judgeTurns, maskTurns, type TurnOutcome } from "./turn-masks.ts";

/** Prompt, then turns 0, 1, 2, 4 of one or two tokens with observations between them; turn 3 wrote nothing. */
const TURN_IDS = Int32Array.of(-1, 0, 0, -1, 1, -1, 2, 2, -1, 4);
const zeros = () => new Int32Array(TURN_IDS.length);
const TOKENS: TokenRecord = {
  ...{ ids: zeros(), versions: zeros(), kvOldest: zeros(), turnIds: TURN_IDS },
  ...{ logprobs: new Float32Array(TURN_IDS.length), logprobsT1: new Float32Array(TURN_IDS.length) },
  mask: Uint8Array.from(TURN_IDS, (id) => (id < 0 ? 0 : 1)),
};

const turn = (index: number, command: string, exitCode: number | null = 0, observation = ""): TurnOutcome => ({
  ...{ index, command, exitCode, observation },
});

const trained = (outcomes: readonly TurnOutcome[], maskErrors: boolean, maskIrrelevant: boolean) => [
  ...maskTurns(TOKENS, outcomes, { maskErrors, maskIrrelevant }).trained_T,
];
const ALL = [...TOKENS.mask];
/** The mask without these turns. */
const without = (...turns: number[]) => ALL.map((bit, t) => (turns.includes(TURN_IDS[t] as number) ? 0 : bit));

describe("error mask", () => {
  test("leaves out turns whose command failed or did not end, and no others", () => {
    const outcomes = [turn(0, "cat nothing", 1), turn(1, "sleep 99", null), turn(2, "true")];
    expect(trained(outcomes, true, false)).toEqual(without(0, 1));
    expect(trained(outcomes, false, false)).toEqual(ALL);
  });

  test("does not take a turn without a command for a failed one", () => {
    expect(trained([turn(0, "", null), turn(1, "ls"), turn(2, "ls")], true, false)).toEqual(ALL);
  });
});

describe("task-aware mask", () => {
  test("leaves out turns without a command and repetitions that showed the same", () => {
    const outcomes = [turn(0, "ls", 0, "a"), turn(1, "", null), turn(2, "ls", 0, "a")];
    expect(trained(outcomes, false, true)).toEqual(without(1, 2));
  });

  test("keeps a repetition that showed something else", () => {
    expect(trained([turn(0, "ls", 0, "a"), turn(1, "touch b"), turn(2, "ls", 0, "a b")], false, true)).toEqual(ALL);
  });
});

test("turns are matched by their number, and the last one, which no command follows, is kept", () => {
  const judged = judgeTurns(TOKENS, [turn(2, "false", 1), turn(0, "ls")]);
  expect(judged.map(({ begin, end, failed }) => [begin, end, failed])).toEqual([
    [1, 3, false],
    [4, 5, false],
    [6, 8, true],
    [9, 10, false],
  ]);
});

test("what is left out counts neither in the loss nor in its denominator, not even as context", () => {
  const experiment = ExperimentSchema.parse({ sft: { contextWeight: 0.5 } });
  const record = maskTurns(TOKENS, [turn(0, "false", 1)], { maskErrors: true, maskIrrelevant: false });
  const [weights = new Float32Array(0)] = supervisedJob(experiment, [record], 0.1).weights;
  // 4 tokens of kept turns and 3 of context that count half; the first token has nothing before it
  const total = 4 + 3 * 0.5;
  weights.forEach((weight, t) => {
    const id = TURN_IDS[t] as number;
    expect(weight).toBeCloseTo(t === 0 || id === 0 ? 0 : (id < 0 ? 0.5 : 1) / total, 6);
  });
});
