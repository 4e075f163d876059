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
 * One engine per entry of `engine.devices`. Threads are as set, or all cores shared out among the engines.
 * @throws AleError("config") for a device that Ale does not compute on.
 */
export function planEngines({ engine }: Experiment): PlannedEngine[] {
  const { devices } = engine;
  const other = devices.find((device) => parseDevice(device).kind !== "cpu");
  if (other !== undefined) {
    throw new AleError("config", `engine.devices: this version of Ale does not compute on "${other}"`, {
      hint: 'use "cpu", once per engine',
    });
  }
  const threads = engine.threads ?? Math.max(1, Math.floor(availableParallelism() / devices.length));
  return devices.map((device) => ({ device, threads }));
}
