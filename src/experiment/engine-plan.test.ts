import { expect, test } from "bun:test";
import { ExperimentSchema } from "../config/experiment.ts";
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

const plan = (engine: Readonly<Record<string, unknown>>) => planEngines(ExperimentSchema.parse({ engine }));

test("threads that are not set are shared out among the engines on the processor", () => {
  const [first, gpu, last] = plan({ devices: ["cpu", "webgpu", "cpu"], threads: 3 });
  expect([first?.threads, gpu?.threads, last?.threads]).toEqual([3, 3, 3]);
  expect(plan({ devices: ["cpu", "cpu"] })[0]?.threads).toBe(plan({ devices: ["cpu", "webgpu", "cpu"] })[0]?.threads);
});

test("matrices in bfloat16 are for GPUs alone", () => {
  expect(plan({ devices: ["webgpu"], storage: "bfloat16" })).toHaveLength(1);
  expect(() => plan({ devices: ["webgpu", "cpu"], storage: "bfloat16" })).toThrow(
    'engine.storage is "bfloat16", which GPUs alone have, but engine.devices is ["webgpu","cpu"]',
  );
  expect(() => plan({ devices: ["webgpu"], storage: "bfloat16", fallback: "cpu" })).toThrow('engine.fallback is "cpu"');
});
