/**
 * A parameter store's slots in the memory of a GPU. The store stays the truth that outlives the process: what is computed
 * on the device goes back with `toStore`, what somebody else wrote to the store comes with `storeChanged`.
 */

import { copyTensors, type DeviceValue, type Provider } from "../runtime/provider.ts";
import { type Bindable, float32Value } from "../runtime/value.ts";
import type { AdaptedBase } from "./frozen-parameters.ts";
import type { ParameterStore, Slot } from "./parameter-store.ts";
import { type ParameterLayout, parameterView } from "./parameters.ts";

/** A device tensor per name of a layout. */
export type DeviceTensors = Readonly<Record<string, DeviceValue>>;

/** One tensor per entry of the layout; what they hold is undefined. */
export function allocateTensors(provider: Provider, layout: ParameterLayout): DeviceTensors {
  return Object.fromEntries(layout.entries.map(({ name, shape }) => [name, provider.allocate("float32", shape)]));
}

/** Copies every tensor of a flat host array to the device. */
export function upload(layout: ParameterLayout, flat: Float32Array, tensors: DeviceTensors): void {
  transfer(layout, flat, tensors, copyTensors);
}

/** Copies every tensor from the device to a flat host array. */
export function download(layout: ParameterLayout, tensors: DeviceTensors, flat: Float32Array): void {
  transfer(layout, flat, tensors, (host, device) => copyTensors(device, host));
}

function transfer(
  layout: ParameterLayout,
  flat: Float32Array,
  tensors: DeviceTensors,
  copy: (host: readonly Bindable[], device: readonly Bindable[]) => void,
): void {
  const host = layout.entries.map(({ name, shape }) => float32Value(parameterView(layout, flat, name), shape));
  try {
    copy(
      host,
      layout.entries.map(({ name }) => tensors[name] as DeviceValue),
    );
  } finally {
    for (const value of host) value.release();
  }
}

/** What one slot of the store holds. */
interface DeviceSlot {
  readonly parameters: DeviceTensors;
  readonly firstMoment: DeviceTensors;
  readonly secondMoment: DeviceTensors;
  /** Which copy is current; `device`: the store's is out of date. */
  current: "store" | "both" | "device";
}

export class DeviceParameters {
  readonly provider: Provider;
  /** Of what changes from slot to slot: all parameters, or the adapters. */
  readonly layout: ParameterLayout;
  readonly #store: ParameterStore;
  readonly #slots = new Map<Slot, DeviceSlot>();
  readonly #frozen: DeviceTensors;

  /** @param base what the store's adapters belong to; without it the store holds all parameters. */
  constructor(provider: Provider, store: ParameterStore, base?: AdaptedBase) {
    this.provider = provider;
    this.layout = store.layout;
    this.#store = store;
    this.#frozen = base === undefined ? {} : allocateTensors(provider, base.parameters.layout);
    if (base !== undefined) upload(base.parameters.layout, base.parameters.flat, this.#frozen);
  }

  /** Every parameter of the model under the weights of `slot`, by name; copied from the store where that is newer. */
  values(slot: Slot): DeviceTensors {
    return { ...this.#frozen, ...this.#current(slot).parameters };
  }

  /** A slot's tensors to be read by an update. */
  source(slot: Slot): Omit<DeviceSlot, "current"> {
    return this.#current(slot);
  }

  /** A slot's tensors to be written by an update; the store's copy is out of date from now on. */
  target(slot: Slot): Omit<DeviceSlot, "current"> {
    this.#store.assertWritable(slot);
    const target = this.#slot(slot);
    target.current = "device";
    return target;
  }

  /** Somebody wrote to the store's copy of `slot`. */
  storeChanged(slot: Slot): void {
    const known = this.#slots.get(slot);
    if (known !== undefined) known.current = "store";
  }

  /** Brings the store's copy of `slot`, moments included, up to date. */
  toStore(slot: Slot): void {
    const known = this.#slots.get(slot);
    if (known?.current !== "device") return;
    this.#eachArray(slot, known, (flat, tensors) => download(this.layout, tensors, flat));
    known.current = "both";
  }

  release(): void {
    const tensors = [...this.#slots.values()].flatMap((slot) => [slot.parameters, slot.firstMoment, slot.secondMoment]);
    for (const group of [this.#frozen, ...tensors]) for (const value of Object.values(group)) value.release();
    this.#slots.clear();
  }

  #slot(slot: Slot): DeviceSlot {
    const known = this.#slots.get(slot);
    if (known !== undefined) return known;
    const tensors = () => allocateTensors(this.provider, this.layout);
    const made: DeviceSlot = {
      parameters: tensors(),
      firstMoment: tensors(),
      secondMoment: tensors(),
      current: "store",
    };
    this.#slots.set(slot, made);
    return made;
  }

  #current(slot: Slot): DeviceSlot {
    const found = this.#slot(slot);
    if (found.current === "store") {
      this.#eachArray(slot, found, (flat, tensors) => upload(this.layout, flat, tensors));
      found.current = "both";
    }
    return found;
  }

  #eachArray(slot: Slot, on: DeviceSlot, copy: (flat: Float32Array, tensors: DeviceTensors) => void): void {
    copy(this.#store.parameters(slot), on.parameters);
    copy(this.#store.firstMoment(slot), on.firstMoment);
    copy(this.#store.secondMoment(slot), on.secondMoment);
  }
}
