/** A Qwen3-MoE checkpoint against the numbers of transformers; `test/golden/models/make_moe.py` made both. */

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { checkModel } from "../../scripts/golden-models.ts";
import { configFromHuggingFace } from "../../src/models/config.ts";
import { ParameterStore } from "../../src/models/parameter-store.ts";
import { parameterLayout } from "../../src/models/parameters.ts";
import { openPolicyFolder } from "../../src/models/policy-folder.ts";
import { readFolderWeights, readWeights } from "../../src/models/weights.ts";
import { GenerationEngine } from "../../src/policy/generation/engine.ts";

const folder = join(import.meta.dir, "../golden/models/qwen3-moe-tiny");

describe("golden qwen3-moe-tiny", () => {
  const cases = checkModel(folder).filter(({ run }) => run !== undefined);
  expect(cases.length).toBeGreaterThan(14);
  for (const { name, run } of cases) test(name, () => expect(run?.()).toBeString());
});

test("the generation engine continues every prompt as transformers does", () => {
  const config = configFromHuggingFace(openPolicyFolder(folder).readJson("config.json"), "config.json");
  const store = ParameterStore.inMemory(parameterLayout(config));
  readWeights(readFolderWeights(openPolicyFolder(folder)), store.layout, store.parameters(0));
  store.publish(0, 1);
  const { prompts } = JSON.parse(readFileSync(join(folder, "golden.json"), "utf8")) as {
    readonly prompts: readonly {
      readonly ids: number[];
      readonly greedy: number[];
      readonly greedy_logprobs: number[];
    }[];
  };
  const engine = new GenerationEngine(config, store, { threads: 2, slots: 4, rows: 4, context: 64 });
  for (const [i, { ids }] of prompts.entries()) {
    engine.open(i, "");
    const sampling = { greedy: true, temperature: 1, maxTokens: 16, stopIds: [] };
    engine.submit({ sequenceId: i, context: Int32Array.from(ids), sampling });
  }
  let answered = 0;
  engine.drain(new Set(prompts.keys()), ({ sequenceId, generation }) => {
    const { greedy, greedy_logprobs } = prompts[sequenceId] as (typeof prompts)[number];
    expect([...generation.ids]).toEqual(greedy);
    for (const [t, expected] of greedy_logprobs.entries()) {
      expect(Math.abs((generation.logprobsT1[t] as number) - expected)).toBeLessThan(2e-4);
    }
    answered++;
  });
  engine.dispose();
  expect(answered).toBe(prompts.length);
});
