/** What an engine needs of the device it computes on. */

import { deviceName, parseDevice } from "../core/device.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import type { MatrixStorage } from "../core/matrix-storage.ts";
import { DeviceParameters } from "../models/device-parameters.ts";
import { Provider } from "../runtime/provider.ts";
import type { PolicyWeights } from "./policy-weights.ts";
import type { EngineOptions } from "./protocol.ts";

export interface DeviceParts {
  /** Where the engine computes. */
  readonly name: string;
  /** Why that is not where it was told to; undefined when it is. */
  readonly fallback: string | undefined;
  /** The GPU; undefined on the processor. */
  readonly provider: Provider | undefined;
}

/**
 * Opens the device of an engine.
 * @throws AleError("engine") when it cannot be used and the experiment allows no other, AleError("config") for what GPUs
 * cannot promise.
 */
export function openDevice({ device = "cpu", fallback = "none", deterministic }: EngineOptions): DeviceParts {
  const wanted = parseDevice(device);
  if (wanted.kind === "cpu") return { name: "cpu", fallback: undefined, provider: undefined };
  if (deterministic) {
    throw new AleError("config", `deterministic runs compute on cpu; engine.devices names "${device}"`, {
      hint: 'set engine.devices = ["cpu"], or deterministic = false',
    });
  }
  try {
    return { name: deviceName(wanted), fallback: undefined, provider: Provider.open(wanted) };
  } catch (error) {
    if (fallback !== "cpu") throw error;
    return { name: "cpu", fallback: errorMessage(error), provider: undefined };
  }
}

/** The weights in the device's memory; undefined on the processor. */
export function deviceParameters(
  { provider }: DeviceParts,
  weights: PolicyWeights,
  storage: MatrixStorage | undefined,
): DeviceParameters | undefined {
  return provider && new DeviceParameters(provider, weights.store, weights.base, storage);
}
