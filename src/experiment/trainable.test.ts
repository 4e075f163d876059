import { expect, test } from "bun:test";
import { sampleTrajectory } from "../../test/sample-run.ts";
import { FilterSchema } from "../config/async.ts";
import { ExperimentSchema } from "../config/experiment.ts";
import type { Alert } from "../core/alerts.ts";
import type { Group, Trajectory } from "../core/types.ts";
import { alertMetrics, isDropped, trainable, trainableGroups } from "../rollout/alerts.ts";
import { groupFilter } from "../rollout/filter.ts";
import { buildBatch } from "../trainer/batch.ts";

const ALERT: Alert = { kind: "tunnel", at: 0, turn: 0, evidence: "ssh -R", action: "stop" };
const DROP = { trajectories: "drop", reward: -1 } as const;
const PUNISH = { ...DROP, trajectories: "punish" } as const;
const KEEP = { ...DROP, trajectories: "keep" } as const;

/** Members by their rewards; those with `!` have an alert. */
function group(...members: readonly (number | `${number}!`)[]): Group {
  const trajectories = members.map((text, member): Trajectory => {
    const of = { id: `g/${member}`, group: "g", member, family: "f", split: "train", solved: false } as const;
    const alerts = typeof text === "string" ? { alerts: [ALERT] } : {};
    const made = sampleTrajectory({ ...of, seed: 1, version: 0 });
    return { ...made, stopReason: "done", reward: Number.parseFloat(String(text)), ...alerts };
  });
  return { groupId: "g", taskId: "t", trajectories };
}

const rewards = (members: readonly Trajectory[]) => members.map(({ reward }) => reward);

test("drop leaves members out, punish sets their reward, keep does neither", () => {
  const { trajectories } = group(1, "1!", 0);
  expect(rewards(trainable(trajectories, DROP))).toEqual([1, 0]);
  expect(rewards(trainable(trajectories, PUNISH))).toEqual([1, -1, 0]);
  expect(rewards(trainable(trajectories, KEEP))).toEqual([1, 1, 0]);
  expect(trajectories.map((one) => isDropped(one, DROP))).toEqual([false, true, false]);
  expect(trajectories.some((one) => isDropped(one, PUNISH) || isDropped(one, KEEP))).toBe(false);
});

/** Advantages of the episodes that take part, by member. */
function advantages(groups: readonly Group[], config: typeof DROP | typeof PUNISH | typeof KEEP, type = "reinforce") {
  const collected = { groups: trainableGroups(groups, config), forks: [], imitations: [], metrics: {} };
  const { job } = buildBatch(ExperimentSchema.parse({ algorithm: { type } }), collected, 1);
  return job?.advantages.map((row_T, i) => row_T[job.masks[i]?.indexOf(1) as number]) ?? [];
}

test("what is dropped counts neither by itself nor in its group; what is punished counts as told", () => {
  const groups = [group(1, 0, "1!")];
  expect(advantages(groups, DROP)).toEqual([0.5, -0.5]);
  expect(advantages(groups, PUNISH)).toEqual([1, -1]); // the failure is the mean now
  expect(advantages(groups, KEEP).map((value) => Math.round((value ?? 0) * 3))).toEqual([1, -2, 1]);
});

test.each(["reinforce", "grpo", "rloo", "reinforce_plus_plus", "gigpo", "ipa"])(
  "%s: groups of which one or no member is left",
  (type) => {
    const values = advantages([group("1!", "0!"), group(1, "0!"), group(1, 0)], DROP, type);
    expect(values.every(Number.isFinite)).toBe(true);
    expect(values.length).toBeGreaterThanOrEqual(2);
    expect(advantages([group("1!", "0!")], DROP, type)).toEqual([]);
  },
);

test("a filter judges what training sees, and a queue does not wait for ever", () => {
  const judge = groupFilter(FilterSchema.parse({ attempts: 2, equal: false }));
  const reject = (one: Group) => judge(trainable(one.trajectories, DROP), { group: 0, episode: 0 });
  const equal = groupFilter(FilterSchema.parse({}));
  const slot = { group: 0, episode: 0 };
  expect(equal(trainable(group(1, "0!", 1).trajectories, DROP), slot)).toBe(true);
  expect(equal(trainable(group(1, "0!", 0).trajectories, DROP), slot)).toBe(false);
  expect(reject(group("1!", "1!"))).toBe(true);
  expect(reject(group("1!", "1!"))).toBe(true);
  expect(reject(group("1!", "1!"))).toBe(false);
});

test("metrics count trajectories, by kind and by what became of them", () => {
  const scan = { ...ALERT, kind: "scan" } as const;
  const some = group(1, "1!", "0!", 0);
  const [first, second, third, fourth] = some.trajectories as [Trajectory, Trajectory, Trajectory, Trajectory];
  const groups = [{ ...some, trajectories: [first, { ...second, alerts: [ALERT, ALERT, scan] }, third, fourth] }];
  expect(alertMetrics(groups, DROP)).toEqual({
    ...{ "guards/tunnel": 2, "guards/scan": 1, "guards/mining": 0, "guards/protected_write": 0 },
    ...{ "guards/fork_storm": 0, "guards/output_flood": 0 },
    ...{ "guards/trajectories": 2, "guards/dropped": 2, "guards/punished": 0 },
  });
  expect(alertMetrics(groups, PUNISH)).toMatchObject({ "guards/dropped": 0, "guards/punished": 2 });
});
