/** A decode step with layers in one operator each, beside the plain graph and beside itself in other company. */

import { describe, expect, test } from "bun:test";
import { Rng } from "../../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../models/config.ts";
import { adaptersFor, type LoraConfig } from "../../models/lora.ts";
import { ParameterStore } from "../../models/parameter-store.ts";
import { initializeParameters, layerNames, parameterLayout, parameterView } from "../../models/parameters.ts";
import { type LayerInstructions, layerOperator } from "../../runtime/decoder-layers.ts";
import { allocateFloat32, allocateInt32 } from "../../runtime/memory.ts";
import { Session } from "../../runtime/session.ts";
import { float32Value, int32Value } from "../../runtime/value.ts";
import { type FusedLayers, fusedLayers } from "./fused-layer.ts";
import { cacheNames, decodeGraph } from "./graphs.ts";
import { CONFIG as LLAMA } from "./test-model.ts";
import { SlotWeights } from "./weight-values.ts";

const own = layerOperator();
if (own === undefined) console.log("fused-layer: no AVX2 or no C compiler here; only the choice is tested");

/** No whole number of vectors of cells, four heads to a cache, and heads of a width without a loop of its own. */
const WIDE: DecoderConfig = { ...LLAMA, hiddenSize: 48, heads: 4, kvHeads: 1, headDim: 48, intermediateSize: 80 };
const CELLS = 21;

const known = new Map<DecoderConfig, SlotWeights>();

function weightsOf(config: DecoderConfig): SlotWeights {
  const made = known.get(config) ?? makeWeights(config);
  known.set(config, made);
  return made;
}

function makeWeights(config: DecoderConfig): SlotWeights {
  const store = ParameterStore.inMemory(parameterLayout(config));
  initializeParameters(config, store.layout, store.parameters(0), 3);
  // Gates far beyond what e to them can hold.
  const gate = parameterView(store.layout, store.parameters(0), layerNames(0).gate);
  if (config === WIDE) for (const [i, value] of gate.entries()) gate[i] = 3000 * value;
  return new SlotWeights(config, store);
}

function noise(label: string, length: number): Float32Array {
  const rng = new Rng(label);
  return allocateFloat32(length).map(() => rng.normal());
}

interface Step {
  readonly logits: Float32Array;
  /** Keys and values of each layer in turn. */
  readonly caches: readonly Float32Array[];
}

/** One step of the sequences `rows`, each a token of its own at a length of its own over a cache of its own. */
function step(config: DecoderConfig, rows: readonly number[], fused: FusedLayers | undefined, inPlace = true): Step {
  const weights = weightsOf(config);
  const { layers, kvHeads, headDim, vocabularySize } = config;
  const count = rows.length;
  const { model, weightNames } = decodeGraph(config, weights, { rows: count, cells: CELLS, variant: undefined, fused });
  const session = new Session(model, { threads: 2, operators: fused?.operator.domain });
  const shape = [count, kvHeads, CELLS, headDim];
  const size = kvHeads * CELLS * headDim;
  const logits = allocateFloat32(count * vocabularySize);
  const tokens = allocateInt32(count);
  tokens.set(rows.map((row) => (7 * row + 1) % vocabularySize));
  const lengths = allocateInt32(count);
  lengths.set(rows.map((row) => (5 * row) % CELLS));
  const feeds: Record<string, ReturnType<typeof float32Value>> = {};
  const fetches: Record<string, ReturnType<typeof float32Value>> = {};
  const caches: Float32Array[] = [];
  for (let layer = 0; layer < layers; layer++) {
    const names = cacheNames(layer);
    for (const [past, present] of [
      [names.pastKeys, names.keys],
      [names.pastValues, names.values],
    ] as const) {
      const before = allocateFloat32(count * size);
      for (const [i, row] of rows.entries()) before.set(noise(`${past} ${row}`, size), i * size);
      const after = inPlace ? before : allocateFloat32(count * size);
      feeds[past] = float32Value(before, shape);
      fetches[present] = float32Value(after, shape);
      caches.push(after);
    }
  }
  const total = allocateInt32(1);
  total[0] = CELLS;
  const run = session.prepare(
    {
      ...{ tokens: int32Value(tokens, [count]), lengths: int32Value(lengths, [count]), total: int32Value(total, []) },
      ...feeds,
      ...weights.of(0, weightNames),
    },
    { ...fetches, logits: float32Value(logits, [count, vocabularySize]) },
  );
  run();
  session.release();
  return { logits, caches };
}

