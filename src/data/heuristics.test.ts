import { describe, expect, test } from "bun:test";
import type { SandboxFile, Task } from "../core/types.ts";
import { attemptFaults, taskFaults } from "./heuristics.ts";
import { readIdeas, slug } from "./ideas.ts";
import { HeldOut, ngrams } from "./overlap.ts";
import type { Attempt } from "./records.ts";
import { type ReviewEntry, readMarks, writeSheetText } from "./review-sheet.ts";

const file = (path: string, text: string): SandboxFile => ({
  path,
  mode: 0o644,
  content: new TextEncoder().encode(text),
});

function task(more: Partial<Task> = {}): Task {
  return {
    ...{ id: "s/t", suite: "s", family: "t", split: "train", seed: 0, demonstrations: [] },
    instruction: "Count the lines of the file names.txt and write their number to count.txt.",
    environment: { profile: "host", workdir: "/work", cpus: 1, memoryBytes: 1, diskBytes: 1, pids: 1 },
    files: [file("names.txt", "a\nb\n")],
    tests: [file("test.sh", '[ "$(cat count.txt)" = 2 ] && echo 1 > /logs/verifier/reward.txt')],
    solution: [file("solve.sh", "wc -l < names.txt > count.txt   # all of them")],
    timeouts: { command: 1, agent: 1, verifier: 1 },
    ...more,
  };
}

test("a sound task has no fault", () => {
  expect(taskFaults(task())).toEqual([]);
});

test.each<[string, Partial<Task>, string]>([
  ["short", { instruction: "Do it." }, "the instruction has 6 characters"],
  ["names the tests", { instruction: `${task().instruction} See /tests/test.sh.` }, "the instruction names /tests"],
  ["writes its reward", { solution: [file("solve.sh", "echo 1 > /logs/verifier/reward.txt")] }, "uses /logs/verifier"],
  ["reads the tests", { solution: [file("solve.sh", "cp /tests/expected count.txt")] }, "uses /tests"],
  ["by chance", { tests: [file("test.sh", "echo $((RANDOM)) $RANDOM > reward.txt")] }, "depends on chance"],
  ["by the net", { tests: [file("check.py", "curl http://x > reward")] }, "depends on a network"],
  [
    "leaks by file",
    { files: [file("hint.md", `try ${"wc -l < names.txt > count.txt   # all of them"}`)] },
    "hint.md contains solution/solve.sh",
  ],
  [
    "leaks by word",
    { instruction: `${task().instruction} wc -l < names.txt > count.txt   # all of them` },
    "contains a line of solution/solve.sh",
  ],
])("a task that %s is found out", (_name, more, fault) => {
  expect(taskFaults(task(more)).join("; ")).toContain(fault);
});

test("other files of the solution may be used where they lie", () => {
  const solution = [file("solve.sh", "python3 /solution/count.py > count.txt"), file("count.py", "print(2)")];
  expect(taskFaults(task({ solution }))).toEqual([]);
});

describe("attempts", () => {
  const attempt = (commands: readonly string[], exitCode = 0, stopReason = "done"): Attempt => ({
    ...{ task: "t", policy: "p", seed: 0, member: 0, reward: 1, stopReason },
    turns: commands.map((command) => ({ command, observation: "", exitCode })),
  });
  test.each<[Attempt, string[]]>([
    [attempt(["ls", "wc -l names.txt"]), []],
    [attempt(["ls", "ls", "ls"]), []],
    [attempt(["ls", "ls", "ls", "ls"]), ["it repeats a command 4 times in a row"]],
    [attempt(["ls"], 1), ["100 % of its commands failed"]],
    [attempt(["", "ls"]), ["50 % of its answers were no command"]],
    [attempt(["ls /tests"]), ["it reaches for /tests"]],
    [attempt(["ls my/tests /work/tests.d"]), []],
    [attempt([], 0, "turns"), ["it ended by turns", "it has no turn"]],
  ])("%#", (one, faults) => {
    expect(attemptFaults(one)).toEqual(faults);
  });
});

test("ideas are read one by one, and their names are safe", () => {
  const text = JSON.stringify([
    { title: "Fix ../../etc", idea: "x\u001b[31m" },
    { title: "fix etc!", idea: "again" },
    { title: "?", idea: "x" },
    { idea: "no title" },
    7,
    { title: "Ünïcode × 2", idea: "y", files: ["a"], difficulty: "cruel" },
  ]);
  const { ideas, refused } = readIdeas(text, new Set(["taken"]));
  expect(ideas.map(({ name }) => name)).toEqual(["fix-etc", "u-ni-code-2"]);
  expect(ideas[0]?.idea).toBe("x [31m");
  expect(ideas[1]?.difficulty).toBe("medium");
  expect(refused).toHaveLength(4);
  expect(() => readIdeas("{", new Set())).toThrow("not JSON");
  expect(slug("a".repeat(200))).toHaveLength(48);
});

test("overlap is a share of n-grams, and short texts count as a whole", () => {
  expect([...ngrams("One, two; three", 2)]).toEqual(["one two", "two three"]);
  expect([...ngrams("One two", 8)]).toEqual(["one two"]);
  const held = task({ id: "held/1", instruction: "Please count the lines of the file names.txt now" });
  const [found] = new HeldOut([held], 4).overlaps(task({ tests: [], solution: [] }));
  expect(found).toMatchObject({ part: "instruction", with: "held/1" });
  // 12 4-grams, 5 of which lie in "count the lines of the file names txt"
  expect(found?.share).toBeCloseTo(5 / 12, 12);
});

test("material cannot forge marks, and marks cannot be given twice", () => {
  const forged = "## 2. task other\n- [x] reject\n- reason: none";
  const entries: ReviewEntry[] = [{ kind: "task", name: "t", material: forged }];
  const sheet = writeSheetText(entries, "markdown");
  expect(readMarks(sheet, "markdown", "s")).toEqual([{ kind: "task", name: "t", verdict: null, reason: "" }]);
  const both = sheet.replace("- [ ] accept", "- [x] accept").replace("- [ ] reject", "- [x] reject");
  expect(() => readMarks(both, "markdown", "s.md")).toThrow("task t is marked twice");
});
