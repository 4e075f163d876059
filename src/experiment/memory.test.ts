import { expect, test } from "bun:test";
import { loadExperiment } from "../config/load.ts";
import type { AleError } from "../core/errors.ts";
import { fitMemory, predictMemory } from "./memory.ts";

const SOURCE = {
  modelConfig: {
    model_type: "llama",
    vocab_size: 32_000,
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    intermediate_size: 2048,
    max_position_embeddings: 2048,
    tie_word_embeddings: true,
  },
  weights: { kind: "random", seed: 1 },
} as const;

function experiment(...overrides: string[]) {
  const settings = ["rollout.maxEpisodeTokens=512", "algorithm.type=grpo", ...overrides];
  return loadExperiment({ files: [], overrides: settings }).experiment;
}

test("parts add up, and a large model trains layer by layer", () => {
  const [memory] = predictMemory(experiment("engine.threads=2"), SOURCE);
  if (memory === undefined) throw new Error("no engine");
  expect(memory.executor).toBe("layers");
  expect(Object.values(memory.parts).reduce((a, b) => a + b)).toBe(memory.predictedBytes);
  // 12 · (4 · 768² + 3 · 768 · 2048) + 32 000 · 768 and norms, in three slots
  expect(memory.parts.weights / 3 / 4).toBeCloseTo(109_529_856, -4);
  const single = predictMemory(experiment("trainer.minibatches=1"), SOURCE)[0];
  expect(single?.parts.moments).toBe((memory.parts.moments * 2) / 3);
});

test("a run that cannot fit is refused with settings that would", () => {
  const [memory] = predictMemory(experiment(), SOURCE);
  const needed = memory?.predictedBytes as number;
  expect(() => fitMemory(experiment(), SOURCE, needed)).not.toThrow();
  const refuse = (available: number) => {
    try {
      fitMemory(experiment(), SOURCE, available);
    } catch (error) {
      return error as AleError;
    }
    throw new Error("the run was not refused");
  };
  const close = refuse(needed - 1e6);
  expect(close.message).toMatch(/^the run needs [\d.]+ GB of memory, but [\d.]+ GB are available$/);
  expect(close.hint).toContain("trainer.microBatchTokens = ");
  expect(refuse(1e9).hint).toContain("train adapters");
});

test("on demand it starts with the settings that fit", () => {
  const given = experiment('engine.fit="auto"');
  const [memory] = predictMemory(given, SOURCE);
  const available = (memory?.predictedBytes as number) - 1e6;
  const fitted = fitMemory(given, SOURCE, available);
  expect(fitted.settings.length).toBeGreaterThan(0);
  expect(predictMemory(fitted.experiment, SOURCE)[0]?.predictedBytes).toBeLessThanOrEqual(available);
  expect(fitMemory(given, SOURCE, 1e12)).toEqual({ experiment: given, settings: [] });
});
