/** Processes that were stopped and not ended: control itself (Ctrl-Z and `fg`), and the launcher under it. */

import { expect, test } from "bun:test";
import { deadline } from "../../src/core/errors.ts";
import type { Wait } from "../../src/core/waits.ts";
import { finish, until, Workspace } from "./support.ts";

test("a limit that passed while the process could not run begins anew; one that passed while it could does not", async () => {
  const answered = Promise.withResolvers<string>();
  const waiting = deadline("an answer", 500, answered.promise);
  setTimeout(() => answered.resolve("there"), 2800);
  Bun.sleepSync(2700); // as if stopped: no timer fires
  expect(await waiting).toBe("there");
  await expect(deadline("an answer", 50, new Promise(() => {}))).rejects.toThrow("did not finish within 50 ms");
});

const [STEPS, GROUPS, GROUP_SIZE] = [4, 4, 4];
const numbers = (some: Readonly<Record<string, number>>) =>
  Object.entries(some).flatMap(([key, value]) => [`--${key}`, `${value}`]);

test("a launcher that is stopped under a run is named while it is waited for, then ended; the run goes on", async () => {
  using place = new Workspace();
  const evaluation = { "evaluation.every": 0, "evaluation.dev": 0, "evaluation.heldout": 2 };
  const shape = {
    "rollout.groups": GROUPS,
    "rollout.groupSize": GROUP_SIZE,
    "trainer.steps": STEPS,
    "service.port": 0,
  };
  const settings = numbers({ ...evaluation, ...shape });
  const child = place.ale("run", "experiments/shell.toml", "--out", place.path("run"), "--json", ...settings);
  const ended = finish(child);
  await until("step 1", () => place.metrics("run").length > 1);
  const [launcher] = place.launchers();
  process.kill(launcher as number, "SIGSTOP");
  const name = `a sign of life of the sandbox launcher, process ${launcher}`;
  let wait: Wait | undefined;
  for (let attempt = 0; attempt < 20 && wait === undefined; attempt++) {
    const { code, out } = await finish(place.ale("doctor", "--run", place.path("run"), "--json"));
    const { waiting } = code === 0 ? (JSON.parse(out) as { waiting: Wait[] }) : { waiting: [] };
    wait = waiting.find(({ forWhat }) => forWhat === name);
  }
  expect(wait).toMatchObject({ who: "sandboxes", deadline: (wait?.since ?? 0) + 15_000 });
  const { code, out, err } = await ended;
  expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  const events = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { type: string; reason?: string });
  const restarted = events.filter(({ type }) => type === "launcher.restarted");
  expect(restarted).toEqual([
    expect.objectContaining({ reason: expect.stringContaining("it gave no sign of life for 15 s"), restarts: 1 }),
  ]);
  const keys = place.episodes("run").map(({ key }) => key);
  expect(new Set(keys).size).toBe(STEPS * GROUPS * GROUP_SIZE);
  expect(keys).toHaveLength(STEPS * GROUPS * GROUP_SIZE);
  expect(Math.max(...place.metrics("run").map((row) => row["stop/sandbox_error"] ?? 0))).toBe(0);
}, 120_000);
