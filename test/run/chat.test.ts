/**
 * A foreign chat model in experiments: a tiny random model in the form of Qwen2, with its tokenizer and chat template, learns two
 * answers from demonstrations and is then trained by reinforcement learning.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EngineClient } from "../../src/device/engine-client.ts";
import { selfCommand } from "../../src/device/self.ts";

const place = mkdtempSync(join(tmpdir(), "ale-chat-"));
const REPOSITORY = join(import.meta.dir, "../..");
const MAIN = selfCommand("engine").slice(0, -1);
const TEXT = join(import.meta.dir, "../golden/text/qwen2-tiny");
const MODEL = join(place, "qwen2-chat");
const environment = { ...process.env, ALE_HOME: join(place, "home"), NO_COLOR: "1" };

/** The keys of a published Qwen2 config. */
const CONFIG = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  vocab_size: 384,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 128,
  hidden_act: "silu",
  rms_norm_eps: 1e-6,
  rope_theta: 10000.0,
  max_position_embeddings: 512,
  tie_word_embeddings: true,
  torch_dtype: "float32",
};

const TASK = `schema_version = "1.4"
[task]
name = "test/make"
[environment]
profile = "host"
workdir = "/work"
cpus = 1
memory_mb = 64
storage_mb = 16
pids = 32
[agent]
timeout_sec = 60
command_timeout_sec = 5
[verifier]
timeout_sec = 10
[family.parameters]
size = { type = "int", min = 1, max = 9 }
[[family.files]]
path = "old"
content = "{{ repeat('x', size) }}"
[[family.demonstrations]]
kind = "expert"
weight = 1
commands = "touch a"
[[family.demonstrations]]
kind = "mistake"
weight = 1
commands = "touch b"
`;

const EXPERIMENT = `name = "chat"
[tasks]
suite = "${join(place, "suite")}"
[rollout]
systemPrompt = "Type."
groups = 2
groupSize = 8
maxTurns = 3
maxCommandTokens = 40
maxEpisodeTokens = 400
maxObservationChars = 100
[optimizer]
warmupSteps = 5
[evaluation]
dev = 4
heldout = 4
greedy = false
[sft]
demonstrations = 16
batch = 8
every = 0
[[sft.stages]]
steps = 120
lr = 1e-2
mistakes = 0.5
`;

beforeAll(async () => {
  mkdirSync(join(place, "suite/make/tests"), { recursive: true });
  writeFileSync(join(place, "suite/make/task.toml"), TASK);
  writeFileSync(join(place, "suite/make/instruction.md"), "Make a.\n");
  const script =
    "#!/bin/sh\nmkdir -p /logs/verifier\n[ -e /work/a ] && echo 1 >/logs/verifier/reward.txt || echo 0 >/logs/verifier/reward.txt\n";
  writeFileSync(join(place, "suite/make/tests/test.sh"), script, { mode: 0o755 });
  writeFileSync(join(place, "chat.toml"), EXPERIMENT);
  const engine = await EngineClient.start({
    modelConfig: CONFIG,
    weights: { kind: "random", seed: 1 },
    storeFile: join(place, "parameters.bin"),
    threads: 1,
    slots: 2,
    sequences: 1,
    context: 16,
    microBatchTokens: 16,
    deterministic: false,
  });
  await engine.save(MODEL);
  await engine.stop();
  for (const file of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]) {
    cpSync(join(TEXT, file), join(MODEL, file));
  }
});
afterAll(() => rmSync(place, { recursive: true, force: true }));

async function ale(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const child = Bun.spawn([...MAIN, ...args], { cwd: REPOSITORY, env: environment, stdio: ["ignore", "pipe", "pipe"] });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}

async function run(verb: "sft" | "run", name: string, model: string, ...more: string[]): Promise<void> {
  const settings = ["--model", model, "--out", join(place, name), "--no-serve", ...more];
  const { code, err } = await ale(verb, join(place, "chat.toml"), ...settings);
  if (code !== 0) throw new Error(err);
}

