/** Every architecture generates what its forward pass in plain float64 loops says. */

import { expect, test } from "bun:test";
import type { Generation } from "../../core/ports.ts";
import { Rng } from "../../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../models/config.ts";
import { ParameterStore } from "../../models/parameter-store.ts";
import { parameterLayout, parameterView } from "../../models/parameters.ts";
import { GenerationEngine } from "./engine.ts";
import { referenceLogits, referenceLogprob } from "./reference-forward.ts";
import { answerOf, answersOf, expectClose, ids, CONFIG as LLAMA, sampling } from "./test-model.ts";

const MODELS: Readonly<Record<string, DecoderConfig>> = {
  "qwen2: biases": { ...LLAMA, ...ARCHITECTURES.qwen2 },
  // an odd vocabulary and MLP width leave gaps between tensors, so that no weights can be stacked
  "qwen2, tensors apart": { ...LLAMA, ...ARCHITECTURES.qwen2, hiddenSize: 20, intermediateSize: 27 },
  "qwen3: norms of queries and keys": { ...LLAMA, ...ARCHITECTURES.qwen3, tiedEmbeddings: false },
  "qwen3_moe: layers with and without experts": {
    ...LLAMA,
    ...ARCHITECTURES.qwen3_moe,
    experts: { count: 5, perToken: 2, intermediateSize: 24, normalizeWeights: true, sparseStep: 1, denseLayers: [0] },
  },
  "qwen3_moe: shares not normalised": {
    ...LLAMA,
    ...ARCHITECTURES.qwen3_moe,
    experts: { count: 3, perToken: 2, intermediateSize: 16, normalizeWeights: false, sparseStep: 2, denseLayers: [] },
  },
};

/** A store with random weights of a size that makes gates and attention far from linear. */
function randomStore(config: DecoderConfig): ParameterStore {
  const layout = parameterLayout(config);
  const store = ParameterStore.inMemory(layout);
  const rng = new Rng("weights");
  for (const { name, kind, shape } of layout.entries) {
    const spread = kind === "norm" || kind === "bias" ? 0.5 : 1.5 * (shape.at(-1) as number) ** -0.5;
    const view = parameterView(layout, store.parameters(0), name);
    for (let i = 0; i < view.length; i++) view[i] = (kind === "norm" ? 1 : 0) + spread * rng.normal();
  }
  store.publish(0, 1);
  return store;
}

test.each(Object.entries(MODELS))("%s", (_, config) => {
  const store = randomStore(config);
  const engine = new GenerationEngine(config, store, { threads: 1, slots: 2, rows: 2, context: 64 });
  const prompt = ids("prompt", 13);
  engine.open(0, "noise");
  engine.submit({ sequenceId: 0, context: prompt, sampling: sampling({ maxTokens: 8 }) });
  const answer = answerOf(engine, 0);
  engine.dispose();
  const sequence = [...prompt, ...answer.ids];
  const logits = referenceLogits(config, store.layout, store.parameters(0), sequence);
  const expected = [...answer.ids].map((id, i) => referenceLogprob(logits[prompt.length + i - 1] as Float64Array, id));
  expectClose(answer.logprobsT1, expected, 1e-4);
});

test("with experts too, what is sampled does not depend on the other rows, to the bit", () => {
  const config = MODELS["qwen3_moe: layers with and without experts"] as DecoderConfig;
  const store = randomStore(config);
  const generate = (sequences: readonly number[]) => {
    const engine = new GenerationEngine(config, store, { threads: 2, slots: 4, rows: 4, context: 64, bitEqual: true });
    for (const id of sequences) {
      engine.open(id, `noise ${id}`);
      engine.submit({ sequenceId: id, context: ids(`prompt ${id}`, 9), sampling: sampling({ maxTokens: 12 }) });
    }
    const answers = answersOf(engine, sequences);
    engine.dispose();
    return answers;
  };
  const together = generate([0, 1, 2, 3]);
  for (const id of together.keys()) expect(generate([id]).get(id)).toEqual(together.get(id) as Generation);
});
