/**
 * Low-rank adapters (Hu et al., https://arxiv.org/abs/2106.09685): a frozen projection W [out, in] becomes
 * W + s · B A with trainable A [r, in] and B [out, r]. Names are those of the PEFT library.
 */

import type { LoraTarget } from "../config/lora.ts";
import { AleError } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";
import type { DecoderConfig } from "./config.ts";
import { layOut, type ParameterEntry, type ParameterLayout, parameterLayout, parameterView } from "./parameters.ts";

export interface LoraConfig {
  readonly rank: number;
  readonly alpha: number;
  /** Projections with an adapter, in every layer that has them; names from `LORA_TARGETS`. */
  readonly targets: readonly LoraTarget[];
  /** Scale alpha / √r instead of alpha / r (https://arxiv.org/abs/2312.03732). */
  readonly rslora: boolean;
}

/** The adapter of one projection: names of its two matrices and the factor on their product. */
export interface Adapter {
  readonly a: string;
  readonly b: string;
  readonly scale: number;
}

/** All adapters of a model. */
export interface Adapters {
  readonly config: LoraConfig;
  readonly layout: ParameterLayout;
  /** By the name of the projection's weight; projections that have none are missing. */
  readonly byWeight: ReadonlyMap<string, Adapter>;
}

/** Attention and dense MLPs; experts have no adapters. */
const MODULE = /^model\.layers\.\d+\.(?:self_attn|mlp)\.([a-z]+_proj)\.weight$/;

function projectionsOf(config: DecoderConfig): readonly ParameterEntry[] {
  return parameterLayout(config).entries.filter(({ name }) => MODULE.test(name));
}

function moduleOf({ name }: ParameterEntry): LoraTarget {
  return (MODULE.exec(name) as RegExpExecArray)[1] as LoraTarget;
}

/** All projections of a model that may have an adapter. */
export function loraTargets(config: DecoderConfig): readonly LoraTarget[] {
  return [...new Set(projectionsOf(config).map(moduleOf))];
}

/**
 * Where the adapters of a decoder lie. In each layer all A come before all B, so that those which read the same input
 * (query, key, value; gate, up) are neighbours in memory and can be multiplied as one matrix.
 * @throws AleError("config") for a target that no projection of the model is called: those of MLPs are missing where all
 * layers have experts.
 */
export function adaptersFor(config: DecoderConfig, lora: LoraConfig): Adapters {
  const known = loraTargets(config);
  for (const target of lora.targets) {
    if (!known.includes(target)) {
      throw new AleError("config", `lora.targets: the model has no projection called "${target}"`, {
        hint: `it has ${known.join(", ")}`,
      });
    }
  }
  const adapted = projectionsOf(config).filter((entry) => lora.targets.includes(moduleOf(entry)));
  const scale = lora.alpha / (lora.rslora ? Math.sqrt(lora.rank) : lora.rank);
  const byWeight = new Map(adapted.map(({ name }) => [name, { ...adapterNames(name), scale }]));
  const layers = new Map<string, ParameterEntry[]>();
  for (const entry of adapted) {
    const layer = entry.name.split(".", 3).join(".");
    layers.set(layer, [...(layers.get(layer) ?? []), entry]);
  }
  const layout = layOut(
    [...layers.values()].flatMap((entries) => [
      ...entries.map(({ name, shape }) => [adapterNames(name).a, "adapter", [lora.rank, shape[1] as number]] as const),
      ...entries.map(({ name, shape }) => [adapterNames(name).b, "adapter", [shape[0] as number, lora.rank]] as const),
    ]),
  );
  return { config: lora, layout, byWeight };
}

/** `model.layers.0.self_attn.q_proj.weight` → the names of its adapter's matrices in a PEFT file. */
function adapterNames(weight: string): { readonly a: string; readonly b: string } {
  const module = `base_model.model.${weight.slice(0, -".weight".length)}`;
  return { a: `${module}.lora_A.weight`, b: `${module}.lora_B.weight` };
}

/**
 * Fills adapters as PEFT does: A uniform in ±1/√in (Kaiming with a = √5), B zero, so that the model starts as its base.
 * A tensor's values depend on the seed and its name only.
 */
export function initializeAdapters(adapters: Adapters, flat: Float32Array, seed: number): void {
  const { layout } = adapters;
  for (const { a, b } of adapters.byWeight.values()) {
    const matrix = parameterView(layout, flat, a);
    const bound = ((layout.byName.get(a) as ParameterEntry).shape[1] as number) ** -0.5;
    const rng = new Rng(`init ${seed} ${a}`);
    for (let i = 0; i < matrix.length; i++) matrix[i] = bound * (2 * rng.next() - 1);
    parameterView(layout, flat, b).fill(0);
  }
}

/** Adds s · B A to the weights they belong to, in float64 per element: a model that needs no adapters any more. */
export function mergeAdapters(
  adapters: Adapters,
  flat: Float32Array,
  base: { readonly layout: ParameterLayout; readonly flat: Float32Array },
): void {
  const { rank } = adapters.config;
  for (const [weight, { a, b, scale }] of adapters.byWeight) {
    const target = parameterView(base.layout, base.flat, weight);
    const left = parameterView(adapters.layout, flat, b);
    const right = parameterView(adapters.layout, flat, a);
    const width = right.length / rank;
    const row = new Float64Array(width);
    for (let o = 0; o < left.length / rank; o++) {
      row.fill(0);
      for (let r = 0; r < rank; r++) {
        const factor = scale * (left[o * rank + r] as number);
        for (let i = 0; i < width; i++) row[i] = (row[i] as number) + factor * (right[r * width + i] as number);
      }
      for (let i = 0; i < width; i++) {
        target[o * width + i] = (target[o * width + i] as number) + (row[i] as number);
      }
    }
  }
}
