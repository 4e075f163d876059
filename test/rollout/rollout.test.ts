/** Rollout beside training, with scripted agents in real sandboxes. */

import { expect, test } from "bun:test";
import { compactFormat } from "../../src/agent/compact-format.ts";
import { AleError } from "../../src/core/errors.ts";
import { EventHub } from "../../src/core/events.ts";
import type { Policy, SandboxProvider } from "../../src/core/ports.ts";
import type { Trajectory } from "../../src/core/types.ts";
import { ScriptedPolicy } from "../../src/policy/scripted.ts";
import { alertMetrics, isDropped, trainableGroups } from "../../src/rollout/alerts.ts";
import { groupFilter } from "../../src/rollout/filter.ts";
import { Limiter } from "../../src/rollout/limiter.ts";
import { batchMetrics } from "../../src/rollout/metrics.ts";
import { Rollout, type RolloutParts, type RolloutSettings } from "../../src/rollout/rollout.ts";
import { Scene, tokenizer } from "./support.ts";

const BASE: RolloutSettings = {
  ...{ groups: 2, groupSize: 2, redundancy: 0, ratio: 0, policy: "greedy", retries: 0 },
};
const scene = new Scene("tree");
const { task } = scene;

const HANGS = ["sleep 1000"];

/** Plays the commands that `play` has for queue, number of the group in it, and member. */
function scripted(play: (queue: number, number: number, member: number) => readonly string[]): Policy {
  return {
    version: 0,
    open: (key) => {
      const [number = 0, queue = 0, member = 0] = key.split("/").map(Number);
      return new ScriptedPolicy(tokenizer, play(queue, number, member)).open();
    },
  };
}

function parts(
  policy: Policy,
  more: Partial<RolloutParts> = {},
  sandboxes: SandboxProvider = scene.provider,
): RolloutParts {
  const limiter = new Limiter(32);
  return {
    context: {
      policy,
      provider: sandboxes,
      format: compactFormat(tokenizer),
      limits: {
        maxTurns: 6,
        maxCommandTokens: 400,
        maxEpisodeTokens: 4000,
        maxObservationChars: 64,
        commandSeconds: 600,
      },
      sampling: { temperature: 1, greedy: false },
      grading: "clean",
      episodeMs: 600_000,
      sandboxes: new Limiter(4),
      hub: new EventHub(),
      signal: new AbortController().signal,
    },
    limiterOf: () => limiter,
    taskOf: () => task,
    keyOf: ({ group, episode }) => ({ episodes: `run/${episode}/${group}`, noise: `${episode}/${group}` }),
    ...more,
  };
}

const membersOf = (batch: { groups: readonly { trajectories: readonly Trajectory[] }[] }) =>
  batch.groups.map(({ trajectories }) => trajectories.map(({ member }) => member));

test("with redundancy the first of a group count, and a straggler is stopped", async () => {
  const rollout = new Rollout(
    { ...BASE, redundancy: 1 },
    parts(scripted((_, __, member) => (member === 1 ? HANGS : scene.solution))),
  );
  const batch = await rollout.collect(1);
  expect(membersOf(batch)).toEqual([
    [0, 2],
    [0, 2],
  ]);
  for (const { trajectories } of batch.groups) for (const { reward } of trajectories) expect(reward).toBe(1);
  const next = await rollout.collect(2);
  // The first batch's two, and whichever of the second's are gone by now.
  expect(batch.lead.counts.cancelled + next.lead.counts.cancelled).toBeOneOf([2, 3, 4]);
  await rollout.stop();
}, 30_000);

test("a redundant episode stands in for one that the guards raised an alert for; without one the group is smaller", async () => {
  const guards = { trajectories: "drop", reward: -1 } as const;
  const isSpoiled = (trajectory: Trajectory) => isDropped(trajectory, guards);
  const exploits = ["mkdir -p /logs/verifier", ...scene.solution];
  // The honest ones are slow, so that the exploit is among the first.
  const honest = ["sleep 0.7", ...scene.solution];
  const play = scripted((_, __, member) => (member === 0 ? exploits : honest));
  for (const [redundancy, useful] of [
    [0, 1],
    [1, 2],
  ] as const) {
    const rollout = new Rollout({ ...BASE, redundancy }, parts(play, { isSpoiled }));
    const { groups } = await rollout.collect(1);
    await rollout.stop();
    expect(membersOf({ groups })).toEqual(Array(2).fill(redundancy === 0 ? [0, 1] : [0, 1, 2]));
    expect(trainableGroups(groups, guards).map(({ trajectories }) => trajectories.length)).toEqual([useful, useful]);
    const counts = { "guards/dropped": 2, "guards/protected_write": 2, "guards/trajectories": 2 };
    expect(alertMetrics(groups, guards)).toMatchObject(counts);
  }
}, 30_000);

