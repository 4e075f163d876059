/**
 * A parameter store's slots in the memory of a GPU. The store stays the truth that outlives the process: what is computed
 * on the device goes back with `toStore`, what somebody else wrote to the store comes with `storeChanged`.
 *
 * Matrices may be kept in bfloat16: frozen ones then exist in that form alone, trained ones as float32 masters, which updates
 * read and write, with a short copy, which everything else reads.
 */

import type { MatrixStorage } from "../core/matrix-storage.ts";
import { bfloat16Form, storedAs } from "../onnx/bfloat16.ts";
import { allocateBytes } from "../runtime/memory.ts";
import { copyTensors, type DeviceValue, type Provider } from "../runtime/provider.ts";
import { type Bindable, float32Value, Value } from "../runtime/value.ts";
import { bfloat16Bytes, keptInBfloat16 } from "./bfloat16-matrices.ts";
import type { AdaptedBase, FrozenParameters } from "./frozen-parameters.ts";
import type { ParameterStore, Slot } from "./parameter-store.ts";
import { type ParameterEntry, type ParameterLayout, parameterView } from "./parameters.ts";

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
  /** In float32, whatever the storage of matrices. */
  readonly parameters: DeviceTensors;
  /** The copies in bfloat16 of those matrices that are kept so. */
  readonly short: DeviceTensors;
  readonly firstMoment: DeviceTensors;
  readonly secondMoment: DeviceTensors;
}

/** A slot on the device; its moments are not needed there before the first update. */
interface SlotState {
  readonly parameters: DeviceTensors;
  readonly short: DeviceTensors;
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
  readonly storage: MatrixStorage;
  readonly #store: ParameterStore;
  readonly #slots = new Map<Slot, SlotState>();
  readonly #frozen: DeviceTensors;

  /** @param base what the store's adapters belong to; without it the store holds all parameters. */
  constructor(provider: Provider, store: ParameterStore, base?: AdaptedBase, storage: MatrixStorage = "float32") {
    this.provider = provider;
    this.layout = store.layout;
    this.storage = storage;
    this.#store = store;
    this.#frozen = base === undefined ? {} : this.copyFrozen(base.parameters);
  }

  /** Weights that nobody changes, in the device's memory; the caller releases them. */
  copyFrozen({ layout, flat }: FrozenParameters): DeviceTensors {
    const { short, rest } = this.#split(layout);
    const tensors = allocateTensors(this.provider, rest);
    upload(rest, flat, tensors);
    const matrices = this.#allocateShort(short);
    this.#uploadShort(short, layout, flat, matrices);
    return { ...tensors, ...matrices };
  }

  /** Every parameter of the model under the weights of `slot`, by name; copied from the store where that is newer. */
  values(slot: Slot): DeviceTensors {
    const state = this.#slot(slot);
    if (!state.parametersCurrent) {
      const flat = this.#store.parameters(slot);
      upload(this.layout, flat, state.parameters);
      this.#uploadShort(this.#split(this.layout).short, this.layout, flat, state.short);
      state.parametersCurrent = true;
    }
    return { ...this.#frozen, ...state.parameters, ...state.short };
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
    const groups = [...this.#slots.values()].flatMap(({ parameters, short, moments }) =>
      moments === undefined ? [parameters, short] : [parameters, short, moments.first, moments.second],
    );
    for (const group of [this.#frozen, ...groups]) for (const value of Object.values(group)) value.release();
    this.#slots.clear();
  }

  #slot(slot: Slot): SlotState {
    const known = this.#slots.get(slot);
    if (known !== undefined) return known;
    const made: SlotState = {
      parameters: allocateTensors(this.provider, this.layout),
      short: this.#allocateShort(this.#split(this.layout).short),
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
      short: state.short,
      firstMoment: state.moments.first,
      secondMoment: state.moments.second,
    };
  }

  #allocateShort(entries: readonly ParameterEntry[]): DeviceTensors {
    const form = bfloat16Form(this.provider.device.kind);
    const allocate = ({ name, shape }: ParameterEntry) => {
      const stored = storedAs(form, shape);
      return [name, this.provider.allocate(stored.type, stored.shape)] as const;
    };
    return Object.fromEntries(entries.map(allocate));
  }

  /** One matrix after the other through the same memory, so that the host holds one short copy at a time. */
  #uploadShort(
    entries: readonly ParameterEntry[],
    layout: ParameterLayout,
    flat: Float32Array,
    tensors: DeviceTensors,
  ): void {
    const form = bfloat16Form(this.provider.device.kind);
    const scratch = allocateBytes(2 * Math.max(0, ...entries.map(({ size }) => size)));
    for (const { name, shape, size } of entries) {
      const view = parameterView(layout, flat, name);
      const bytes = bfloat16Bytes(form, view, shape[1] as number, scratch.subarray(0, 2 * size));
      const stored = storedAs(form, shape);
      const host = new Value(stored.type, stored.shape, bytes);
      copyTensors([host], [tensors[name] as DeviceValue]);
      host.release();
    }
  }

  /** The matrices of a layout that are kept in bfloat16, and the layout's entries without them, at their places. */
  #split(layout: ParameterLayout): { readonly short: readonly ParameterEntry[]; readonly rest: ParameterLayout } {
    const isShort = (entry: ParameterEntry) => keptInBfloat16(this.storage, entry);
    const entries = layout.entries.filter((entry) => !isShort(entry));
    return { short: layout.entries.filter(isShort), rest: { ...layout, entries } };
  }
}
