/** Agents that leave what they should not, and a command that is killed: neither gets anything into a data set. */

import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { selfCommand } from "../../src/device/self.ts";
import type { ScriptRule } from "../../src/policy/scripted-chat.ts";
import { ale, lines, SCRIPT, writeProject } from "./support.ts";

const root = mkdtempSync(join(tmpdir(), "ale-hostile-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const project = join(root, "project");
writeProject(project);

function flagsFor(name: string, rules: readonly ScriptRule[], ...more: readonly string[]): string[] {
  const script = join(root, `${name}.json`);
  writeFileSync(script, JSON.stringify(rules));
  const out = ["--out", join(root, name), "--policy", `scripted:${script}`];
  return ["data", "synth", project, ...out, "--attempts", "1", "--revisions", "0", "--json", ...more];
}

const ideas = (titles: readonly string[]): string => {
  const list = titles.map((title) => ({ title, idea: "x" }));
  return `cat > /work/out/ideas.json <<'EOF'\n${JSON.stringify(list)}\nEOF`;
};
const task = "mkdir -p /work/out/task/{tests,solution,environment/files} && cd /work/out/task";

test.each([
  ["a link", "ln -s /etc/passwd /work/out/ideas.json", "left no /work/out/ideas.json"],
  ["a pipe", "mkfifo /work/out/ideas.json", "left no /work/out/ideas.json"],
  ["too much", "head -c 600000 /dev/zero > /work/out/ideas.json", "left no /work/out/ideas.json"],
  ["no list", "echo '{\"title\": 1}' > /work/out/ideas.json", "is not a list"],
])("ideas that are %s", async (name, command, reason) => {
  const folder = name.replace(" ", "-");
  const made = await ale(...flagsFor(folder, [{ when: "Role: explore", commands: [command] }], "--rounds", "1"));
  expect(JSON.parse(made.out)).toMatchObject({ tasks: 0, rejected: 1, end: "ideas" });
  expect(lines(join(root, folder, "rejected.jsonl"))[0].reason).toContain(reason);
});

test("tasks with links, names that cannot be shown, settings of their own, or a hold on their grader", async () => {
  const write =
    "echo 'Make a file that is called done and is empty, in the working directory.' > instruction.md; echo 'touch done' > solution/solve.sh";
  const sound = "echo '[ -e done ]; echo $((1 - $?)) > /logs/verifier/reward.txt' > tests/test.sh";
  const rules: ScriptRule[] = [
    {
      when: "Role: explore",
      commands: [ideas(["Linked", "Escape", "Own limits", "Held on", "Escaped name", "Flood"])],
    },
    { when: ["Role: build", "Linked"], commands: [task, write, "ln -s /etc/passwd tests/test.sh"] },
    { when: ["Role: build", "Escape\n"], commands: [task, write, sound, "ln -s / environment/files/root"] },
    {
      when: ["Role: build", "Own limits"],
      commands: [
        task,
        write,
        sound,
        "printf '[environment]\\nprofile = \"other\"\\nmemory_mb = 999999\\n' > task.toml",
      ],
    },
    {
      when: ["Role: build", "Held on"],
      commands: [task, write, sound, "setsid sh -c 'while :; do date > /work/out/task/instruction.md; done' & sleep 1"],
    },
    {
      when: ["Role: build", "Escaped name"],
      commands: [task, write, sound, "touch \"environment/files/$(printf '\\033[2J')\""],
    },
    {
      when: ["Role: build", "Flood"],
      commands: [task, write, sound, "head -c 20000000 /dev/zero > environment/files/zeros"],
    },
    { when: "Role: review", commands: [`echo '{"accept": true}' > /work/out/review.json`] },
    { when: "Make a file", commands: ["touch done"] },
  ];
  const made = await ale(...flagsFor("tasks", rules, "--count", "5", "--rounds", "1", "--repeats", "1"));
  expect(made.err).toBe("");
  const rejected = lines(join(root, "tasks/rejected.jsonl")).map(
    ({ name, stage, reason }) => `${name} ${stage}: ${reason}`,
  );
  expect(rejected).toEqual([
    "linked build: /work/out/task/tests/test.sh is a link; only plain files are taken",
    "escape build: /work/out/task/environment/files/root is a link; only plain files are taken",
    // Whatever its last process was writing when it ended.
    expect.stringMatching(
      /^held-on (heuristic: the instruction has \d+ characters|structure: .*instruction.md is empty)/,
    ),
    "escaped-name build: /work/out/task holds a file whose name has characters that cannot be shown",
    "flood build: /work/out/task holds more than 16777216 bytes",
  ]);
  const limits = readFileSync(join(root, "tasks/own-limits/task.toml"), "utf8");
  expect(limits).toContain('profile = "host"');
  expect(limits).toContain("memory_mb = 512");
}, 120_000);

test("after a kill the command goes on, and ends where it would have ended", async () => {
  const flags = flagsFor("killed", SCRIPT, "--count", "2", "--concurrency", "1", "--revisions", "1");
  const state = join(root, "killed/state.json");
  const main = selfCommand("engine").slice(0, -1);
  const child = Bun.spawn([...main, ...flags], {
    env: { ...process.env, ALE_HOME: join(root, "home") },
    stdio: ["ignore", "ignore", "ignore"],
  });
  const deadline = Date.now() + 60_000;
  while (!(existsSync(state) && readFileSync(state, "utf8").includes("accepted"))) {
    if (Date.now() > deadline) throw new Error("no task was finished in a minute");
    await Bun.sleep(20);
  }
  child.kill("SIGKILL");
  await child.exited;
  const made = await ale(...flags);
  expect(JSON.parse(made.out)).toMatchObject({ tasks: 2, rejected: 1, attempts: 2, solved: 1, end: "count" });
  const left = readdirSync(join(root, "killed")).sort();
  expect(left.filter((name) => name.includes("partial"))).toEqual([]);
  expect(left).toContain("count-errors");
  expect(left).toContain("leaky-at-first");
}, 120_000);
