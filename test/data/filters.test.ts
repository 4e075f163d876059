/** Filters, selection, decontamination and review of a data set, on tasks that run in real sandboxes. */

import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Attempt } from "../../src/data/records.ts";
import { ale, lines, passIf, SCRIPT, writeFiles } from "./support.ts";

const root = mkdtempSync(join(tmpdir(), "ale-filters-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const script = join(root, "script.json");
writeFileSync(script, JSON.stringify(SCRIPT));
const policy = `scripted:${script}`;
const data = join(root, "data");

function writeTask(name: string, instruction: string, solution: string, test: string): void {
  writeFiles(join(data, name), {
    "task.toml": '[environment]\nprofile = "host"\n',
    "instruction.md": instruction,
    "environment/files/app.log": "INFO start\nERROR disk\nERROR net\n",
    "tests/test.sh": test,
    "solution/solve.sh": solution,
  });
}

const COUNT =
  "Write the number of lines of app.log that begin with ERROR to the file answer.txt, as digits and nothing else.";
writeTask("count", COUNT, "grep -c ^ERROR app.log > answer.txt", passIf('[ "$(cat answer.txt)" = 2 ]'));
writeTask(
  "info",
  "Write what follows INFO in app.log, one line each, to the file info.txt.",
  "sed -n 's/^INFO //p' app.log > info.txt",
  passIf('[ "$(cat info.txt)" = start ]'),
);
writeTask("short", "Do it.", "touch done", passIf("[ -e done ]"));
writeTask(
  "clock",
  "Write the word yes to the file clock.txt, whatever time of the day it may be.",
  "echo yes > clock.txt",
  `case "$(mktemp -u)" in *[a-mA-M]) echo 1;; *) echo 0;; esac > /logs/verifier/reward.txt`,
);
writeTask(
  "given",
  "Make sure that in the end there is a file that is called app.log in the folder.",
  "true",
  passIf("[ -e app.log ]"),
);

const attempt = (member: number, commands: readonly (readonly [string, number])[], reward = 1): Attempt => ({
  ...{ task: "count", policy: "p", seed: 0, member, reward, stopReason: "done" },
  turns: commands.map(([command, exitCode], i) => ({ command, observation: `${i}`, exitCode })),
});
const ATTEMPTS = [
  attempt(0, [["cat app.log", 0]]),
  attempt(1, [["echo 2 > answer.txt", 0]]),
  attempt(2, [
    ["cat /tests/test.sh", 1],
    ["cat app.log", 0],
  ]),
  attempt(3, [
    ["false", 1],
    ["ls nowhere", 2],
    ["cat app.log", 0],
  ]),
  attempt(4, [["cat app.log", 0]], 0),
];
writeFiles(data, { "trajectories/count.jsonl": ATTEMPTS.map((one) => `${JSON.stringify(one)}\n`).join("") });

test("filters drop what does not hold, and say why", async () => {
  const out = join(root, "filtered");
  const made = await ale("data", "filter", data, "--out", out, "--judge", policy, "--repeats", "8", "--json");
  expect(made.code).toBe(0);
  const reasons = lines(join(out, "rejected.jsonl")).map(({ name, member, stage, reason }) => [
    `${name}${member ?? ""}`,
    stage,
    reason,
  ]);
  expect(reasons).toMatchObject([
    [
      "clock",
      "execution",
      expect.stringMatching(/^flaky: run \d of 8 differs|^the solution scores 0|^doing nothing scores 1/),
    ],
    ["count1", "judge", "0.20, below 0.6: aimless"],
    ["count2", "heuristic", "it reaches for /tests"],
    ["count3", "heuristic", "67 % of its commands failed"],
    ["given", "execution", "doing nothing scores 1"],
    ["short", "heuristic", "the instruction has 6 characters, fewer than 40"],
  ]);
  expect(JSON.parse(made.out)).toMatchObject({ tasks: 2, attempts: 2 });
  expect(lines(join(out, "trajectories/count.jsonl")).map(({ member }) => member)).toEqual([0, 4]);
  const sheet = JSON.parse(readFileSync(join(out, "datasheet.json"), "utf8"));
  expect(sheet.steps).toMatchObject([
    { step: "filter", kept: 2, dropped: 6, settings: { execution: 8, judge: policy } },
  ]);
  const refused = await ale("data", "filter", data, "--out", out);
  expect(refused.err).toContain("is not empty");
}, 120_000);

test("selection by pass rate keeps what is solved neither always nor never", async () => {
  const hard = join(root, "hard");
  const made = await ale(
    "data",
    "select",
    data,
    "--out",
    hard,
    "--policy",
    policy,
    "--samples",
    "2",
    "--pass-rate",
    "0..0.5",
    "--json",
  );
  // The script knows two tasks, and has no rule for the others: that is no failure of the policy's.
  expect(made.code).toBe(1);
  expect(made.err + made.out).toContain("could not be judged (engine_error)");
  const rules = [...SCRIPT, { answers: ["DONE"] }];
  writeFileSync(join(root, "all.json"), JSON.stringify(rules));
  rmSync(hard, { recursive: true, force: true });
  const flags = ["--policy", `scripted:${join(root, "all.json")}`, "--samples", "2"];
  const again = await ale("data", "select", data, "--out", hard, ...flags, "--pass-rate", "0..0.5", "--json");
  expect(JSON.parse(again.out)).toMatchObject({ tasks: 3, passRates: { count: 1, info: 0, short: 0, given: 1 } });
  expect(lines(join(hard, "rejected.jsonl")).map(({ name }) => name)).toEqual(["count", "given"]);
  const sheet = JSON.parse(readFileSync(join(hard, "datasheet.json"), "utf8"));
  expect(sheet.tasks.find(({ name }: { name: string }) => name === "info").passRates).toEqual({
    [`scripted:${join(root, "all.json")}`]: { attempts: 2, solved: 0 },
  });
  expect((await ale("data", "select", data, "--out", hard, ...flags, "--pass-rate", "0.9..0.1")).err).toContain(
    "--pass-rate is",
  );
}, 120_000);

test("what a held-out suite has too is left out", async () => {
  const heldOut = join(root, "held-out");
  writeFiles(join(heldOut, "other"), {
    "task.toml": '[environment]\nprofile = "host"\n',
    "instruction.md": `Please: ${COUNT.toUpperCase()}`,
    "tests/test.sh": "echo 0 > /logs/verifier/reward.txt",
  });
  const out = join(root, "clean");
  const made = await ale("data", "decontaminate", data, "--against", heldOut, "--out", out, "--json");
  expect(JSON.parse(made.out)).toMatchObject({
    ...{ tasks: 4, compared: 1 },
    rejected: [{ name: "count", stage: "decontaminate", reason: "100 % of its instruction is in held-out/other" }],
  });
  const overlaps = lines(join(out, "overlaps.jsonl"));
  expect(overlaps).toHaveLength(5);
  expect(overlaps.find(({ task }) => task === "info").overlaps).toEqual([]);
});

test("a person marks a sample, and the marks count", async () => {
  const sheet = join(root, "review.md");
  expect((await ale("data", "review", data, "--sheet", sheet, "--sample", "3", "--json")).code).toBe(0);
  const text = readFileSync(sheet, "utf8");
  const [first = "", second = ""] = [...text.matchAll(/^## \d+\. task (\S+)$/gm)].map(([, name]) => name as string);
  let boxes = 0;
  const marked = text
    .replace(/- \[ \] reject/, "- [x] reject")
    .replace("- reason:", "- reason: too easy")
    .replace(/- \[ \] accept/g, (box) => (++boxes === 2 ? "- [X] accept" : box));
  writeFileSync(sheet, marked);
  const out = join(root, "reviewed");
  const made = await ale("data", "review", data, "--sheet", sheet, "--out", out, "--json");
  expect(JSON.parse(made.out)).toMatchObject({
    ...{ accepted: 1, unmarked: 1, tasks: 4 },
    rejected: [{ kind: "task", name: first, stage: "review", reason: "too easy" }],
  });
  expect(existsSync(join(out, first))).toBe(false);
  expect(existsSync(join(out, second))).toBe(true);
  expect((await ale("data", "review", data, "--sheet", sheet, "--sample", "3")).err).toContain("exists already");

  const list = join(root, "review.jsonl");
  await ale("data", "review", data, "--sheet", list, "--sample", "9", "--kind", "trajectory");
  const entries = lines(list);
  expect(entries).toHaveLength(5);
  const rows = entries.map((entry) => JSON.stringify({ ...entry, verdict: entry.member === 1 ? "reject" : "accept" }));
  writeFileSync(list, rows.join("\n"));
  const less = join(root, "less");
  await ale("data", "review", data, "--sheet", list, "--out", less);
  expect(lines(join(less, "trajectories/count.jsonl")).map(({ member }) => member)).toEqual([0, 2, 3, 4]);
});
