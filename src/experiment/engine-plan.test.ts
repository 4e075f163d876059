import { expect, test } from "bun:test";
import { loadExperiment } from "../config/load.ts";
import { planEngines, poolPlacement } from "./engine-plan.ts";
import { predictMemory } from "./memory.ts";

function experiment(...overrides: string[]) {
  const settings = ["algorithm.type=grpo", "rollout.maxEpisodeTokens=64", ...overrides];
  return loadExperiment({ files: [], overrides: settings }).experiment;
}

const THREE = 'engine.devices=["cpu","cpu","cpu"]';
const SPLIT = 'engine.placement="split"';

test("a split has one trainer unless told otherwise", () => {
  expect(poolPlacement(experiment())).toEqual({ kind: "shared" });
  const workOf = (...overrides: string[]) => planEngines(experiment(THREE, ...overrides)).map(({ work }) => work);
  expect(workOf()).toEqual(["both", "both", "both"]);
  expect(workOf('engine.placement="elastic"')).toEqual(["both", "both", "both"]);
  expect(workOf(SPLIT)).toEqual(["train", "generate", "generate"]);
  expect(workOf(SPLIT, "engine.trainers=2")).toEqual(["train", "train", "generate"]);
});

test.each([
  [[SPLIT], "nobody would generate"],
  [[THREE, SPLIT, "engine.trainers=3"], "3 of 3 engines"],
  [[THREE, "engine.trainers=1"], 'engine.placement is "shared"'],
  [[THREE, SPLIT, "deterministic=true"], "deterministic runs need"],
  [['engine.placement="elastic"', "deterministic=true"], "deterministic runs need"],
])("%p is refused", (overrides, message) => {
  expect(() => planEngines(experiment(...overrides))).toThrow(message);
});

test("who does not train holds no gradients and moments, who does not generate no caches", () => {
  const source = {
    modelConfig: {
      model_type: "llama",
      ...{ vocab_size: 64, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64 },
      ...{ max_position_embeddings: 64, tie_word_embeddings: true },
    },
    weights: { kind: "random", seed: 1 },
  } as const;
  const [trainer, generator] = predictMemory(experiment(THREE, SPLIT), source);
  const [both] = predictMemory(experiment(THREE), source);
  expect(trainer?.parts).toMatchObject({ kv: 0, gradients: both?.parts.gradients, moments: both?.parts.moments });
  expect(generator?.parts).toMatchObject({ gradients: 0, moments: 0, logits: 0, weights: both?.parts.weights });
  expect(generator?.parts.kv).toBeGreaterThan(0);
});
