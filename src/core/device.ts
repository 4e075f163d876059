/** What one entry of `engine.devices` means. */

import { AleError } from "./errors.ts";

/** `cpu` computes on the processor, `webgpu` on a GPU through Vulkan, `cuda` on an NVIDIA GPU through CUDA. */
export type DeviceKind = "cpu" | "webgpu" | "cuda";

export interface Device {
  readonly kind: DeviceKind;
  /** Which of several GPUs; 0 for `cpu` and `webgpu`, which have one device. */
  readonly index: number;
}

/** The only texts that name a device. */
export const DEVICE_PATTERN = /^(?:cpu|webgpu|cuda(?::(0|[1-9]\d{0,2}))?)$/;

/**
 * Reads `cpu`, `webgpu`, `cuda` (the first GPU) or `cuda:N`.
 * @throws AleError("config") for anything else.
 */
export function parseDevice(text: string): Device {
  const match = DEVICE_PATTERN.exec(text);
  if (match === null) {
    throw new AleError("config", `"${text}" is not a device`, {
      hint: 'use "cpu", "webgpu", "cuda" or "cuda:1"; `ale doctor` lists what this machine has',
    });
  }
  return { kind: text.split(":")[0] as DeviceKind, index: Number(match[1] ?? 0) };
}

/** The text `parseDevice` reads; the first GPU is `cuda:0`. */
export function deviceName({ kind, index }: Device): string {
  return kind === "cuda" ? `cuda:${index}` : kind;
}
