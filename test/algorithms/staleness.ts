/** Golden vectors of the group queues (`07`): scripted events, one expected result each. */

import { z } from "zod";
import { GroupQueues } from "../../src/rollout/group-queues.ts";
import type { Batch, Effects } from "../../src/rollout/slots.ts";
import { compareExact, compareNumber, type Operation } from "./compare.ts";

const ConfigSchema = z.object({
  groups: z.number(),
  envs_per_group: z.number(),
  group_size: z.number(),
  redundancy: z.number(),
  max_traj_per_env: z.number(),
  async_ratio: z.number(),
  policy: z.enum(["greedy", "rounds"]),
  batch_groups: z.number(),
  filter: z.literal("equal_scores").optional(),
  /** Only in our own cases: by default queues are those of ROLL. */
  in_order: z.boolean().default(true),
  replace: z.boolean().default(false),
});

const EventSchema = z.union([
  z.tuple([z.literal("advance"), z.number()]),
  z.tuple([z.literal("request"), z.number()]),
  z.tuple([z.literal("put"), z.number(), z.number()]),
  z.tuple([z.literal("get_batch"), z.number(), z.number()]),
]);
type Event = z.infer<typeof EventSchema>;

const QueueSchema = z.object({
  inputs: z.object({ config: ConfigSchema, events: z.array(EventSchema) }),
  expected: z.object({
    results: z.array(z.record(z.string(), z.unknown())),
    summary: z.looseObject({ mean_staleness: z.number(), max_staleness: z.number() }),
  }),
});

/** A result in the words of the golden file. */
type Result = Record<string, unknown>;

function checkQueue(golden: unknown): string {
  const { inputs, expected } = QueueSchema.parse(golden);
  const { config, events } = inputs;
  const queues = new GroupQueues<number>({
    groups: config.groups,
    environmentsPerGroup: config.envs_per_group,
    groupSize: config.group_size,
    redundancy: config.redundancy,
    slotsPerStep: config.max_traj_per_env,
    ratio: config.async_ratio,
    policy: config.policy,
    inOrder: config.in_order,
    replace: config.replace,
    ...(config.filter === undefined ? {} : { reject: (scores) => new Set(scores).size === 1 }),
  });
  const staleness: number[] = [];
  for (const [i, event] of events.entries()) {
    const { result, batch } = apply(queues, event);
    staleness.push(...(batch?.slots.map((slot) => slot.staleness) ?? []));
    compareExact(`result ${i} of ${JSON.stringify(event)}`, sorted(result), sorted(expected.results[i] as Result));
  }
  compareExact("results", events.length, expected.results.length);
  const total = staleness.reduce((sum, value) => sum + value, 0);
  compareNumber("mean_staleness", total / Math.max(1, staleness.length), expected.summary.mean_staleness);
  compareExact("max_staleness", Math.max(0, ...staleness), expected.summary.max_staleness);
  return "";
}

function apply(queues: GroupQueues<number>, event: Event): { result: Result; batch?: Batch<number> | undefined } {
  switch (event[0]) {
    case "request":
      return { result: { episode: queues.request(event[1]) ?? null } };
    case "advance": {
      const { dropped, served, batch } = queues.advance(event[1]);
      const rows = dropped.map(({ group, episode, createStep, results }) => [group, episode, createStep, results]);
      return { result: { dropped: rows, served: pairs(served), ...ready(batch) }, batch };
    }
    case "put": {
      const { episode, outcome, served, batch } = queues.put(event[1], event[2]);
      const woken = outcome === "filtered" ? { served: pairs(served) } : {};
      return { result: { episode, result: outcome, ...woken, ...ready(batch) }, batch };
    }
    case "get_batch": {
      const batch = queues.takeBatch(event[1], event[2]);
      return { result: batch === undefined ? { batch: "waiting", have: queues.collected } : ready(batch), batch };
    }
  }
}

function pairs(served: Effects<number>["served"]): number[][] {
  return served.map(({ environment, episode }) => [environment, episode]);
}

function ready(batch: Batch<number> | undefined): Result {
  if (batch === undefined) return {};
  return {
    batch: "ready",
    groups: batch.slots.map(({ group, episode, createStep, staleness, results }) => [
      ...[group, episode, createStep, staleness],
      results.map(({ environment }) => environment),
    ]),
    discarded: batch.discarded.map(({ group, episode, createStep, staleness }) => [
      group,
      episode,
      createStep,
      staleness,
    ]),
  };
}

function sorted(result: Result): string {
  return JSON.stringify(Object.entries(result).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export const STALENESS: readonly Operation[] = [
  "timeline/",
  "straggler/",
  "fifo/",
  "filter/",
  "redundancy/",
  "ready/",
  "simulated/",
  "fraction/",
].map((prefix) => [prefix, checkQueue] as const);
