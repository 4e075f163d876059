/** A recipe through the command line: each stage starts from the policy before it, and a kill on the way loses no stage. */

import { afterAll, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until, Workspace } from "./support.ts";

const workspace = new Workspace();
afterAll(() => workspace[Symbol.dispose]());

const RECIPE = `name = "small"
[model]
path = "models/shell-start"
[tasks]
families = ["sum", "big"]
[rollout]
groups = 2
groupSize = 2
[engine]
threads = 1
[sandbox]
warm = 4
[evaluation]
every = 0
dev = 0
heldout = 4

[[stages]]
verb = "sft"
name = "warm"
[stages.sft]
demonstrations = 8
batch = 4
every = 0
[[stages.sft.stages]]
steps = 2

[[stages]]
verb = "run"
name = "learn"
[stages.trainer]
steps = 40
`;

test("a recipe that was killed in its last stage goes on from there", async () => {
  const file = workspace.path("recipe.toml");
  writeFileSync(file, RECIPE);
  const out = workspace.path("out");
  const first = workspace.ale("run", file, "--out", out, "--no-serve", "--json");
  const committed = () => workspace.metrics(join("out", "2-learn")).length;
  await until("two steps of the last stage", () => committed() >= 2 || first.exitCode !== null);
  first.kill("SIGKILL");
  await first.exited;
  expect(committed()).toBeGreaterThanOrEqual(2);
  expect(existsSync(join(out, "summary.json"))).toBe(false);

  const warm = readFileSync(join(out, "1-warm", "metrics.jsonl"), "utf8");
  const second = workspace.ale("resume", out, "--no-serve", "--json");
  const printed = await new Response(second.stdout).text();
  expect(await second.exited).toBe(0);
  expect(JSON.parse(printed.trim().split("\n").at(-1) ?? "")).toMatchObject({ type: "result", recipe: "small" });
  // the finished stage was left alone, the other one goes on from its policy to its end
  expect(readFileSync(join(out, "1-warm", "metrics.jsonl"), "utf8")).toBe(warm);
  const summary = JSON.parse(readFileSync(join(out, "summary.json"), "utf8"));
  expect(summary).toMatchObject({ status: "finished", name: "learn", steps: 40 });
  expect(summary.stages.map((stage: { verb: string }) => stage.verb)).toEqual(["sft", "run"]);
  expect(readFileSync(join(out, "2-learn", "config.toml"), "utf8")).toContain(join(out, "1-warm", "policy"));
  expect(existsSync(join(out, "policy", "model.safetensors"))).toBe(true);
}, 120_000);
