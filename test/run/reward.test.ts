/** Rewards put together by `[reward]`, in whole runs: trained on the sum, stored and evaluated by the outcome. */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FilterSchema } from "../../src/config/async.ts";
import { loadExperiment } from "../../src/config/load.ts";
import { RewardSchema } from "../../src/config/reward.ts";
import { EventHub } from "../../src/core/events.ts";
import { RewardFunction } from "../../src/experiment/reward-function.ts";
import { runExperiment } from "../../src/experiment/run.ts";
import { loadFilter } from "../../src/experiment/run-rollout.ts";
import type { RewardEpisode } from "../../src/reward/shaping.ts";

const place = mkdtempSync(join(tmpdir(), "ale-reward-"));
const storePath = join(place, "store.db");
afterAll(() => rmSync(place, { recursive: true, force: true }));

const NEVER = new AbortController().signal;
const SETTINGS = [
  ...["trainer.steps=2", "rollout.groups=4", "rollout.groupSize=4", "optimizer.warmupSteps=0", "sandbox.warm=4"],
  ...["evaluation.dev=0", "evaluation.heldout=14", "evaluation.greedy=false", "checkpoint.every=2", "engine.threads=1"],
  'tasks.families=["cfg", "sum", "big"]',
];

function write(name: string, text: string): { readonly path: string; readonly sha256: string } {
  const path = join(place, name);
  writeFileSync(path, text);
  return { path, sha256: createHash("sha256").update(text).digest("hex") };
}

async function run(name: string, overrides: readonly string[]): Promise<Record<string, number>[]> {
  const file = join(import.meta.dir, "../../experiments/shell.toml");
  const loaded = loadExperiment({ files: [file], overrides: [...SETTINGS, ...overrides] });
  const outDir = join(place, name);
  mkdirSync(outDir, { recursive: true });
  await runExperiment({
    ...{ experiment: loaded.experiment, toml: loaded.toml, configHash: loaded.hash, outDir, serve: false },
    ...{ storePath, hub: new EventHub(), signal: NEVER, stop: NEVER },
  });
  const lines = readFileSync(join(outDir, "metrics.jsonl"), "utf8").trim().split("\n");
  return lines.map((line) => JSON.parse(line));
}

const EPISODE: RewardEpisode = {
  ...{ episode: "e", task: "t", family: "f", seed: 1, instruction: "Do it.", outcome: 1, scores: {}, tests: null },
  ...{ stopReason: "done", turns: [{ command: "ls", observation: "a", exitCode: 0 }], tokens: 5 },
};

test("the sum is trained on, the outcome is stored and evaluated", async () => {
  const own = write("own.ts", "export const reward = ({ turns }: { turns: unknown[] }): number => 3 - turns.length;");
  const script = write("judge.json", JSON.stringify([{ when: "Was it done", answers: ['{"score": 5}'] }]));
  const [, ...steps] = await run("sum", [
    ...["reward.outcome=binary", "reward.formatPenalty=0.1", "reward.length.maxTokens=60", "reward.length.buffer=50"],
    ...[
      "reward.ranking.by=tokens",
      "reward.ranking.weight=0.2",
      `reward.function=${own.path}`,
      `reward.sha256=${own.sha256}`,
    ],
    ...[
      `reward.judge.policy=scripted:${script.path}`,
      "reward.judge.rubric=Was it done well?",
      "reward.judge.weight=0.5",
    ],
  ]);
  expect(steps).toHaveLength(2);
  for (const step of steps) {
    const parts = ["outcome", "format", "length", "judge", "ranking", "function"].map(
      (name) => step[`reward/${name}`] ?? Number.NaN,
    );
    expect(step["reward/total"]).toBeCloseTo(
      parts.reduce((sum, part) => sum + part, 0),
      9,
    );
    expect(step["critic/rewards/mean"]).toBeCloseTo(step["reward/total"] ?? 0, 9);
    expect(step["reward/judge"]).toBeCloseTo(0.25, 9);
    expect(step["reward/judge_failed"]).toBe(0);
    expect(step["reward/length"]).toBeLessThan(0);
  }
  using store = new Database(storePath, { readonly: true });
  const rewards = store
    .query<{ reward: number }, []>("SELECT DISTINCT reward FROM episodes")
    .all()
    .map(({ reward }) => reward);
  expect(rewards.sort()).toEqual([0, 1]);
  // What ran is kept beside the results.
  expect(readFileSync(join(place, "sum/reward.ts"), "utf8")).toContain("3 - turns.length");
}, 240_000);

