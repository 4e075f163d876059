/** Where generation computes, and in whose memory: the processor, or a GPU. */

import { deviceName } from "../../core/device.ts";
import { AleError } from "../../core/errors.ts";
import { keptInBfloat16 } from "../../models/bfloat16-matrices.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { DeviceParameters } from "../../models/device-parameters.ts";
import type { AdaptedBase } from "../../models/frozen-parameters.ts";
import type { Adapters } from "../../models/lora.ts";
import type { ParameterStore, Slot } from "../../models/parameter-store.ts";
import type { ParameterLayout } from "../../models/parameters.ts";
import { bfloat16Form } from "../../onnx/bfloat16.ts";
import type { Provider } from "../../runtime/provider.ts";
import type { Values } from "../../runtime/session.ts";
import { CellCopier, DeviceKvBlock } from "./device-cache.ts";
import { KvBlock, type KvCache } from "./kv-block.ts";
import { type ForwardShape, SharedForward } from "./shared-forward.ts";
import { type GraphWeights, type ShortMatrices, SlotWeights } from "./weight-values.ts";

export interface GenerationPlace {
  readonly weights: GraphWeights;
  /** Runs the model's graphs; the processor when undefined. */
  readonly provider: Provider | undefined;
  /** One compiled graph for all shapes, where there is one. */
  readonly shared: SharedForward | undefined;
  makeCache(rows: number): KvCache;
  /** Frees what the place holds itself; caches are their owners'. */
  release(): void;
}

/** With fewer multiply-adds an operator takes microseconds, and handing a part of it to another thread takes as long. */
const SERIAL_MULTIPLY_ADDS = 20e6;

/** Of `threads`, how many to compute `positions` tokens with: one where that is the quicker (measured, `docs/generation.md`). */
export function threadsFor({ parameterCount }: ParameterLayout, positions: number, threads: number): number {
  return parameterCount * positions < SERIAL_MULTIPLY_ADDS ? 1 : threads;
}

/** @param shape positions of every cache, and threads of graphs for all shapes. */
export function processorPlace(
  config: DecoderConfig,
  store: ParameterStore,
  base: AdaptedBase | undefined,
  shape: ForwardShape,
): GenerationPlace {
  const weights = new SlotWeights(config, store, base);
  const quantized = base?.quantized;
  const shared = quantized === undefined ? undefined : new SharedForward(config, weights, quantized, shape);
  return {
    weights,
    provider: undefined,
    shared,
    makeCache: (rows) => new KvBlock(config, rows, shape.cells),
    release: () => {
      shared?.release();
      weights.release();
    },
  };
}

/**
 * @param parameters the store's slots on the device; they are not freed with the place.
 * @throws AleError("model") for a model with routed experts, which choose rows by numbers a GPU cannot compute with here, or with a
 * quantised base.
 */
export function devicePlace(
  config: DecoderConfig,
  parameters: DeviceParameters,
  base: AdaptedBase | undefined,
  cells: number,
): GenerationPlace {
  const { provider } = parameters;
  if (config.experts !== null) {
    throw new AleError("model", `a model with routed experts does not run on ${deviceName(provider.device)}`, {
      hint: 'use engine.devices = ["cpu"]',
    });
  }
  if (base?.quantized !== undefined) {
    throw new AleError("model", `a quantised base does not run on ${deviceName(provider.device)}`, {
      hint: 'use engine.devices = ["cpu"], or the base as it is',
    });
  }
  const copier = new CellCopier(provider, config, cells);
  return {
    weights: new DeviceWeights(parameters, base),
    provider,
    shared: undefined,
    makeCache: (rows) => new DeviceKvBlock(config, rows, cells, copier),
    release: () => copier.release(),
  };
}

/** The weights that training on the device reads and writes; generation binds the very same tensors. */
class DeviceWeights implements GraphWeights {
  readonly layout: ParameterLayout;
  readonly adapters: Adapters | undefined;
  readonly quantized = undefined;
  readonly onDevice = true;
  readonly short: ShortMatrices;
  readonly #parameters: DeviceParameters;

  constructor(parameters: DeviceParameters, base: AdaptedBase | undefined) {
    this.#parameters = parameters;
    this.layout = base?.parameters.layout ?? parameters.layout;
    this.adapters = base?.adapters;
    const short = this.layout.entries.filter((entry) => keptInBfloat16(parameters.storage, entry));
    const form = bfloat16Form(parameters.provider.device.kind);
    this.short = { form, names: new Set(short.map(({ name }) => name)) };
  }

  of(slot: Slot, names: readonly string[]): Values {
    const values: Values = this.#parameters.values(slot);
    return Object.fromEntries(names.map((name) => [name, values[name] as Values[string]]));
  }

  use(slot: Slot): void {
    this.#parameters.values(slot);
  }

  release(): void {}
}
