/** Generation from quantised matrices, with adapters on top, against the float64 forward pass of the values they stand for. */

import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { FrozenParameters } from "../../models/frozen-parameters.ts";
import { adaptersFor, initializeAdapters, mergeAdapters } from "../../models/lora.ts";
import { ParameterStore } from "../../models/parameter-store.ts";
import { initializeParameters, layOut, parameterView } from "../../models/parameters.ts";
import type { QuantizationScheme } from "../../models/quantization.ts";
import { dequantizeBase, flatReader, quantizeBase } from "../../models/quantized-base.ts";
import { blockProducts } from "../../runtime/block-products.ts";
import { GenerationEngine, type GenerationOptions } from "./engine.ts";
import { referenceLogits, referenceLogprob } from "./reference-forward.ts";
import { answerOf, answersOf, CONFIG, ids, LAYOUT, sampling } from "./test-model.ts";

/** Generation rounds activations to 8 bits, so log-probabilities are off by hundredths; a wrong layout gives whole units. */
const MEAN_LIMIT = 0.05;

const engines: GenerationEngine[] = [];
afterEach(() => {
  for (const engine of engines.splice(0)) engine.dispose();
});

/** A model with adapters: engines over its quantised matrices, and all the weights that these stand for. */
function quantizedModel(scheme: QuantizationScheme) {
  const flat = new Float32Array(LAYOUT.length);
  initializeParameters(CONFIG, LAYOUT, flat, 3);
  const embedding = parameterView(LAYOUT, flat, "model.embed_tokens.weight");
  for (let i = 0; i < embedding.length; i++) embedding[i] = 20 * (embedding[i] as number);
  const quantized = quantizeBase(CONFIG, scheme, flatReader(LAYOUT, flat));
  const adapters = adaptersFor(CONFIG, {
    rank: 2,
    alpha: 4,
    targets: ["q_proj", "v_proj", "down_proj"],
    rslora: false,
  });
  const store = ParameterStore.inMemory(adapters.layout);
  const trained = store.parameters(0);
  initializeAdapters(adapters, trained, 1);
  for (let i = 0; i < trained.length; i++) trained[i] = (trained[i] as number) + 0.1 * Math.sin(i);
  store.publish(0, 7);
  // Norms alone: the matrices are read from the codes.
  const norms = LAYOUT.entries.filter(({ kind }) => kind === "norm");
  const parameters = FrozenParameters.inMemory(
    layOut(norms.map(({ name, kind, shape }) => [name, kind, shape])),
    (own) => own.fill(1),
  );
  dequantizeBase(quantized, LAYOUT, flat);
  mergeAdapters(adapters, trained, { layout: LAYOUT, flat });
  const open = (options: Partial<GenerationOptions> = {}) => {
    const base = { parameters, adapters, quantized };
    const engine = new GenerationEngine(CONFIG, store, {
      threads: 1,
      slots: 6,
      rows: 12,
      context: 64,
      bitEqual: true,
      base,
      ...options,
    });
    engines.push(engine);
    return engine;
  };
  return { open, flat };
}

/** Forms, and whether products are Ale's own, where this machine has what they need, or ONNX Runtime's. */
const CASES = (["int8", "int4"] as const).flatMap((scheme) =>
  (blockProducts() === undefined ? ["0"] : ["1", "0"]).map((own) => [scheme, own] as const),
);

describe.each(CASES)("%s, own products %s", (scheme, own) => {
  const { open, flat } = quantizedModel(scheme);
  beforeAll(() => {
    process.env.ALE_BLOCK_PRODUCTS = own;
  });
  afterAll(() => {
    delete process.env.ALE_BLOCK_PRODUCTS;
  });

  test("log-probabilities are those of the dequantised model, prefilled or decoded", () => {
    for (const prefilled of [1, 9, 30]) {
      const engine = open({ bitEqual: prefilled !== 9 });
      const sequence = ids("sequence", 40);
      engine.open(0, "noise");
      const context = sequence.subarray(0, prefilled);
      engine.submit({ sequenceId: 0, context, forced: sequence.subarray(prefilled), sampling: sampling() });
      const { logprobsT1 } = answerOf(engine, 0);
      const logits = referenceLogits(CONFIG, LAYOUT, flat, [...sequence]);
      const expected = [...sequence]
        .slice(prefilled)
        .map((id, i) => referenceLogprob(logits[prefilled + i - 1] as Float64Array, id));
      const differences = expected.map((value, i) => Math.abs(value - (logprobsT1[i] as number)));
      expect(differences.reduce((sum, difference) => sum + difference, 0) / differences.length).toBeLessThan(
        MEAN_LIMIT,
      );
    }
  });

  test("what a sequence samples does not depend on its company, to the bit", () => {
    const answers = [[0], [0, 1, 2, 3, 4]].map((members) => {
      const engine = open();
      for (const id of members) {
        engine.open(id, `noise ${id}`);
        engine.submit({ sequenceId: id, context: ids(`prompt ${id}`, 7 + id), sampling: sampling({ maxTokens: 20 }) });
      }
      return answersOf(engine, members).get(0);
    });
    expect(answers[1]?.ids).toEqual(answers[0]?.ids as Int32Array<ArrayBuffer>);
    expect(answers[1]?.logprobs).toEqual(answers[0]?.logprobs as Float32Array<ArrayBuffer>);
  });
});