function farthest(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);
}

describe.skipIf(own === undefined)("a layer in one operator", () => {
  const fusedWith = (instructions: LayerInstructions, pieces: number): FusedLayers => ({
    operator: { domain: own?.domain as number, instructions: [instructions] },
    pieces,
  });
  const rows = Array.from({ length: 7 }, (_, row) => row);
  const sets = own?.instructions ?? [];

  test.each(
    sets.flatMap((set) => [
      { set, config: LLAMA },
      { set, config: WIDE },
    ]),
  )("is that of the plain graph, $set", ({ set, config }) => {
    const plain = step(config, rows, undefined);
    for (const inPlace of [true, false]) {
      const fused = step(config, rows, fusedWith(set, 2), inPlace);
      const most = plain.logits.reduce((found, value) => Math.max(found, Math.abs(value)), 0);
      expect(farthest(fused.logits, plain.logits)).toBeLessThan(1e-5 * most);
      for (const [i, cache] of fused.caches.entries()) {
        expect(farthest(cache, plain.caches[i] as Float32Array)).toBeLessThan(1e-5);
      }
    }
  });

  test.each(sets.map((set) => [set]))("has the same bits in whatever company and pieces, %s", (set) => {
    const { vocabularySize } = LLAMA;
    // On one's own the head is another product; the layers show in the caches of the last.
    const together = step(LLAMA, rows, fusedWith(set, 1));
    expect(step(LLAMA, rows, fusedWith(set, 3))).toEqual(together);
    const pair = step(LLAMA, [3, 6], fusedWith(set, 1));
    const size = LLAMA.kvHeads * CELLS * LLAMA.headDim;
    for (const [i, row] of [3, 6].entries()) {
      for (const [k, cache] of pair.caches.entries()) {
        const all = together.caches[k] as Float32Array;
        expect(cache.subarray(i * size, (i + 1) * size)).toEqual(all.subarray(row * size, (row + 1) * size));
      }
      const logits = pair.logits.subarray(i * vocabularySize, (i + 1) * vocabularySize);
      const all = together.logits.subarray(row * vocabularySize, (row + 1) * vocabularySize);
      expect(farthest(logits, all)).toBeLessThan(1e-4);
    }
  });
});

test("only layers that the operator knows are computed with it, and only small ones", () => {
  const chosen = (config: DecoderConfig, cells = CELLS, rows = 32, threads = 2) => {
    const places = { layout: parameterLayout(config), adapters: undefined, quantized: undefined, onDevice: false };
    return fusedLayers(config, places, { rows, cells, threads });
  };
  for (const config of [
    { ...LLAMA, ...ARCHITECTURES.qwen2 },
    { ...LLAMA, ...ARCHITECTURES.qwen3 },
    { ...LLAMA, hiddenSize: 40 },
    { ...LLAMA, hiddenSize: 512, intermediateSize: 1024 },
  ]) {
    expect(chosen(config)).toBeUndefined();
  }
  const adapted = (targets: LoraConfig["targets"]) => {
    const adapters = adaptersFor(LLAMA, { rank: 1, alpha: 1, rslora: false, targets });
    const places = { layout: parameterLayout(LLAMA), adapters, quantized: undefined, onDevice: false };
    return fusedLayers(LLAMA, places, { rows: 1, cells: CELLS, threads: 1 });
  };
  expect(adapted(["q_proj"])).toBeUndefined();
  expect(adapted([])?.pieces).toBe(own === undefined ? undefined : 1);
  expect(chosen(LLAMA, 15)).toBeUndefined();
  expect(chosen(LLAMA)?.pieces).toBe(own === undefined ? undefined : 2);
  expect(chosen(LLAMA, CELLS, 12)?.pieces).toBe(own === undefined ? undefined : 1);
});
