import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { anyText } from "../../test/support/arbitrary-text.ts";
import { parseRewardJson, parseRewardText, quoteFound } from "./reward.ts";
import { readCtrf, readJunit } from "./test-counts.ts";

describe("reward.txt", () => {
  test.each([
    ["1", 1],
    ["0\n", 0],
    [" 0.5 ", 0.5],
    ["-2", -2],
    ["+.25", 0.25],
    ["1e-3", 0.001],
    ["3.", 3],
  ])("%j", (text, reward) => {
    expect(parseRewardText(text)).toEqual({ reward });
  });

  test.each(["", "  \n", "one", "1 2", "0x10", "1_000", "NaN", "Infinity", "1e999", "1,5", "[1]", "true", "--1", "."])(
    "%j is refused",
    (text) => {
      expect(parseRewardText(text)).toHaveProperty("error");
    },
  );

  test("every finite number is read back", () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        expect(parseRewardText(String(value))).toEqual({ reward: Number(String(value)) });
      }),
    );
  });
});

describe("reward.json", () => {
  test("further numbers are kept by their keys, and counts of tests as such", () => {
    const text = '{"style": 2, "reward": -1, "note": "x", "__proto__": 3, "a b": 1, "passed": 3, "total": 4}';
    expect(parseRewardJson(text)).toEqual({
      ...{ reward: -1, scores: { style: 2, passed: 3, total: 4 }, tests: { passed: 3, total: 4 } },
    });
    expect(parseRewardJson('{"reward": 1, "passed": 5, "total": 4}')).not.toHaveProperty("tests");
  });

  test.each([
    ["1", { reward: 1 }],
    ['{"reward": 0.5}', { reward: 0.5 }],
    ['{"style": 2, "reward": -1}\n', { reward: -1, scores: { style: 2 } }],
  ])("%j", (text, verdict) => {
    expect(parseRewardJson(text)).toEqual(verdict);
  });

  test.each([
    "",
    "{}",
    "{",
    '{"score": 1}',
    '{"reward": "1"}',
    '{"reward": null}',
    "[1]",
    '"1"',
    "null",
    "1e999",
    '{"reward": {}}',
    '{"__proto__": {"reward": 1}}',
  ])("%j is refused", (text) => {
    expect(parseRewardJson(text)).toHaveProperty("error");
  });
});

test("what is quoted is short, on one line, and free of escapes", () => {
  expect(quoteFound("\x1b[31mred\nblue\u202e")).toBe('"[31mred blue"');
  fc.assert(
    fc.property(anyText, (text) => {
      const quoted = quoteFound(text);
      expect(quoted).toMatch(/^"[\x20-\x7e]*"$/);
      expect(quoted.length).toBeLessThan(180);
    }),
  );
});

describe("reports of test runners", () => {
  test("CTRF", () => {
    const summary = { tests: 7, passed: 5, failed: 2, skipped: 0, pending: 0, other: 0, start: 1, stop: 2 };
    expect(readCtrf(JSON.stringify({ results: { tool: { name: "x" }, summary, tests: [] } }))).toEqual({
      passed: 5,
      total: 7,
    });
    expect(readCtrf(JSON.stringify({ results: { summary: { tests: 1, passed: 2 } } }))).toBeUndefined();
    expect(readCtrf("{")).toBeUndefined();
  });

  test("JUnit", () => {
    const suites =
      '<testsuites tests="9"><testsuite name="a" tests="5" failures="1" errors="1" skipped="1"/><testsuite tests="2"></testsuite></testsuites>';
    expect(readJunit(suites)).toEqual({ passed: 4, total: 6 });
    expect(readJunit('<testsuite tests="1" failures="3"/>')).toBeUndefined();
    expect(readJunit("no tests")).toBeUndefined();
  });
});
