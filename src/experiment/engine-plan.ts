/** Which engine processes an experiment starts. */

import { availableParallelism } from "node:os";
import type { Experiment } from "../config/experiment.ts";
import { parseDevice } from "../core/device.ts";
import { AleError } from "../core/errors.ts";
import { assignWork, type EngineWork, type PoolPlacement } from "../device/pool-placement.ts";

export interface PlannedEngine {
  readonly device: string;
  readonly threads: number;
  readonly work: EngineWork;
}

/**
 * One engine per entry of `engine.devices`. Threads are as set, or all cores shared out among the engines on the processor.
 * @throws AleError("config") for a placement that devices or determinism do not allow, and where some engines would compute
 * with rounded weights and others not.
 */
export function planEngines(experiment: Experiment): PlannedEngine[] {
  const { engine } = experiment;
  const { devices, storage, fallback } = engine;
  if (storage !== "float32" && (fallback === "cpu" || devices.some((device) => parseDevice(device).kind === "cpu"))) {
    const where = fallback === "cpu" ? 'engine.fallback is "cpu"' : `engine.devices is ${JSON.stringify(devices)}`;
    throw new AleError("config", `engine.storage is "${storage}", which GPUs alone have, but ${where}`, {
      hint: 'set engine.storage = "float32", or engine.devices to GPUs and engine.fallback = "none"',
    });
  }
  const sharing = devices.filter((device) => parseDevice(device).kind === "cpu").length;
  const threads = engine.threads ?? Math.max(1, Math.floor(availableParallelism() / Math.max(1, sharing)));
  const work = assignWork(poolPlacement(experiment), devices.length);
  return devices.map((device, rank) => ({ device, threads, work: work[rank] ?? "both" }));
}

/** Who trains and who generates. @throws AleError("config") for settings that contradict each other. */
export function poolPlacement({ engine, deterministic }: Experiment): PoolPlacement {
  const { placement: kind, trainers } = engine;
  if (deterministic && kind !== "shared") {
    throw new AleError("config", `engine.placement is "${kind}", but deterministic runs need "shared"`, {
      hint: 'set engine.placement = "shared", or deterministic = false',
    });
  }
  if (kind === "split") return { kind, trainers: trainers ?? 1 };
  if (trainers === undefined) return { kind };
  throw new AleError("config", `engine.trainers is ${trainers}, but engine.placement is "${kind}"`, {
    hint: 'set engine.placement = "split", or remove engine.trainers',
  });
}
