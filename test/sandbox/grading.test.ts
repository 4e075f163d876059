/** Grading: the tests decide, and nothing an agent planted does. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { GradingMode, Task } from "../../src/core/types.ts";
import { grade } from "../../src/sandbox/grading.ts";
import { ENVIRONMENT, file, LIMITS, openProvider, output, type TestProvider } from "./support.ts";

let provider: TestProvider;
beforeAll(async () => {
  provider = await openProvider();
});
afterAll(() => provider?.close());

const CHECK = `if [ "$(cat done.txt 2>/dev/null)" = ok ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n`;

function taskWith(script: string, verifier = 20): Task {
  return {
    id: "test/grade",
    suite: "test",
    family: "grade",
    split: "train",
    seed: 1,
    instruction: "",
    environment: ENVIRONMENT,
    files: [],
    tests: [file("test.sh", script)],
    solution: [],
    demonstrations: [],
    timeouts: { command: 5, agent: 10, verifier },
  };
}

/** The grade after an agent ran `commands`. */
async function gradeAfter(commands: string, task: Task, mode: GradingMode = "clean") {
  await using sandbox = await provider.create(ENVIRONMENT);
  await sandbox.run(commands, LIMITS);
  return await grade(provider, sandbox, task, { mode });
}

test.each(["clean", "stopped", "live"] as const)("%s: right is 1, wrong is 0", async (mode) => {
  expect(await gradeAfter("echo ok > done.txt", taskWith(CHECK), mode)).toMatchObject({ reward: 1, mode });
  expect(await gradeAfter("echo no > done.txt", taskWith(CHECK), mode)).toMatchObject({ reward: 0, mode });
  const result = await gradeAfter(":", taskWith(CHECK), mode);
  expect(result.error).toBeUndefined();
  expect(result.phases.test).toBeGreaterThan(0);
});

test("modes differ in what of the agent's survives", async () => {
  const alive = taskWith(
    "pgrep -c sleep > /logs/verifier/reward.txt; cat /tmp/left && echo 10 > /logs/verifier/reward.txt; true",
  );
  const agent = "setsid sleep 99 & sleep 0.3; rm -f /tmp/left";
  expect((await gradeAfter(agent, alive, "live")).reward).toBe(1);
  expect((await gradeAfter(agent, alive, "stopped")).reward).toBe(0);
  expect((await gradeAfter(agent, alive, "clean")).reward).toBe(0);
  expect((await gradeAfter("touch /tmp/left", alive, "stopped")).reward).toBe(10);
  expect((await gradeAfter("touch /tmp/left", alive, "clean")).reward).toBe(0);
});

describe("what an agent may try", () => {
  test.each<[string, string]>([
    [
      "a planted reward",
      "mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt; echo 1 > /logs/verifier/reward.json",
    ],
    [
      "a reward that is a link",
      "mkdir -p /logs/verifier /w; echo 1 > /w/r; ln -s /w/r /logs/verifier/reward.txt; ln -s /w/r /logs/verifier/reward.json",
    ],
    ["tests of its own", "mkdir /tests; echo 'echo 1 > /logs/verifier/reward.json' > /tests/test.sh; chmod 555 /tests"],
    [
      "a writer in the background",
      "(while :; do mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.json; done) & sleep 0.2",
    ],
  ])("%s, in every mode but live", async (_name, commands) => {
    for (const mode of ["clean", "stopped"] as const)
      expect(await gradeAfter(commands, taskWith(CHECK), mode)).toMatchObject({ reward: 0, mode });
  });

  test.each<[string, string]>([
    ["a poisoned tool", "printf '#!/bin/sh\\necho ok\\n' > /usr/local/bin/cat; chmod +x /usr/local/bin/cat"],
    ["a poisoned profile", "echo 'cat() { echo ok; }; export -f cat' > /root/.bashrc; cp /root/.bashrc /etc/profile"],
    ["a poisoned library path", "echo /work > /etc/ld.so.preload"],
  ])("%s, in clean mode", async (_name, commands) => {
    expect(await gradeAfter(commands, taskWith(CHECK))).toMatchObject({ reward: 0, mode: "clean" });
  });

  test("links in the working directory lead nowhere but into the fresh sandbox", async () => {
    const result = await gradeAfter("ln -s /etc/hostname done.txt; mkfifo f; ln -s / root", taskWith(CHECK));
    expect(result).toMatchObject({ reward: 0 });
    expect(result.error).toBeUndefined();
  });

  test("a working directory replaced by a link is refused", async () => {
    const result = await gradeAfter("cd /; rm -r work; ln -s /etc work", taskWith(CHECK));
    expect(result.error).toContain("/work");
    expect(result.reward).toBe(0);
  });

  test("a working directory filled to the brim", async () => {
    const result = await gradeAfter("echo ok > done.txt; cat /dev/zero > big", taskWith(CHECK));
    expect(result.reward + (result.error === undefined ? 0 : 2)).toBeGreaterThan(0); // graded, or told: never a hang
  });
});

