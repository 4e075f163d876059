/** Supervised stages on the episodes of a run: real sandboxes, real engine, the shipped policy. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compactFormat } from "../../src/agent/compact-format.ts";
import { loadExperiment } from "../../src/config/load.ts";
import { EventHub } from "../../src/core/events.ts";
import { policyFromFolder } from "../../src/experiment/policy-source.ts";
import { runExperiment } from "../../src/experiment/run.ts";
import { runSft } from "../../src/experiment/sft.ts";
import { readSolvedEpisodes } from "../../src/experiment/stored-episodes.ts";
import { openStore } from "../../src/store/store.ts";
import { trainBpe } from "../../src/tokens/bpe-trainer.ts";
import { BpeTokenizer } from "../../src/tokens/tokenizer.ts";

const place = mkdtempSync(join(tmpdir(), "ale-supervised-"));
const storePath = join(place, "store.db");
afterAll(() => rmSync(place, { recursive: true, force: true }));

const NEVER = new AbortController().signal;
const SETTINGS = [
  ...["trainer.steps=1", "rollout.groups=4", "rollout.groupSize=4", "sandbox.warm=4", "engine.threads=1"],
  ...["evaluation.dev=0", "evaluation.heldout=0", "evaluation.greedy=false", "sft.every=0", "optimizer.warmupSteps=1"],
  'tasks.families=["cfg", "sum", "big"]',
];
/** Id of a run with solved and failed episodes. */
let runId = "";

async function run(name: string, execute: typeof runSft, overrides: readonly string[]) {
  const file = join(import.meta.dir, "../../experiments/shell.toml");
  const loaded = loadExperiment({ files: [file], overrides: [...SETTINGS, ...overrides] });
  const outDir = join(place, name);
  mkdirSync(outDir);
  const result = await execute({
    ...{ experiment: loaded.experiment, toml: loaded.toml, configHash: loaded.hash, outDir, serve: false },
    ...{ storePath, hub: new EventHub(), signal: NEVER, stop: NEVER },
  });
  expect(result.status).toBe("finished");
  const lines = readFileSync(join(outDir, "metrics.jsonl"), "utf8").trim().split("\n");
  return { ...result, metrics: JSON.parse(lines.at(-1) ?? "") as Readonly<Record<string, number>> };
}

beforeAll(async () => {
  ({ runId } = await run("source", runExperiment, []));
}, 60_000);

describe("imitation of solved episodes", () => {
  test("makes them more likely", async () => {
    const stage = (steps: number) => [`sft.stages=[{steps = ${steps}, lr = 1e-3, trajectories = "${runId}"}]`];
    const masks = ["sft.maskErrors=true", "sft.maskIrrelevant=true", "sft.contextWeight=0"];
    const short = await run("short", runSft, [...stage(1), ...masks]);
    const long = await run("long", runSft, [...stage(8), ...masks]);
    expect(long.metrics["sft/loss"]).toBeLessThan(short.metrics["sft/loss"] as number);
    expect(long.metrics["sft/trained_share"]).toBeGreaterThan(0.5);
  });

  test("takes the shortest of each group, with the tokens that were sampled", async () => {
    await using store = await openStore(storePath);
    const solved: { group: string; length: number }[] = [];
    for await (const { groupId, tokens } of store.episodes({ runId, purpose: "train", solved: true }))
      solved.push({ group: groupId, length: tokens.ids.length });
    const { format } = policyFromFolder("models/shell-start");
    const masks = { maskErrors: false, maskIrrelevant: false };
    const read = (perGroup?: number) => readSolvedEpisodes(store, format, { run: runId, perGroup, masks });
    const all = await read();
    expect(all.map(({ tokens }) => tokens.ids.length).sort()).toEqual(solved.map(({ length }) => length).sort());
    for (const { tokens, trained_T } of all) expect(trained_T).toEqual(tokens.mask);
    const groups = Map.groupBy(solved, ({ group }) => group);
    const shortest = [...groups.values()].map((members) => Math.min(...members.map(({ length }) => length)));
    expect((await read(1)).map(({ tokens }) => tokens.ids.length).sort()).toEqual(shortest.sort());
  });

  test("is refused for a policy that reads other tokens", async () => {
    await using store = await openStore(storePath);
    const format = compactFormat(new BpeTokenizer(trainBpe(["echo"], 262), "test"));
    const masks = { maskErrors: false, maskIrrelevant: false };
    await expect(readSolvedEpisodes(store, format, { run: runId, masks })).rejects.toThrow(
      "another tokenizer or prompt",
    );
  });
});

describe("preferences", () => {
  const stage = (settings: string) => [`sft.stages=[{trajectories = "${runId}", ${settings}}]`, "sft.batch=8"];

  test.each(["dpo", "ipo"])(
    "%s: solved episodes become more likely than the failures of their groups",
    async (objective) => {
      const { metrics } = await run(
        objective,
        runSft,
        stage(`objective = "${objective}", steps = 8, lr = 1e-4, beta = 0.1`),
      );
      expect(metrics["dpo/pairs"]).toBeGreaterThan(0);
      expect(metrics["rewards/margins"]).toBeGreaterThan(0);
      expect(metrics[`${objective}/loss`]).toBeLessThan(objective === "dpo" ? Math.LN2 : 25);
    },
  );

  test("need a run", async () => {
    await expect(run("alone", runSft, ['sft.stages=[{objective = "dpo"}]'])).rejects.toThrow(
      'sft.stages.0.objective is "dpo", which needs the run whose groups are compared: set trajectories',
    );
  });
});