test("code runs only when its hash is named, and only if all of it is covered", async () => {
  const start = (name: string, text: string, more: object = {}) => {
    const { path, sha256 } = write(name, text);
    return RewardFunction.start(RewardSchema.parse({ function: path, sha256, functionSeconds: 0.5, ...more }), place);
  };
  const mark = join(place, "ran");
  const source = `import { writeFileSync } from "node:fs"; writeFileSync(${JSON.stringify(mark)}, ""); export const reward = () => 1;`;
  const config = RewardSchema.parse({ function: write("marks.ts", source).path });
  await expect(RewardFunction.start(config, place)).rejects.toThrow("is code that this experiment would run");
  await expect(start("other.ts", source, { sha256: "0".repeat(64) })).rejects.toThrow(
    "is not the file that reward.sha256 names",
  );
  await expect(start("imports.ts", 'import { x } from "./x.ts"; export const reward = () => x;')).rejects.toThrow(
    'imports "./x.ts"',
  );
  expect(existsSync(mark)).toBe(false);
  await (await start("marks.ts", source))?.[Symbol.asyncDispose]();
  expect(existsSync(mark)).toBe(true);
  // A run that goes on has its own copy.
  const moved = write("marks.ts", source);
  rmSync(moved.path);
  const kept = RewardSchema.parse({ function: moved.path, sha256: moved.sha256 });
  await (await RewardFunction.start(kept, place))?.[Symbol.asyncDispose]();
  await expect(start("empty.ts", "export const other = 1;")).rejects.toThrow("it exports no function reward");
  await expect(start("broken.ts", "export const = ;")).rejects.toThrow("broken.ts");
}, 60_000);

test("a filter's module runs only when its hash is named, and what was hashed is what runs", async () => {
  const folder = mkdtempSync(join(place, "filter-"));
  const mark = join(folder, "ran");
  const source = `import { writeFileSync } from "node:fs"; writeFileSync(${JSON.stringify(mark)}, "");
    export const keep = (rewards: number[], family: string): boolean => rewards.length > 1 && family === "cfg";`;
  const load = (name: string, text: string, more: object = {}) => {
    const { path, sha256 } = write(name, text);
    return loadFilter(FilterSchema.parse({ module: path, sha256, ...more }), folder);
  };
  await expect(load("keep.ts", source, { sha256: undefined })).rejects.toThrow(
    `rollout.filter.module: ${join(place, "keep.ts")} is code that this experiment would run`,
  );
  await expect(load("keep.ts", source, { sha256: "0".repeat(64) })).rejects.toThrow(
    "is not the file that rollout.filter.sha256 names",
  );
  await expect(load("far.ts", 'import { x } from "./x.ts"; export const keep = () => x;')).rejects.toThrow(
    'imports "./x.ts"',
  );
  expect(existsSync(mark)).toBe(false);
  const keep = await load("keep.ts", source);
  expect([existsSync(mark), keep?.([1, 0], "cfg"), keep?.([1, 0], "sum")]).toEqual([true, true, false]);
  // A run that goes on has its own copy, whatever becomes of the file.
  const { path, sha256 } = write("keep.ts", source);
  writeFileSync(path, "export const keep = () => true;");
  const again = await loadFilter(FilterSchema.parse({ module: path, sha256 }), folder);
  expect(again?.([1], "cfg")).toBe(false);
  expect(FilterSchema.safeParse({ sha256 }).success).toBe(false);
});

test("a function answers, fails with its own words, and cannot hang a run", async () => {
  process.env.ALE_TEST_SECRET = "secret";
  const { path, sha256 } = write(
    "calls.ts",
    `export async function reward({ outcome, turns, episode }) {
      if (episode === "throws") throw new Error("not like this");
      if (episode === "text") return "1";
      if (episode === "exits") process.exit(7);
      if (episode === "hangs") for (;;);
      return (process.env.ALE_TEST_SECRET === undefined ? 0 : 100) + outcome + turns.length;
    }`,
  );
  const config = RewardSchema.parse({ function: path, sha256, functionSeconds: 1 });
  const open = async () => (await RewardFunction.start(config, place)) as RewardFunction;
  {
    await using own = await open();
    const values = await Promise.all([own.call(EPISODE), own.call({ ...EPISODE, outcome: 0 })]);
    expect(values).toEqual([2, 1]);
    await expect(own.call({ ...EPISODE, episode: "throws" })).rejects.toThrow("not like this");
    await expect(own.call({ ...EPISODE, episode: "text" })).rejects.toThrow("it returned string, not a number");
    expect(await own.call(EPISODE)).toBe(2);
    await expect(own.call({ ...EPISODE, episode: "hangs" })).rejects.toThrow("did not finish within 1000 ms");
  }
  await using own = await open();
  await expect(own.call({ ...EPISODE, episode: "exits" })).rejects.toThrow("ended with code 7");
}, 60_000);
