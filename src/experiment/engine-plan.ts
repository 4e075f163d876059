/** Which engine processes an experiment starts. */

import { availableParallelism } from "node:os";
import type { Experiment } from "../config/experiment.ts";
import { parseDevice } from "../core/device.ts";
import { AleError } from "../core/errors.ts";

export interface PlannedEngine {
  readonly device: string;
  readonly threads: number;
}

/**
 * One engine per entry of `engine.devices`. Threads are as set, or all cores shared out among the engines on the processor.
 * @throws AleError("config") where some engines would compute with rounded weights and others not.
 */
export function planEngines({ engine }: Experiment): PlannedEngine[] {
  const { devices, storage, fallback } = engine;
  if (storage !== "float32" && (fallback === "cpu" || devices.some((device) => parseDevice(device).kind === "cpu"))) {
    const where = fallback === "cpu" ? 'engine.fallback is "cpu"' : `engine.devices is ${JSON.stringify(devices)}`;
    throw new AleError("config", `engine.storage is "${storage}", which GPUs alone have, but ${where}`, {
      hint: 'set engine.storage = "float32", or engine.devices to GPUs and engine.fallback = "none"',
    });
  }
  const sharing = devices.filter((device) => parseDevice(device).kind === "cpu").length;
  const threads = engine.threads ?? Math.max(1, Math.floor(availableParallelism() / Math.max(1, sharing)));
  return devices.map((device) => ({ device, threads }));
}
