/** The four agents, played by a script, in real sandboxes: from a project to tasks that hold. */

import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ale, lines, SCRIPT, ScriptServer, writeProject } from "./support.ts";

/** What solves tasks/hello. */
const HELLO = readFileSync("tasks/hello/solution/solve.sh", "utf8").split("\n").at(2) ?? "";

const root = mkdtempSync(join(tmpdir(), "ale-data-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const project = join(root, "project");
writeProject(project);
const script = join(root, "script.json");
writeFileSync(script, JSON.stringify(SCRIPT));
process.env.OPENAI_API_KEY = "test-key";

test("a project becomes tasks, with a reason for whatever does not", async () => {
  using server = new ScriptServer();
  server.failures = 1;
  const out = join(root, "raw");
  const flags = ["--policy", server.policy, "--count", "4", "--attempts", "2", "--repeats", "6", "--rounds", "1"];
  const made = await ale("data", "synth", project, "--out", out, ...flags, "--concurrency", "2", "--json");
  expect(made.err).toBe("");
  const result = JSON.parse(made.out);
  expect(result).toMatchObject({ tasks: 2, rejected: 4, attempts: 4, solved: 2, end: "ideas" });
  expect(result.usage.requests).toBeGreaterThan(20);

  const rejected = lines(join(out, "rejected.jsonl"));
  expect(rejected.map(({ kind, name, stage }) => [kind, name, stage])).toEqual([
    ["idea", "", "explore"],
    ["task", "chance-decides", "execution"],
    ["task", "nothing-comes", "build"],
    ["task", "too-narrow", "review"],
  ]);
  expect(rejected[0].reason).toContain("idea 6: title");
  expect(rejected[2].reason).toContain("ended by done and left nothing");
  expect(rejected[3].reason).toBe("the reviewer's alternatives/newline.sh should pass the tests and scores 0");

  // The leak was found, and the second build is without it.
  expect(readFileSync(join(out, "leaky-at-first/instruction.md"), "utf8")).not.toContain("You may run");
  expect(JSON.parse(readFileSync(join(out, "state.json"), "utf8")).outcomes["leaky-at-first"]).toMatchObject({
    builds: 2,
  });

  const attempts = lines(join(out, "trajectories/count-errors.jsonl"));
  expect(attempts).toHaveLength(2);
  expect(attempts[0]).toMatchObject({ task: "count-errors", reward: 1, stopReason: "done", policy: server.policy });
  expect(attempts[0].turns[0]).toMatchObject({ command: "cat app.log", exitCode: 0 });
  expect(lines(join(out, "trajectories/leaky-at-first.jsonl"))[0]).toMatchObject({ reward: 0 });
  // What solved it is a demonstration of the task.
  expect(readFileSync(join(out, "count-errors/task.toml"), "utf8")).toContain("grep -c '^ERROR' app.log > answer.txt");

  const sheet = JSON.parse(readFileSync(join(out, "datasheet.json"), "utf8"));
  expect(sheet).toMatchObject({
    sources: [{ name: "project", licence: "MIT", commit: "a1".repeat(20), files: 2, skipped: 2 }],
    rejections: { "idea/explore": 1, "task/execution": 1, "task/build": 1, "task/review": 1 },
    attempts: 4,
  });
  expect(sheet.tasks[0].passRates).toEqual({ [server.policy]: { attempts: 2, solved: 2 } });
  expect(readFileSync(join(out, "DATASHEET.md"), "utf8")).toContain("2 tasks, 4 trajectories");

  const check = await ale("tasks", "check", out, "--samples", "2", "--json");
  expect(check.code).toBe(0);

  // Once more: nothing is left to do, and nobody is asked for anything but to be there.
  const asked = server.requests;
  const again = await ale("data", "synth", project, "--out", out, ...flags, "--json");
  expect(JSON.parse(again.out)).toMatchObject({ tasks: 2, rejected: 4, end: "ideas" });
  expect(server.requests).toBe(asked + 1);
}, 240_000);

test("a budget ends the work, and the next command goes on with what is left", async () => {
  const out = join(root, "budget");
  const flags = ["--policy", `scripted:${script}`, "--count", "2", "--attempts", "1", "--concurrency", "1"];
  const first = await ale("data", "synth", project, "--out", out, ...flags, "--max-requests", "15", "--json");
  expect(JSON.parse(first.out)).toMatchObject({ tasks: 1, end: "budget" });
  const second = await ale("data", "synth", project, "--out", out, ...flags, "--json");
  expect(JSON.parse(second.out)).toMatchObject({ tasks: 2, end: "count" });
  writeFileSync(join(project, "more.txt"), "changed");
  const third = await ale("data", "synth", project, "--out", out, ...flags);
  expect(third.err).toContain("holds tasks made from other files");
  expect(third.code).toBe(2);
  rmSync(join(project, "more.txt"));
}, 240_000);

test("a model behind a server is evaluated like any other, by the settings of a file too", async () => {
  const rules = [
    { when: "Say OK", answers: ["OK"] },
    { when: "Hello", commands: ["cat names.txt", HELLO] },
  ];
  using server = new ScriptServer(rules);
  const flags = ["--samples", "1", "--json"];
  const solved = await ale("eval", "tasks/hello", "--policy", server.policy, ...flags);
  expect(JSON.parse(solved.out)).toMatchObject({ rate: 1, n: 1, stopReasons: { done: 1 }, policy: server.policy });
  const [, url, model] = /^openai:(.*)#(.*)$/.exec(server.policy) ?? [];
  const config = join(root, "remote.toml");
  const limits = "[rollout]\nmaxTurns = 1\nmaxCommandTokens = 500\nmaxEpisodeTokens = 20000\n";
  writeFileSync(config, `${limits}[remote]\nurl = "${url}"\nmodel = "${model}"\napiKeyEnv = "OPENAI_API_KEY"\n`);
  const limited = await ale("eval", "tasks/hello", "--policy", "openai", "--config", config, ...flags);
  expect(JSON.parse(limited.out)).toMatchObject({ rate: 0, stopReasons: { turns: 1 } });
  const unknown = await ale("eval", "tasks/hello", "--policy", "openai", ...flags);
  expect(unknown.out).toContain("does not say which server and which model");
}, 60_000);

test("a server that refuses ends the command before anything is done", async () => {
  using server = new ScriptServer();
  const out = join(root, "refused");
  const wrong = await ale("data", "synth", project, "--out", out, "--policy", `${server.policy}-2`);
  expect(wrong.code).toBe(2);
  expect(wrong.err).toContain("has no model scripted-2");
  process.env.OPENAI_API_KEY = "other";
  const refused = await ale("eval", "tasks/hello", "--policy", server.policy, "--samples", "1");
  process.env.OPENAI_API_KEY = "test-key";
  expect(refused.err).toContain("refuses the key (401): wrong key");
  expect(refused.err).toContain("check the key in OPENAI_API_KEY");
  expect(existsSync(join(out, "state.json"))).toBe(false);
}, 60_000);
