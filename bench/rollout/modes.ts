/**
 * The modes that are compared, as settings of a run and as the schedule that the simulator plays; and what all of them share:
 * the same policy, tasks and budget on two engines of one thread each.
 */

import type { LatencyLaw } from "../../src/config/latency.ts";
import { LAWS, type LawName } from "./laws.ts";
import type { Schedule } from "./setup.ts";

export const GROUPS = 1;
export const GROUP_SIZE = 8;
export const MINIBATCHES = 1;
/** Episodes in flight; every mode may have as many. With more, engines work on all groups at once, which then end in bursts. */
export const CONCURRENCY = 32;
/** What a decode step of the policy takes, by as many added layers as that needs here (`deep-policy.ts`, `depth.ts`). */
export const DECODE_MS = 7;
/**
 * What makes generation about twice the work that training is (ADR 34): decode batches of few rows, adapters in place of all
 * weights, and the least standard deviation of a group's rewards, below which it is replaced: three to five successes of eight
 * have it.
 */
export const SLOTS = 2;
const LORA_RANK = 4;
/** Not what `deep-policy.ts` sets to zero, so that added layers go on adding nothing. */
const LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"];
const LEAST_SPREAD = 0.5;
/** Small, so that all engines have an equal share of an update. */
export const MICRO_BATCH_TOKENS = 512;
const LEARNING_RATE = 1e-4;
const EPISODE_SECONDS = 60;
/** How far the asynchronous modes run ahead, unless told otherwise: under law A the simulator has devices idle below that. */
export const RATIO = 8;

export interface Mode {
  readonly name: string;
  /** Steps that rollout may be ahead, given how many the asynchronous modes are. */
  readonly ratio: (asynchronous: number) => number;
  /** `engine.placement`, where it is not the default. */
  readonly placement: Schedule["placement"];
}

export const MODES: readonly Mode[] = [
  { name: "sync", ratio: () => 0, placement: { kind: "shared" } },
  { name: "async-split", ratio: (ratio) => ratio, placement: { kind: "split", trainers: 1 } },
  { name: "async-shared", ratio: (ratio) => ratio, placement: { kind: "shared" } },
  { name: "async-elastic", ratio: (ratio) => ratio, placement: { kind: "elastic" } },
];

/** Overrides of `ale run` that every mode has. */
export function commonSettings(model: string, steps: number, seed: number): string[] {
  return settings({
    seed,
    "model.path": model,
    "lora.rank": LORA_RANK,
    "lora.targets": JSON.stringify(LORA_TARGETS),
    "optimizer.lr": LEARNING_RATE,
    "engine.devices": '["cpu", "cpu"]',
    "engine.threads": 1,
    "engine.slots": SLOTS,
    "trainer.microBatchTokens": MICRO_BATCH_TOKENS,
    "trainer.executor": "layers",
    "rollout.groups": GROUPS,
    "rollout.groupSize": GROUP_SIZE,
    "rollout.concurrency": CONCURRENCY,
    "rollout.episodeSeconds": EPISODE_SECONDS,
    "rollout.filter.minStd": LEAST_SPREAD,
    // one sandbox per episode and not two: what sandboxes compute is taken from the engines' cores
    "sandbox.grading": "stopped",
    "trainer.steps": steps,
    "trainer.minibatches": MINIBATCHES,
    "evaluation.every": 0,
    "evaluation.dev": 0,
    "evaluation.heldout": 0,
    "timeline.keep": steps + 1,
    "service.enabled": false,
  });
}

/** Only what differs from the defaults, so that a build without a setting can still run the modes that do not need it. */
export function modeSettings({ ratio, placement }: Mode, asynchronous: number): string[] {
  const steps = ratio(asynchronous);
  return settings({
    ...(steps > 0 && { "async.ratio": steps }),
    ...(placement.kind !== "shared" && { "engine.placement": placement.kind }),
    ...(placement.kind === "split" && { "engine.trainers": placement.trainers }),
  });
}

export function lawSettings(law: LawName): string[] {
  const { type, ...numbers }: LatencyLaw = LAWS[law];
  const prefixed = Object.entries(numbers).map(([name, value]) => [`rollout.latency.${name}`, value]);
  return settings({ "rollout.latency.type": type, ...Object.fromEntries(prefixed) });
}

/** What the simulator makes of a mode. */
export function scheduleOf(mode: Mode, asynchronous: number): Schedule {
  return {
    devices: 2,
    placement: mode.placement,
    ratio: mode.ratio(asynchronous),
    policy: "greedy",
    trainShare: 0.5,
    recompute: true,
  };
}

export const EPISODE_MS = EPISODE_SECONDS * 1000;

function settings(values: Readonly<Record<string, string | number | boolean>>): string[] {
  return Object.entries(values).flatMap(([key, value]) => [`--${key}`, String(value)]);
}
