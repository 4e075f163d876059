/** Which engine processes an experiment starts. */

import { availableParallelism } from "node:os";
import type { Experiment } from "../config/experiment.ts";
import { parseDevice } from "../core/device.ts";

export interface PlannedEngine {
  readonly device: string;
  readonly threads: number;
}

/** One engine per entry of `engine.devices`. Threads are as set, or all cores shared out among the engines on the processor. */
export function planEngines({ engine }: Experiment): PlannedEngine[] {
  const { devices } = engine;
  const sharing = devices.filter((device) => parseDevice(device).kind === "cpu").length;
  const threads = engine.threads ?? Math.max(1, Math.floor(availableParallelism() / Math.max(1, sharing)));
  return devices.map((device) => ({ device, threads }));
}
