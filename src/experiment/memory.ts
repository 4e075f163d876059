/** Memory that a run will need, and whether there is enough. */

import type { Experiment } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import { engineOptions } from "../device/engine-pool.ts";
import { type MemoryPlan, planMemory } from "../device/memory-plan.ts";
import { availableMemory } from "../runtime/process.ts";
import { planEngines, poolPlacement } from "./engine-plan.ts";
import { policyFromFolder, startingPolicy } from "./policy-source.ts";
import { engineSettings } from "./resources.ts";
import { localTeachers, teacherEngine } from "./teacher.ts";

export interface DeviceMemory extends MemoryPlan {
  readonly device: string;
}

/** Name of the engine of a teacher. */
const TEACHER = "cpu (teacher)";

type Source = Parameters<typeof engineSettings>[1];

/** One entry per engine, and one for the largest teacher on this machine: teachers of stages come one after the other. */
export function predictMemory(experiment: Experiment, source: Source): readonly DeviceMemory[] {
  const devices = planEngines(experiment).map(({ device }) => device);
  const options = engineOptions({
    devices,
    folder: "",
    sequences: experiment.rollout.concurrency,
    placement: poolPlacement(experiment),
    engine: engineSettings(experiment, source),
  });
  const engines = options.map((own, rank) => ({ device: devices[rank] as string, ...planMemory(own) }));
  const teachers = localTeachers(experiment).map((folder) => ({
    device: TEACHER,
    ...planMemory(teacherEngine(policyFromFolder(folder), experiment, "")),
  }));
  const [largest] = teachers.toSorted((a, b) => b.predictedBytes - a.predictedBytes);
  return largest === undefined ? engines : [...engines, largest];
}

/** As `predictMemory`, for the policy the experiment starts from; nothing for an experiment that names none. */
export function predictRunMemory(experiment: Experiment): readonly DeviceMemory[] {
  if (experiment.model.path === undefined) return [];
  const source = startingPolicy(experiment);
  const fitted = experiment.engine.fit === "auto" ? fitMemory(experiment, source).experiment : experiment;
  return predictMemory(fitted, source);
}

/** Bytes of all engines of the processor together; the store is one for all. */
function processorBytes(devices: readonly DeviceMemory[]): number {
  const isTeacher = ({ device }: DeviceMemory) => device === TEACHER;
  const engines = devices.filter((each) => each.device.startsWith("cpu") && !isTeacher(each));
  const teacher = devices.find(isTeacher)?.predictedBytes ?? 0;
  const sharedBytes = ({ parts }: DeviceMemory) => parts.weights + parts.moments;
  const shared = Math.max(0, ...engines.map(sharedBytes));
  return engines.reduce((sum, engine) => sum + engine.predictedBytes - sharedBytes(engine), shared + teacher);
}

/**
 * The experiment as it fits into memory: itself, or with `engine.fit = "auto"` the least slow of the smaller forms that do.
 * @param available bytes that engines may take. @throws AleError("config") naming settings with which it would fit.
 */
export function fitMemory(experiment: Experiment, source: Source, available = availableMemory()): Fitted {
  const needed = processorBytes(predictMemory(experiment, source));
  if (needed <= available) return { experiment, settings: [] };
  const fitting = smaller(experiment).find(
    (candidate) => processorBytes(predictMemory(candidate.experiment, source)) <= available,
  );
  if (fitting !== undefined && experiment.engine.fit === "auto") return fitting;
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(1);
  throw new AleError(
    "config",
    `the run needs ${gigabytes(needed)} GB of memory, but ${gigabytes(available)} GB are available`,
    {
      hint:
        fitting === undefined
          ? "train adapters (add a [lora] table), or take a smaller model; `--dry-run` shows what takes the memory"
          : `it would fit with ${fitting.settings.join(", ")}; engine.fit = "auto" takes them by itself`,
    },
  );
}

export interface Fitted {
  readonly experiment: Experiment;
  /** What was changed, as `key = value`. */
  readonly settings: readonly string[];
}

/** The same experiment with less and less memory: slower training, then smaller batches, caches and decode batches. */
function smaller(experiment: Experiment): readonly Fitted[] {
  const candidates: Fitted[] = [];
  let trainer = { ...experiment.trainer, executor: "layers" as const };
  let engine = experiment.engine;
  const settings = new Map([["trainer.executor", '"layers"']]);
  const add = () =>
    candidates.push({
      experiment: { ...experiment, trainer, engine },
      settings: [...settings].map(([key, value]) => `${key} = ${value}`),
    });
  add();
  for (let tokens = trainer.microBatchTokens / 2; tokens >= 256; tokens /= 2) {
    trainer = { ...trainer, microBatchTokens: Math.ceil(tokens) };
    settings.set("trainer.microBatchTokens", String(trainer.microBatchTokens));
    add();
  }
  for (let cacheGb = engine.cacheGb / 2; cacheGb >= 0.05; cacheGb /= 2) {
    engine = { ...engine, cacheGb };
    settings.set("engine.cacheGb", String(cacheGb));
    add();
  }
  for (let slots = engine.slots / 2; slots >= 4; slots /= 2) {
    engine = { ...engine, slots: Math.ceil(slots) };
    settings.set("engine.slots", String(engine.slots));
    add();
  }
  return candidates;
}