const metrics = (name: string) =>
  readFileSync(join(place, name, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, number>);

test("a random chat model plays: what it says is no command, and it is told so", async () => {
  await run("run", "random", MODEL, "--trainer.steps", "1");
  const [, step] = metrics("random");
  expect(step?.["critic/rewards/mean"]).toBe(0);
  expect((step?.["stop/turns"] ?? 0) + (step?.["stop/length"] ?? 0)).toBe(1);
}, 60_000);

test("demonstrations and two steps of reinforcement learning, with parity, and a policy folder that is a chat model", async () => {
  await run("sft", "sft", MODEL);
  await run("run", "learned", join(place, "sft/policy"), "--trainer.steps", "2", "--optimizer.lr", "1e-4");
  const [, ...steps] = metrics("learned");
  expect(steps).toHaveLength(2);
  for (const step of steps) {
    expect(step["critic/rewards/mean"]).toBeGreaterThan(0.1);
    expect(step["actor/updates"]).toBeGreaterThan(0);
    expect(step["rollout_corr/probe_abs_diff_max"] ?? 0).toBeLessThan(1e-4);
    expect(step["num_turns/mean"]).toBeGreaterThanOrEqual(1);
  }
  for (const file of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]) {
    const kept = readFileSync(join(place, "learned/policy", file));
    expect(kept.equals(readFileSync(join(TEXT, file)))).toBe(true);
  }
  const policy = join(place, "learned/policy");
  const scored = await ale(
    "eval",
    join(place, "suite"),
    "--policy",
    policy,
    "--samples",
    "4",
    "--json",
    "--config",
    join(place, "chat.toml"),
  );
  expect(JSON.parse(scored.out)).toMatchObject({ n: 4, stopReasons: { done: 4 } });
  const said = await ale("generate", "--model", policy, "--chat", "--system", "Type.", "--prompt", "Make a.", "--json");
  expect(JSON.parse(said.out).text).toMatch(/^```bash\ntouch [ab]\n```$/);
}, 120_000);

test("settings without room for a conversation are refused before anything starts", async () => {
  const { code, err } = await ale(
    "run",
    "experiments/shell.toml",
    "--model",
    MODEL,
    "--out",
    join(place, "small"),
    "--no-serve",
    "--rollout.maxEpisodeTokens=100",
  );
  expect([code, err]).toEqual([2, expect.stringMatching(/rollout\.maxEpisodeTokens is 100, but .* has \d+ tokens/)]);
  expect(existsSync(join(place, "small"))).toBe(false);
});

test("limits that nobody set have room for a conversation", async () => {
  const { out } = await ale("run", "experiments/shell.toml", "--model", MODEL, "--dry-run", "--json");
  const { experiment, memory } = JSON.parse(out);
  expect(experiment.rollout).toMatchObject({ maxCommandTokens: 512, maxObservationChars: 2000 });
  expect(experiment.rollout.maxEpisodeTokens).toBeGreaterThan(500);
  expect(memory[0].predictedBytes).toBeGreaterThan(1e6);
});

test("a model of this machine plays the agents and judges; what it cannot do is a reason, not a failure", async () => {
  const project = join(place, "project");
  mkdirSync(project);
  writeFileSync(join(project, "a.txt"), "a\n");
  const flags = ["--config", join(place, "chat.toml"), "--json"];
  const synth = ["--policy", MODEL, "--rounds", "1", "--count", "1", ...flags];
  const made = await ale("data", "synth", project, "--out", join(place, "made"), ...synth);
  expect(made.err).toBe("");
  expect(JSON.parse(made.out)).toMatchObject({ tasks: 0, rejected: 1, end: "ideas" });
  const judged = ["--filters", "judge", "--judge", MODEL, ...flags];
  const filtered = await ale("data", "filter", join(place, "suite"), "--out", join(place, "judged"), ...judged);
  expect(filtered.err).toBe("");
  expect(JSON.parse(filtered.out).rejected).toMatchObject([
    { name: "make", stage: "judge", reason: "the judge gave no score that could be read" },
  ]);
}, 60_000);
