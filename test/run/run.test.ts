/** Whole runs through the command line: reproducible, killed at any moment, resumed exactly once. */

import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { selfCommand } from "../../src/device/self.ts";

const place = mkdtempSync(join(tmpdir(), "ale-run-"));
const REPOSITORY = join(import.meta.dir, "../..");
const MAIN = selfCommand("engine").slice(0, -1);
const STEPS = 4;
const GROUPS = 4;
const GROUP_SIZE = 4;
const EVALUATED = 14;

const SETTINGS = [
  ...["--deterministic", "--no-serve", "--rollout.groups", `${GROUPS}`, "--rollout.groupSize", `${GROUP_SIZE}`],
  ...["--trainer.steps", `${STEPS}`, "--evaluation.every", "2", "--evaluation.dev", "14"],
  ...["--evaluation.heldout", `${EVALUATED}`, "--sandbox.warm", "8"],
];

/** Training episodes, and evaluations after steps 0, 2 and 4: dev, held-out sampled and greedy. */
const EPISODES = STEPS * GROUPS * GROUP_SIZE + 3 * 3 * EVALUATED;

const environment = { ...process.env, ALE_HOME: join(place, "home"), NO_COLOR: "1" };

afterAll(() => rmSync(place, { recursive: true, force: true }));

function ale(...args: string[]) {
  return Bun.spawn([...MAIN, ...args], {
    cwd: REPOSITORY,
    env: environment,
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function finish(child: ReturnType<typeof ale>): Promise<{ code: number; out: string; err: string }> {
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}

function run(name: string, ...more: string[]) {
  return ale("run", "experiments/shell.toml", "--out", join(place, name), ...SETTINGS, ...more);
}

/** Metrics without measured times: these must be a function of the seed. */
function metrics(name: string): unknown[] {
  const lines = readFileSync(join(place, name, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n");
  return lines.map((line) => {
    const entries = Object.entries(JSON.parse(line) as Record<string, unknown>);
    return Object.fromEntries(entries.filter(([key]) => !/^(timing_s|perf)\//.test(key)).sort());
  });
}

function summary(name: string): { status: string; steps: number; episodes: number } {
  return JSON.parse(readFileSync(join(place, name, "summary.json"), "utf8"));
}

async function until(what: string, condition: () => boolean, ms = 60_000): Promise<void> {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await Bun.sleep(20);
  }
}

function processes(pattern: string): string[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, "utf8").includes(pattern);
      } catch {
        return false;
      }
    });
}

const steps = (name: string) => {
  const file = join(place, name, "metrics.jsonl");
  return existsSync(file) ? readFileSync(file, "utf8").trim().split("\n").length - 1 : -1;
};

test("two deterministic runs with the same seed have the same metrics, and leave all results", async () => {
  for (const name of ["first", "second"]) {
    const { code, err } = await finish(run(name));
    expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  }
  expect(metrics("first")).toHaveLength(STEPS + 1);
  expect(metrics("second")).toEqual(metrics("first"));
  expect(summary("first")).toMatchObject({ status: "finished", steps: STEPS, episodes: EPISODES });
  const files = readdirSync(join(place, "first"));
  for (const file of [
    "config.toml",
    "policy",
    "report.html",
    "summary.json",
    "trajectories.jsonl",
    "trajectories.parquet",
  ]) {
    expect(files).toContain(file);
  }
  expect(files).not.toContain("state");
}, 180_000);

test("kill -9 at any moment, then resume: nothing lost, nothing doubled, the same metrics", async () => {
  for (const [name, afterSteps, delay] of [
    ["killed-early", 0, 150],
    ["killed-late", 2, 420],
  ] as const) {
    const child = run(name);
    await until(`${name} to commit step ${afterSteps}`, () => steps(name) >= afterSteps);
    await Bun.sleep(delay);
    child.kill("SIGKILL");
    await child.exited;
    await until("its processes to end", () => processes(join(place, "home")).length === 0, 1500);
    const { code, err } = await finish(ale("resume", join(place, name), "--no-serve"));
    expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
    expect(summary(name)).toMatchObject({ status: "finished", steps: STEPS, episodes: EPISODES });
    expect(metrics(name)).toEqual(metrics("first"));
  }
}, 240_000);

test("an engine killed in the middle does not end the run, and changes nothing", async () => {
  const child = run("engine-killed");
  await until("step 1", () => steps("engine-killed") >= 1);
  const engine = processes(join(place, "home")).find((pid) =>
    readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("--ale-role=engine"),
  );
  process.kill(Number(engine), "SIGKILL");
  const { code, out } = await finish(child);
  expect(code).toBe(0);
  expect(out).toContain("engine");
  expect(metrics("engine-killed")).toEqual(metrics("first"));
}, 120_000);

test("two engines do what one does, to the bit every time, and when each of them is killed", async () => {
  const small = ["--engine.threads", "1", "--trainer.steps", "2", "--evaluation.dev", "0", "--evaluation.heldout", "4"];
  const two = [...small, "--engine.devices", "cpu,cpu"];
  const engines = () =>
    processes(join(place, "home")).filter((pid) => {
      const command = existsSync(`/proc/${pid}`) ? readFileSync(`/proc/${pid}/cmdline`, "utf8") : "";
      return command.includes("--ale-role=engine");
    });
  for (const [name, settings] of [
    ["one-engine", small],
    ["two-engines", two],
  ] as const) {
    expect((await finish(run(name, ...settings))).code).toBe(0);
  }
  const child = run("two-killed", ...two);
  await until("both engines", () => steps("two-killed") >= 0 && engines().length === 2);
  const [first, second] = engines();
  process.kill(Number(second), "SIGKILL");
  await until("step 1", () => steps("two-killed") >= 1);
  process.kill(Number(first), "SIGKILL");
  const { code, err, out } = await finish(child);
  expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  expect(out).toContain("engine 0 (cpu) was restarted");
  expect(out).toContain("engine 1 (cpu) was restarted");
  expect(metrics("two-killed")).toEqual(metrics("two-engines"));

  // Until the weights differ in their last bits, so that a token may turn out differently.
  const [expected, got] = ["one-engine", "two-engines"].map((name) => metrics(name)[1] as Record<string, number>);
  expect(Object.keys(got ?? {})).toEqual(Object.keys(expected ?? {}));
  for (const [key, value] of Object.entries(expected ?? {}))
    if (!key.startsWith("val/") && !key.startsWith("rollout_corr/")) expect(got?.[key]).toBeCloseTo(value, 4);
}, 120_000);

test("an interrupt saves, cleans up, says how to go on and exits with 130", async () => {
  const child = run("interrupted");
  await until("step 1", () => steps("interrupted") >= 1);
  child.kill("SIGINT");
  const { code, err } = await finish(child);
  expect(code).toBe(130);
  expect(err).toContain("ale resume");
  expect(summary("interrupted").status).toBe("interrupted");
  expect(processes(join(place, "home"))).toEqual([]);
  const { code: resumed } = await finish(ale("resume", "--no-serve"));
  expect(resumed).toBe(0);
  expect(metrics("interrupted")).toEqual(metrics("first"));
}, 120_000);
