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

/** What an update reads or writes of one slot. */
export interface DeviceSlot {
  readonly parameters: DeviceTensors;
  readonly firstMoment: DeviceTensors;
  readonly secondMoment: DeviceTensors;
}

/** A slot on the device; its moments are not needed there before the first update. */
interface SlotState {
  readonly parameters: DeviceTensors;
  moments: { readonly first: DeviceTensors; readonly second: DeviceTensors } | undefined;
  /** Whether the device's copy is as new as the store's. */
  parametersCurrent: boolean;
  momentsCurrent: boolean;
  /** The store's copy is out of date. */
  ahead: boolean;
}

export class DeviceParameters {
  readonly provider: Provider;
  /** Of what changes from slot to slot: all parameters, or the adapters. */
  readonly layout: ParameterLayout;
  readonly #store: ParameterStore;
  readonly #slots = new Map<Slot, SlotState>();
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
    const state = this.#slot(slot);
    if (!state.parametersCurrent) {
      upload(this.layout, this.#store.parameters(slot), state.parameters);
      state.parametersCurrent = true;
    }
    return { ...this.#frozen, ...state.parameters };
  }

  /** A slot's tensors to be read by an update. */
  source(slot: Slot): DeviceSlot {
    this.values(slot);
    const state = this.#slot(slot);
    const whole = this.#withMoments(state);
    if (!state.momentsCurrent) {
      upload(this.layout, this.#store.firstMoment(slot), whole.firstMoment);
      upload(this.layout, this.#store.secondMoment(slot), whole.secondMoment);
      state.momentsCurrent = true;
    }
    return whole;
  }

  /** A slot's tensors to be written by an update; the store's copy is out of date from now on. */
  target(slot: Slot): DeviceSlot {
    this.#store.assertWritable(slot);
    const state = this.#slot(slot);
    const whole = this.#withMoments(state);
    state.parametersCurrent = true;
    state.momentsCurrent = true;
    state.ahead = true;
    return whole;
  }

  /** Somebody wrote to the store's copy of `slot`. */
  storeChanged(slot: Slot): void {
    const state = this.#slots.get(slot);
    if (state === undefined) return;
    state.parametersCurrent = false;
    state.momentsCurrent = false;
    state.ahead = false;
  }

  /** Brings the store's copy of `slot`, moments included, up to date. */
  toStore(slot: Slot): void {
    const state = this.#slots.get(slot);
    if (!state?.ahead) return;
    const { parameters, firstMoment, secondMoment } = this.#withMoments(state);
    download(this.layout, parameters, this.#store.parameters(slot));
    download(this.layout, firstMoment, this.#store.firstMoment(slot));
    download(this.layout, secondMoment, this.#store.secondMoment(slot));
    state.ahead = false;
  }

  release(): void {
    const groups = [...this.#slots.values()].flatMap(({ parameters, moments }) =>
      moments === undefined ? [parameters] : [parameters, moments.first, moments.second],
    );
    for (const group of [this.#frozen, ...groups]) for (const value of Object.values(group)) value.release();
    this.#slots.clear();
  }

  #slot(slot: Slot): SlotState {
    const known = this.#slots.get(slot);
    if (known !== undefined) return known;
    const made: SlotState = {
      parameters: allocateTensors(this.provider, this.layout),
      moments: undefined,
      parametersCurrent: false,
      momentsCurrent: false,
      ahead: false,
    };
    this.#slots.set(slot, made);
    return made;
  }

  #withMoments(state: SlotState): DeviceSlot {
    state.moments ??= {
      first: allocateTensors(this.provider, this.layout),
      second: allocateTensors(this.provider, this.layout),
    };
    return {
      parameters: state.parameters,
      firstMoment: state.moments.first,
      secondMoment: state.moments.second,
    };
  }
}
