/** Weights of the parameter store as graph inputs: neighbours in memory become one matrix, nothing is copied. */

import { AleError } from "../../core/errors.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { type ParameterStore, SLOTS, type Slot } from "../../models/parameter-store.ts";
import {
  biasName,
  EMBEDDING,
  FINAL_NORM,
  headName,
  layerNames,
  type ParameterLayout,
} from "../../models/parameters.ts";
import { float32Value, type Value } from "../../runtime/value.ts";

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

/** Every group of weights that the graphs of `graphs.ts` take as an input. */
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
      [names.gate, names.up],
      [names.down],
    );
    const biases = projections.flatMap((name) => biasName(config, name) ?? []);
    if (biases.length > 0) groups.push(biases);
    if (config.queryKeyNorm) groups.push([names.queryNorm], [names.keyNorm]);
  }
  if (!config.tiedEmbeddings) groups.push([headName(config)]);
  return groups;
}

export type WeightValues = Readonly<Record<string, Value>>;

/** The weights of each slot as tensors over the store's memory. */
export class SlotWeights {
  readonly #bySlot: readonly WeightValues[];

  constructor(config: DecoderConfig, store: ParameterStore) {
    const stacks = weightGroups(config).flatMap((names) => stackedWeights(store.layout, names));
    this.#bySlot = SLOTS.map((slot) => {
      const flat = store.parameters(slot);
      return Object.fromEntries(
        stacks.map(({ name, shape, offset, size }) => [
          name,
          float32Value(flat.subarray(offset, offset + size), shape),
        ]),
      );
    });
  }

  /** The weights of `slot` that a graph takes. */
  of(slot: Slot, names: readonly string[]): WeightValues {
    const values = this.#bySlot[slot] as WeightValues;
    return Object.fromEntries(names.map((name) => [name, values[name] as Value]));
  }

  release(): void {
    for (const values of this.#bySlot) for (const value of Object.values(values)) value.release();
  }
}
