/** A run that trains adapters: killed and resumed it is the same, and what it leaves are adapters that can be read again. */

import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ExperimentSchema } from "../../src/config/experiment.ts";
import { EventHub } from "../../src/core/events.ts";
import { selfCommand } from "../../src/device/self.ts";
import { type PolicySource, policyFromFolder } from "../../src/experiment/policy-source.ts";
import { startEngines } from "../../src/experiment/resources.ts";
import { openPolicyFolder } from "../../src/models/policy-folder.ts";
import { readSafetensors } from "../../src/models/safetensors.ts";

const place = mkdtempSync(join(tmpdir(), "ale-lora-"));
const REPOSITORY = join(import.meta.dir, "../..");
const MAIN = selfCommand("engine").slice(0, -1);
const BASE = join(REPOSITORY, "models/shell-start");
const environment = { ...process.env, ALE_HOME: join(place, "home"), NO_COLOR: "1" };

const SETTINGS = [
  ...["--deterministic", "--no-serve", "--rollout.groups", "4", "--rollout.groupSize", "4", "--trainer.steps", "2"],
  ...["--evaluation.every", "1", "--evaluation.dev", "4", "--evaluation.heldout", "4", "--evaluation.greedy=false"],
  ...["--lora.rank", "4", "--optimizer.lr", "0.003"],
  // A critic and a coefficient that adapts are state besides the adapters.
  ...["--algorithm.type", "ppo", "--kl.in", "reward", "--kl.estimator", "k1", "--kl.target", "0.01"],
];

afterAll(() => rmSync(place, { recursive: true, force: true }));

function ale(...args: string[]) {
  return Bun.spawn([...MAIN, ...args], { cwd: REPOSITORY, env: environment, stdio: ["ignore", "pipe", "pipe"] });
}

async function finish(child: ReturnType<typeof ale>): Promise<string> {
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  return out;
}

function run(name: string) {
  return ale("run", "experiments/shell.toml", "--out", join(place, name), ...SETTINGS);
}

function lines(name: string): string[] {
  const file = join(place, name, "metrics.jsonl");
  return existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
}

/** Metrics without measured times. */
function metrics(name: string): unknown[] {
  return lines(name).map((line) => {
    const entries = Object.entries(JSON.parse(line) as Record<string, unknown>);
    return Object.fromEntries(entries.filter(([key]) => !/^(timing_s|perf)\//.test(key)).sort());
  });
}

/** The last checkpoint; `policy/` holds the best step, which may be the start. */
const last = (name: string) => join(place, name, "checkpoints", "step-000002");
const adapters = (name: string) => readFileSync(join(last(name), "adapter_model.safetensors"));

test("killed with -9 after the first step and resumed, a run of adapters ends the same to the bit", async () => {
  await finish(run("whole"));
  expect(metrics("whole")).toHaveLength(3);
  expect(metrics("whole")[2]).toMatchObject({ "actor/kl_coef_next": expect.any(Number) });
  const child = run("killed");
  const end = Date.now() + 60_000;
  while (lines("killed").length < 2 && Date.now() < end) await Bun.sleep(20);
  child.kill("SIGKILL");
  await child.exited;
  await finish(ale("resume", join(place, "killed"), "--no-serve"));
  expect(metrics("killed")).toEqual(metrics("whole"));
  expect(adapters("killed").equals(adapters("whole"))).toBe(true);
}, 120_000);

test("a run leaves a PEFT folder and no copy of the model", () => {
  const folder = join(place, "whole", "policy");
  expect(readdirSync(folder)).not.toContain("model.safetensors");
  const config = openPolicyFolder(folder).readJson("adapter_config.json");
  expect(config).toMatchObject({ peft_type: "LORA", r: 4, lora_alpha: 32, base_model_name_or_path: BASE });
  const { tensors } = readSafetensors(join(folder, "adapter_model.safetensors"));
  const query = tensors.get("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
  expect(query?.shape[0]).toBe(4);
});

test("adapters read again give the same greedy tokens, and others than the base", async () => {
  const folder = last("whole");
  const named = await greedyIds(policyFromFolder(folder));
  expect(await greedyIds(policyFromFolder(BASE, { adapter: folder }))).toEqual(named);
  const scored = await finish(ale("eval", "shell", "--policy", BASE, "--adapter", folder, "--samples", "4", "--json"));
  expect(JSON.parse(scored)).toMatchObject({ n: 4 });
  expect(await greedyIds(policyFromFolder(BASE))).not.toEqual(named);
  const flags = ["--prompt", "<task>", "--greedy", "--max-tokens", "24", "--json"];
  const [beside, alone] = await Promise.all(
    [
      ["--model", BASE, "--adapter", folder],
      ["--model", folder],
    ].map((model) => finish(ale("generate", ...model, ...flags))),
  );
  const answer = (text = "") => (JSON.parse(text) as { ids: number[] }).ids;
  expect(answer(beside)).toEqual(answer(alone));
}, 60_000);

test("a quantised model is not trained as a whole", async () => {
  const experiment = ExperimentSchema.parse({ model: { quantization: "int4" } });
  const start = startEngines(experiment, policyFromFolder(BASE), mkdtempSync(join(place, "engine-")), new EventHub());
  await expect(start).rejects.toThrow('model.quantization is "int4", but this run trains all weights');
});

/** Greedy answers to a few prompts, and the log-probability of each token. */
async function greedyIds(source: PolicySource): Promise<unknown> {
  const experiment = ExperimentSchema.parse({ deterministic: true });
  const engine = await startEngines(experiment, source, mkdtempSync(join(place, "engine-")), new EventHub());
  try {
    const session = await engine.open("greedy");
    const context = source.tokenizer.encode("List all files that end in .txt, sorted by name.");
    const sampling = { temperature: 1, greedy: true, maxTokens: 32, stopIds: [] };
    const { ids, logprobs } = await session.generate(Int32Array.from(context), sampling);
    return { ids: [...ids], logprobs: [...logprobs] };
  } finally {
    await engine.stop();
  }
}
