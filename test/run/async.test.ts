/** Asynchronous runs through the command line: bounded staleness, and exactly once whatever is killed. */

import { afterAll, expect, test } from "bun:test";
import { finish, until, Workspace } from "./support.ts";

const STEPS = 5;
const GROUPS = 4;
const GROUP_SIZE = 4;
const SETTINGS = [
  ...[
    "--no-serve",
    "--rollout.groups",
    `${GROUPS}`,
    "--rollout.groupSize",
    `${GROUP_SIZE}`,
    "--trainer.steps",
    `${STEPS}`,
  ],
  ...["--evaluation.every", "0", "--evaluation.dev", "0", "--evaluation.heldout", "4", "--sandbox.warm", "8"],
];

const place = new Workspace();
afterAll(() => place[Symbol.dispose]());

function run(name: string, ...more: string[]) {
  return place.ale("run", "experiments/shell.toml", "--out", place.path(name), ...SETTINGS, ...more);
}

/** Every step has its groups, whole, and no episode is there twice. */
function expectExactlyOnce(name: string): void {
  const episodes = place.episodes(name);
  expect(new Set(episodes.map(({ key }) => key)).size).toBe(episodes.length);
  for (let step = 1; step <= STEPS; step++) {
    const own = episodes.filter((episode) => episode.step === step);
    expect(own).toHaveLength(GROUPS * GROUP_SIZE);
    const groups = new Set(own.map(({ key }) => key.slice(0, key.lastIndexOf("/"))));
    expect(groups.size).toBe(GROUPS);
  }
  expect(episodes).toHaveLength(STEPS * GROUPS * GROUP_SIZE);
}

function expectBounded(name: string, ratio: number): void {
  const rows = place.metrics(name).slice(1);
  expect(rows).toHaveLength(STEPS);
  for (const row of rows) {
    expect(row["async/age/max"]).toBeLessThanOrEqual(Math.ceil(ratio));
    expect(row["async/staleness/max"]).toBeLessThanOrEqual(Math.ceil(ratio));
  }
}

test("rollout runs ahead, by no more than the ratio", async () => {
  for (const ratio of [2, 0.5]) {
    const name = `ratio-${ratio}`;
    const { code, err } = await finish(run(name, "--async.ratio", `${ratio}`));
    expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
    expectExactlyOnce(name);
    expectBounded(name, ratio);
    expect(Math.max(...place.metrics(name).map((row) => row["async/age/max"] ?? 0))).toBeGreaterThan(0);
  }
}, 120_000);

test("kill -9, then resume: exactly once, and what had been collected ahead is trained on", async () => {
  const child = run("killed", "--async.ratio", "2");
  await until("step 2", () => place.metrics("killed").length >= 3);
  child.kill("SIGKILL");
  await child.exited;
  const killedAt = Date.now();
  const committed = place.metrics("killed").length - 1;
  const { code, err } = await finish(place.ale("resume", place.path("killed"), "--no-serve"));
  expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  expectExactlyOnce("killed");
  expectBounded("killed", 2);
  const kept = place.episodes("killed").filter(({ step, startedAt }) => step > committed && startedAt < killedAt);
  expect(kept.length).toBeGreaterThan(0);
}, 120_000);

test("engine and launcher killed: episodes are tried again and the run goes on", async () => {
  const child = run("parts-killed", "--async.ratio", "1");
  for (const [step, victims] of [
    [1, () => place.processes("--ale-role=engine")],
    [2, () => place.launchers()],
  ] as const) {
    await until(`step ${step}`, () => place.metrics("parts-killed").length > step);
    const pids = victims();
    expect(pids).toHaveLength(1);
    for (const pid of pids) process.kill(pid, "SIGKILL");
  }
  const { code, err } = await finish(child);
  expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  expectExactlyOnce("parts-killed");
  const failed = place.metrics("parts-killed").map((row) => row["stop/sandbox_error"] ?? 0);
  expect(Math.max(...failed)).toBe(0);
}, 120_000);

test("Ctrl-C finishes the step", async () => {
  const child = run("stopped", "--async.ratio", "1");
  await until("step 1", () => place.metrics("stopped").length > 1);
  child.kill("SIGINT");
  const { code, err } = await finish(child);
  expect(code).toBe(130);
  expect(err).toContain("ale resume");
  const before = place.metrics("stopped").length;
  expect(place.episodes("stopped")).toHaveLength((before - 1) * GROUPS * GROUP_SIZE);
  expect((await finish(place.ale("resume", place.path("stopped"), "--no-serve"))).code).toBe(0);
  expectExactlyOnce("stopped");
}, 120_000);

test("a run is replayed from what it recorded: the same updates, step by step", async () => {
  const learned = (name: string) =>
    place.metrics(name).map((row) => [row["actor/grad_norm"], row["actor/pg_loss"], row["critic/rewards/mean"]]);
  expect((await finish(run("recorded", "--async.ratio", "1"))).code).toBe(0);
  const { code, err } = await finish(run("replayed", "--async.ratio", "1", "--replay", place.path("recorded")));
  expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  expect(learned("replayed")).toEqual(learned("recorded"));
  expectExactlyOnce("replayed");
  const more = await finish(run("longer", "--trainer.steps", "9", "--replay", place.path("recorded")));
  expect(more.code).toBe(2);
  expect(more.err).toContain("--trainer.steps 5");
}, 120_000);