test("training does not wait for a group that hangs: it is dropped when it is too old", async () => {
  const hangs = scripted((queue, number) => (queue === 0 && number === 0 ? HANGS : scene.solution));
  const rollout = new Rollout({ ...BASE, ratio: 1 }, parts(hangs));
  const batches = [];
  for (let step = 1; step <= 3; step++) batches.push(await rollout.collect(step));
  expect(batches.map(({ lead }) => lead.counts.dropped)).toEqual([0, 0, 1]);
  for (const batch of batches) {
    expect(Math.max(...batch.lead.ages)).toBeLessThanOrEqual(1);
    expect(batch.groups.map(({ groupId }) => groupId)).not.toContain("run/0/0");
    expect(batchMetrics(batch, 0)["async/age/max"]).toBe(Math.max(...batch.lead.ages));
  }
  await rollout.stop();
}, 30_000);

test("groups that teach nothing are replaced, but not for ever", async () => {
  const filter = { equal: true, minStd: 0, attempts: 2 };
  // the third group of queue 1 is the first with a spread; queue 0 never has one
  const play = scripted((queue, number, member) => (queue === 1 && number === 2 && member === 0 ? scene.solution : []));
  const rollout = new Rollout(BASE, parts(play, { reject: groupFilter(filter) }));
  const { groups, lead } = await rollout.collect(1);
  expect(groups.map(({ groupId }) => groupId)).toEqual(["run/2/0", "run/2/1"]);
  expect(lead.counts.filtered).toBe(4);
  await rollout.stop();
}, 30_000);

test("an episode is tried again when its sandbox failed, and the run ends where that does not help", async () => {
  let failures = 3;
  const shaky = new Proxy(scene.provider, {
    get: (target, name) => {
      if (name !== "create" || failures-- <= 0)
        return Reflect.get(target, name).bind?.(target) ?? Reflect.get(target, name);
      return () => Promise.reject(new AleError("sandbox", "no room for a sandbox"));
    },
  });
  const rollout = new Rollout(
    { ...BASE, retries: 2 },
    parts(
      scripted(() => scene.solution),
      {},
      shaky,
    ),
  );
  const { groups, lead } = await rollout.collect(1);
  expect(lead.counts.retried).toBe(3);
  expect(groups.flatMap(({ trajectories }) => trajectories.map(({ reward }) => reward))).toEqual([1, 1, 1, 1]);
  failures = Number.POSITIVE_INFINITY;
  const ended = await rollout.collect(2).catch((error: unknown) => error);
  expect(String(ended)).toContain("no room for a sandbox");
  await rollout.stop();
}, 30_000);

test("episodes outlive a launcher, and the next one", async () => {
  let commands: readonly string[] = HANGS;
  let began = 0;
  const everything = parts(scripted(() => commands));
  everything.context.hub.on("episode.phase", ({ phase }) => {
    if (phase === "tool") began++;
  });
  const rollout = new Rollout({ ...BASE, groupSize: 10, retries: 3 }, everything);
  const collected = rollout.collect(1);
  collected.catch(() => {});
  for (const times of [1, 2]) {
    while (began < 20 * times) await Bun.sleep(10);
    if (times === 2) commands = scene.solution;
    process.kill(scene.provider.launcherPid, "SIGKILL");
  }
  const { groups, lead } = await collected;
  expect(lead.counts.retried).toBe(40);
  expect(groups.flatMap(({ trajectories }) => trajectories.map(({ reward }) => reward))).toEqual(Array(20).fill(1));
  await rollout.stop();
}, 60_000);

test("what was collected ahead is not collected again by a run that goes on", async () => {
  let ended = 0;
  const count = { onEpisode: () => ended++ };
  const first = new Rollout(
    { ...BASE, ratio: 1 },
    parts(
      scripted(() => scene.solution),
      count,
    ),
  );
  await first.collect(1);
  while (ended < 8) await Bun.sleep(10);
  const { state, done } = first.state();
  await first.stop();
  expect(done).toHaveLength(4);
  const [lost, ...kept] = done;
  const resumed = { state: JSON.parse(JSON.stringify(state)), done: kept };
  const second = new Rollout(
    { ...BASE, ratio: 1 },
    parts(
      scripted(() => scene.solution),
      count,
    ),
    resumed,
  );
  const batch = await second.collect(2);
  expect(new Set(batch.groups.map(({ groupId }) => groupId)).size).toBe(2);
  const again = new Set(batch.groups.flatMap(({ trajectories }) => trajectories.filter((one) => !kept.includes(one))));
  for (const { groupId, episodeId } of again)
    expect(episodeId === lost?.episodeId || groupId.startsWith("run/2/")).toBeTrue();
  await second.stop();
}, 30_000);
