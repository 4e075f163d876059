/** Native values over the parameters of a store, made once and shared by every session. */

import { float32Value, type Value } from "../runtime/value.ts";
import type { ParameterStore, Slot } from "./parameter-store.ts";
import { type ParameterLayout, parameterView } from "./parameters.ts";

/** One value per tensor of a flat array, by parameter name. */
export function tensorValues(layout: ParameterLayout, flat: Float32Array): Readonly<Record<string, Value>> {
  return Object.fromEntries(
    layout.entries.map(({ name, shape }) => [name, float32Value(parameterView(layout, flat, name), shape)]),
  );
}

const cache = new WeakMap<ParameterStore, Map<Slot, Readonly<Record<string, Value>>>>();

/** Values over the parameters of `slot`, to feed graphs whose inputs are named like the parameters. */
export function parameterValues(store: ParameterStore, slot: Slot): Readonly<Record<string, Value>> {
  const slots = cache.get(store) ?? new Map<Slot, Readonly<Record<string, Value>>>();
  cache.set(store, slots);
  const found = slots.get(slot) ?? tensorValues(store.layout, store.parameters(slot));
  slots.set(slot, found);
  return found;
}
