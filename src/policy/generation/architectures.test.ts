/** Every architecture generates what its forward pass in plain float64 loops says. */

import { test } from "bun:test";
import { Rng } from "../../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../models/config.ts";
import { ParameterStore } from "../../models/parameter-store.ts";
import { parameterLayout, parameterView } from "../../models/parameters.ts";
import { GenerationEngine } from "./engine.ts";
import { referenceLogits, referenceLogprob } from "./reference-forward.ts";
import { answerOf, expectClose, ids, CONFIG as LLAMA, sampling } from "./test-model.ts";

const MODELS: Readonly<Record<string, DecoderConfig>> = {
  "qwen2: biases": { ...LLAMA, ...ARCHITECTURES.qwen2 },
  // an odd vocabulary and MLP width leave gaps between tensors, so that no weights can be stacked
  "qwen2, tensors apart": { ...LLAMA, ...ARCHITECTURES.qwen2, hiddenSize: 20, intermediateSize: 27 },
  "qwen3: norms of queries and keys": { ...LLAMA, ...ARCHITECTURES.qwen3, tiedEmbeddings: false },
};

test.each(Object.entries(MODELS))("%s", (_, config) => {
  const layout = parameterLayout(config);
  const store = ParameterStore.inMemory(layout);
  const flat = store.parameters(0);
  const rng = new Rng("weights");
  for (const { name, kind, shape } of layout.entries) {
    const spread = kind === "norm" || kind === "bias" ? 0.5 : 1.5 * (shape.at(-1) as number) ** -0.5;
    const view = parameterView(layout, flat, name);
    for (let i = 0; i < view.length; i++) view[i] = (kind === "norm" ? 1 : 0) + spread * rng.normal();
  }
  store.publish(0, 1);
  const engine = new GenerationEngine(config, store, { threads: 1, slots: 2, maxBlocks: 1, context: 64 });
  const prompt = ids("prompt", 13);
  engine.open(0, "noise");
  engine.submit({ sequenceId: 0, context: prompt, sampling: sampling({ maxTokens: 8 }) });
  const answer = answerOf(engine, 0);
  engine.dispose();
  const sequence = [...prompt, ...answer.ids];
  const logits = referenceLogits(config, layout, flat, sequence);
  const expected = [...answer.ids].map((id, i) => referenceLogprob(logits[prompt.length + i - 1] as Float64Array, id));
  expectClose(answer.logprobsT1, expected, 1e-4);
});
