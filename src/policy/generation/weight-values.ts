/** Weights of the parameter store as graph inputs: neighbours in memory become one matrix, nothing is copied. */

import { AleError } from "../../core/errors.ts";
import { type DecoderConfig, hasExperts } from "../../models/config.ts";
import type { AdaptedBase } from "../../models/frozen-parameters.ts";
import type { Adapters } from "../../models/lora.ts";
import { type ParameterStore, SLOTS, type Slot } from "../../models/parameter-store.ts";
import {
  biasName,
  EMBEDDING,
  expertNames,
  FINAL_NORM,
  headName,
  layerNames,
  type ParameterLayout,
} from "../../models/parameters.ts";
import type { QuantizedBase } from "../../models/quantized-base.ts";
import type { Bfloat16Form } from "../../onnx/bfloat16.ts";
import type { Values } from "../../runtime/session.ts";
import { float32Value, type Value } from "../../runtime/value.ts";
import { embeddingTable } from "./quantized-operators.ts";

/** A run of the flat parameter array, named and shaped as a graph input. */
export interface StackedWeight {
  readonly name: string;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly size: number;
}

/**
 * The tensors `names`, stacked along their first axis. They are one input where they lie next to each other in the flat
 * array, as query, key, value and gate, up do for all usual sizes; otherwise one input each.
 */
export function stackedWeights(layout: ParameterLayout, names: readonly string[]): readonly StackedWeight[] {
  const parts = names.map((name) => {
    const entry = layout.byName.get(name);
    if (entry === undefined) throw new AleError("model", `the model has no parameter "${name}"`);
    return entry;
  });
  const [first] = parts;
  if (first === undefined) throw new AleError("internal", "no weights to stack");
  const adjacent = parts.every((part, i) => {
    const previous = parts[i - 1];
    return previous === undefined || previous.offset + previous.size === part.offset;
  });
  if (!adjacent) return parts;
  const rows = parts.reduce((sum, part) => sum + (part.shape[0] as number), 0);
  const size = parts.reduce((sum, part) => sum + part.size, 0);
  return [{ name: names.join("+"), shape: [rows, ...first.shape.slice(1)], offset: first.offset, size }];
}

/** Where the weights of a model lie. */
export interface WeightPlaces {
  /** The model's own parameters. */
  readonly layout: ParameterLayout;
  readonly adapters: Adapters | undefined;
  /** The matrices that are not read from the layout. */
  readonly quantized: QuantizedBase | undefined;
  /** They lie on a GPU: each tensor is an input of its own, and graphs keep to the operators GPUs have. */
  readonly onDevice: boolean;
  /** Those that the device keeps in bfloat16; none when undefined. */
  readonly short?: ShortMatrices | undefined;
}

/** Matrices in bfloat16, in their device's form. */
export interface ShortMatrices {
  readonly form: Bfloat16Form;
  readonly names: ReadonlySet<string>;
}

/** Every group of the model's own weights that the graphs of `graphs.ts` take as an input. */
function weightGroups(config: DecoderConfig): readonly (readonly string[])[] {
  const groups: (readonly string[])[] = [[EMBEDDING], [FINAL_NORM]];
  for (let layer = 0; layer < config.layers; layer++) {
    const names = layerNames(layer);
    const projections = [names.query, names.key, names.value];
    groups.push(
      [names.attentionNorm],
      projections,
      [names.output],
      [names.mlpNorm],
      ...feedForwardGroups(config, layer),
    );
    const biases = projections.flatMap((name) => biasName(config, name) ?? []);
    if (biases.length > 0) groups.push(biases);
    if (config.queryKeyNorm) groups.push([names.queryNorm], [names.keyNorm]);
  }
  if (!config.tiedEmbeddings) groups.push([headName(config)]);
  return groups;
}

function feedForwardGroups(config: DecoderConfig, layer: number): readonly (readonly string[])[] {
  const names = layerNames(layer);
  if (!hasExperts(config, layer)) return [[names.gate, names.up], [names.down]];
  const experts = Array.from({ length: config.experts?.count ?? 0 }, (_, expert) => expertNames(layer, expert));
  return [[names.router], ...experts.flatMap(({ gate, up, down }) => [[gate, up], [down]])];
}

/** Weights as inputs of graphs. */
export interface GraphWeights extends WeightPlaces {
  /** Those of `slot` that a graph takes, by the graph's names for them. */
  of(slot: Slot, names: readonly string[]): Values;
  /** To be called before a graph runs with the weights of `slot`. */
  use(slot: Slot): void;
  release(): void;
}

export type WeightValues = Readonly<Record<string, Value>>;

/** The weights of each slot as tensors over the store's memory, and those no slot changes over their own. */
export class SlotWeights implements GraphWeights {
  readonly layout: ParameterLayout;
  readonly adapters: Adapters | undefined;
  readonly quantized: QuantizedBase | undefined;
  readonly onDevice = false;
  readonly #frozen: WeightValues;
  readonly #bySlot: readonly WeightValues[];

  /** @param base what the store's adapters belong to; without it the store holds the model's own parameters. */
  constructor(config: DecoderConfig, store: ParameterStore, base?: AdaptedBase) {
    this.layout = base?.parameters.layout ?? store.layout;
    this.adapters = base?.adapters;
    this.quantized = base?.quantized;
    const table = this.quantized?.matrices.get(EMBEDDING);
    const own = weightGroups(config)
      .filter((names) => this.quantized?.matrices.has(names.join("+")) !== true)
      .flatMap((names) => stackedWeights(this.layout, names));
    this.#frozen = {
      ...(base === undefined ? {} : valuesOf(own, base.parameters.flat)),
      ...(table === undefined ? {} : embeddingTable(table)),
    };
    const published = base === undefined ? own : adapterGroups(config, base.adapters);
    this.#bySlot = SLOTS.map((slot) => valuesOf(published, store.parameters(slot)));
  }

  of(slot: Slot, names: readonly string[]): WeightValues {
    const values = this.#bySlot[slot] as WeightValues;
    return Object.fromEntries(names.map((name) => [name, (values[name] ?? this.#frozen[name]) as Value]));
  }

  /** The store's memory is always up to date. */
  use(): void {}

  release(): void {
    for (const values of [this.#frozen, ...this.#bySlot]) for (const value of Object.values(values)) value.release();
  }
}

function valuesOf(stacks: readonly StackedWeight[], flat: Float32Array): WeightValues {
  return Object.fromEntries(
    stacks.map(({ name, shape, offset, size }) => [name, float32Value(flat.subarray(offset, offset + size), shape)]),
  );
}

/** Adapters as the graphs take them: A stacked where the projections are, B one by one. */
function adapterGroups(config: DecoderConfig, adapters: Adapters): readonly StackedWeight[] {
  return weightGroups(config).flatMap((names) => {
    const group = names.flatMap((name) => adapters.byWeight.get(name) ?? []);
    if (group.length === 0) return [];
    const inside = group.map(({ a }) => a);
    return [inside, ...group.map(({ b }) => [b])].flatMap((stack) => stackedWeights(adapters.layout, stack));
  });
}
