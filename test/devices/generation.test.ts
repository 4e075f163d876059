/** Generation on WebGPU with weights and caches on the device, compared with the processor's. */

import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/core/rng.ts";
import type { DecoderConfig } from "../../src/models/config.ts";
import { DeviceParameters } from "../../src/models/device-parameters.ts";
import { ParameterStore } from "../../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../src/models/parameters.ts";
import { GenerationEngine } from "../../src/policy/generation/engine.ts";
import type { Provider } from "../../src/runtime/provider.ts";
import { tinyDecoder, webgpu } from "./support.ts";

const OPTIONS = { threads: 1, slots: 3, rows: 4, context: 48 };
const SAMPLING = { temperature: 1, greedy: true, maxTokens: 6, stopIds: [] };

function storeFor(model: DecoderConfig): ParameterStore {
  const layout = parameterLayout(model);
  const store = ParameterStore.inMemory(layout);
  initializeParameters(model, layout, store.parameters(0), 3);
  store.publish(0, 1);
  return store;
}

/** Two turns of sequences of different lengths, more of them than there are seats; ids and log-probabilities by sequence. */
function play(engine: GenerationEngine, vocabulary: number) {
  const rng = new Rng("turns");
  const answers: { ids: number[]; logprobs: number[] }[] = [];
  for (let turn = 0; turn < 2; turn++) {
    const pending = new Set<number>();
    for (let id = 0; id < 4; id++) {
      if (turn === 0) engine.open(id, `sequence ${id}`);
      const context = Int32Array.from({ length: 2 + 3 * id }, () => rng.int(0, vocabulary - 1));
      engine.submit({ sequenceId: id, context, sampling: SAMPLING });
      pending.add(id);
    }
    engine.drain(pending, ({ sequenceId, generation }) => {
      const answer = answers[sequenceId] ?? { ids: [], logprobs: [] };
      answers[sequenceId] = answer;
      answer.ids.push(...generation.ids);
      answer.logprobs.push(...generation.logprobs);
    });
  }
  return answers;
}

describe.skipIf(webgpu === undefined)("webgpu", () => {
  const provider = webgpu as Provider;

  test.each(["qwen2", "qwen3"] as const)(
    "two turns of a %s model: same tokens, same log-probabilities",
    (type) => {
      const model = tinyDecoder(type);
      const store = storeFor(model);
      const parameters = new DeviceParameters(provider, store);
      const here = new GenerationEngine(model, store, OPTIONS);
      const there = new GenerationEngine(model, store, { ...OPTIONS, device: parameters });
      const expected = play(here, model.vocabularySize);
      const found = play(there, model.vocabularySize);
      expect(found.map(({ ids }) => ids)).toEqual(expected.map(({ ids }) => ids));
      const differences = expected.flatMap(({ logprobs }, i) =>
        logprobs.map((value, t) => Math.abs(value - (found[i]?.logprobs[t] as number))),
      );
      expect(differences.length).toBe(4 * 2 * SAMPLING.maxTokens);
      expect(Math.max(...differences)).toBeLessThan(1e-5);
      const cells = here.readCache(1).map((values, i) => {
        const other = there.readCache(1)[i] as Float32Array;
        return Math.max(...values.map((value, k) => Math.abs(value - (other[k] as number))));
      });
      expect(Math.max(...cells)).toBeLessThan(1e-5);
      for (const item of [here, there]) item.dispose();
      parameters.release();
    },
    60_000,
  );

  test("a model with routed experts is refused", () => {
    const model = tinyDecoder("llama");
    const store = storeFor(model);
    const parameters = new DeviceParameters(provider, store);
    const experts = {
      count: 2,
      perToken: 1,
      intermediateSize: 8,
      normalizeWeights: true,
      sparseStep: 1,
      denseLayers: [],
    };
    expect(() => new GenerationEngine({ ...model, experts }, store, { ...OPTIONS, device: parameters })).toThrow(
      "routed experts does not run on webgpu",
    );
    parameters.release();
  });
});
