/**
 * The modes that are compared, as settings of a run and as the schedule that the simulator plays; and what all of them share:
 * the same policy, tasks and budget on two engines of one thread each.
 */

import type { LatencyLaw } from "../../src/config/latency.ts";
import { LAWS, type LawName } from "./laws.ts";
import type { Schedule } from "./setup.ts";

export const GROUPS = 32;
export const GROUP_SIZE = 8;
export const MINIBATCHES = 1;
/** Episodes in flight; every mode may have as many. */
export const CONCURRENCY = 512;
/**
 * Rows of a decode batch, and the least standard deviation of a group's rewards: with so few rows, and with groups replaced
 * that teach little, generation is about twice the work that training is: 1.3 to 3.2 times under law A
 * (`docs/throughput.md`).
 */
export const SLOTS = 2;
const LEAST_SPREAD = 0.5;
const EPISODE_SECONDS = 60;
/** How far the asynchronous modes run ahead, unless told otherwise: under law A the simulator has devices idle below that. */
export const RATIO = 4;

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
export function commonSettings(steps: number, seed: number, heldout: number): string[] {
  return settings({
    seed,
    "engine.devices": '["cpu", "cpu"]',
    "engine.threads": 1,
    "engine.slots": SLOTS,
    "rollout.groups": GROUPS,
    "rollout.groupSize": GROUP_SIZE,
    "rollout.concurrency": CONCURRENCY,
    "rollout.episodeSeconds": EPISODE_SECONDS,
    "rollout.filter.minStd": LEAST_SPREAD,
    "trainer.steps": steps,
    "trainer.minibatches": MINIBATCHES,
    "evaluation.every": 0,
    "evaluation.dev": 0,
    "evaluation.heldout": heldout,
    "evaluation.greedy": false,
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