describe("a verifier that gives no usable reward is an error, never 0", () => {
  test.each([
    ["true", "the tests wrote no reward: neither /logs/verifier/reward.json nor /logs/verifier/reward.txt exists"],
    ["exit 3", "test.sh exited with code 3"],
    ["echo oops >&2; exit 1", 'it said "oops"'],
    ["echo maybe > /logs/verifier/reward.txt", '/logs/verifier/reward.txt does not hold a number: "maybe"'],
    ["printf '\\033[31mred\\033[0m' > /logs/verifier/reward.txt", '"[31mred [0m"'],
    ["echo > /logs/verifier/reward.txt", "/logs/verifier/reward.txt is empty"],
    ["echo nan > /logs/verifier/reward.txt", "does not hold a number"],
    ["echo '{\"score\": 1}' > /logs/verifier/reward.json", 'has no key "reward"'],
    ['echo \'{"reward": "1"}\' > /logs/verifier/reward.json', "holds no finite number"],
    ["echo '{' > /logs/verifier/reward.json; echo 1 > /logs/verifier/reward.txt", "reward.json is not JSON"],
    ["ln -s /etc/hostname /logs/verifier/reward.txt", "symbolic link"],
    ["mkfifo /logs/verifier/reward.txt", "not a regular file"],
    ["head -c 100000 /dev/zero > /logs/verifier/reward.txt", "larger than 65536 bytes"],
    ["sleep 60", "did not finish within 1 s"],
    ["yes", "bytes of output"],
    ["cat /dev/zero > /work/x", "filled the disk"],
  ])("%s", async (script, message) => {
    const result = await gradeAfter(":", taskWith(`${script}\n`, script === "sleep 60" ? 1 : 20));
    expect(result.reward).toBe(0);
    expect(result.error).toContain(message);
  });

  test("a reward written before a time-out does not count", async () => {
    const result = await gradeAfter(":", taskWith("echo 1 > /logs/verifier/reward.txt; sleep 60", 1));
    expect(result).toMatchObject({ reward: 0, error: expect.stringContaining("did not finish within 1 s") });
  });

  test("a sandbox that is gone", async () => {
    const sandbox = await provider.create(ENVIRONMENT);
    await sandbox.destroy();
    expect((await grade(provider, sandbox, taskWith(CHECK))).error).toContain("is destroyed");
  });
});

test("rewards of both formats", async () => {
  for (const [script, reward] of [
    ["echo 0.25 > /logs/verifier/reward.txt", 0.25],
    ["echo -1e-3 > /logs/verifier/reward.txt", -0.001],
    ["echo 0.5 > /logs/verifier/reward.json", 0.5],
    ['echo \'{"reward": 0.75, "style": 1}\' > /logs/verifier/reward.json', 0.75],
    ["echo 0 > /logs/verifier/reward.txt; echo 1 > /logs/verifier/reward.json; exit 9", 1],
  ] as const)
    expect(await gradeAfter(":", taskWith(`${script}\n`))).toMatchObject({ reward });
});

test("counts of tests are read where they are asked for, and further numbers always", async () => {
  const summary = '{"results": {"summary": {"tests": 4, "passed": 3}}}';
  const script = `echo '${summary}' > /logs/verifier/ctrf.json; echo '{"reward": 0, "style": 0.5}' > /logs/verifier/reward.json\n`;
  await using sandbox = await provider.create(ENVIRONMENT);
  const asked = await grade(provider, sandbox, taskWith(script), { withTests: true });
  expect(asked).toMatchObject({ reward: 0, scores: { style: 0.5 }, tests: { passed: 3, total: 4 } });
  expect(await gradeAfter(":", taskWith(script))).not.toHaveProperty("tests");
  const link = taskWith("ln -s /etc/hostname /logs/verifier/ctrf.json; echo 1 > /logs/verifier/reward.txt\n");
  const linked = await grade(provider, sandbox, link, { withTests: true });
  expect(linked).toMatchObject({ reward: 1 });
  expect(linked).not.toHaveProperty("tests");
});

test("the tests see the working directory as it was, and are not left for the agent", async () => {
  await using sandbox = await provider.create(ENVIRONMENT);
  await sandbox.run("mkdir -p a/b; echo 1 > a/b/c; chmod 700 a; touch -d 2020-01-01 a/b/c", LIMITS);
  const script =
    'if [ "$(stat -c %a,%Y a a/b/c | cut -d, -f1 | tr "\\n" " ")" = "700 644 " ] && [ "$(stat -c %Y a/b/c)" = "$(date -d 2020-01-01 +%s)" ] && [ "$PWD" = /work ]; then echo 1; else stat a a/b/c; echo 0; fi > /logs/verifier/reward.txt';
  expect(await grade(provider, sandbox, taskWith(`${script}\n`))).toMatchObject({ reward: 1 });
  expect(await output(sandbox, "ls /tests 2>&1; ls -A /logs")).toBe(
    "ls: cannot access '/tests': No such file or directory\n",
  );
});
