/** A run of the product in a process of its own, and what its store says about it. */

import { join } from "node:path";
import type { MetricsRow, RunRecord } from "../../src/store/records.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { GROUP_SIZE, GROUPS } from "./modes.ts";

export interface Measured {
  readonly episodesPerSecond: number;
  /** Mean over engines and steps. */
  readonly idle: number;
  readonly stalenessMean: number;
  /** Shares of the engines' time. */
  readonly generateShare: number;
  readonly trainShare: number;
}

/** Success on held-out instances, with its Wilson 95 % interval. */
export interface Reward {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** Steps at the beginning that are not measured: graphs are made, and what was begun before the first step is used up. */
export const UNMEASURED = 10;

const RUN_MS = 3_600_000;

/**
 * Runs `command run experiments/shell.toml` with these settings in `folder`. Rejects with what it printed when it fails.
 * Returns the path of its store.
 */
export async function runProduct(
  command: readonly string[],
  settings: readonly string[],
  folder: string,
): Promise<string> {
  const store = join(folder, "ale.db");
  await call([
    ...command,
    "run",
    "experiments/shell.toml",
    "--out",
    join(folder, "run"),
    "--store",
    store,
    ...settings,
  ]);
  return store;
}

/** Success of `policy` with `adapter`, sampled without latency. Rejects with what was printed when it fails. */
export async function evaluate(
  command: readonly string[],
  policy: { readonly policy: string; readonly adapter: string },
  samples: number,
): Promise<Reward> {
  const flags = ["--policy", policy.policy, "--adapter", policy.adapter, "--samples", String(samples)];
  const { rate, low, high } = JSON.parse(
    await call([...command, "eval", "tasks/shell", "--config", "experiments/shell.toml", "--json", ...flags]),
  );
  return { mean: rate, low, high };
}

/** Runs a command in the checkout. Returns what it wrote to standard output. */
async function call(command: readonly string[]): Promise<string> {
  const child = Bun.spawn([...command], {
    cwd: join(import.meta.dir, "../.."),
    env: { ...process.env, NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: RUN_MS,
    killSignal: "SIGKILL",
  });
  const [output, problem] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}\n${problem.trim().slice(-2000)}`);
  return output;
}

/** What the only run in a store came to, over all steps but the first ones and the last. */
export async function readRun(path: string): Promise<Measured> {
  await using store = await openStore(path, { mode: "read" });
  const run = await onlyRun(store);
  const [steps, rows] = [await store.readSteps(run.id), await store.readMetrics(run.id)];
  const measured = rows.filter(({ step }) => isMeasured(step, run.steps));
  const committed = (step: number) => steps.find((one) => one.step === step)?.committedAt ?? Number.NaN;
  const seconds = (committed(run.steps - 1) - committed(UNMEASURED)) / 1000;
  return {
    episodesPerSecond: (measured.length * GROUPS * GROUP_SIZE) / seconds,
    idle: engineShare(measured, "idle_share"),
    stalenessMean: mean(measured.map(({ metrics }) => metrics["async/staleness/mean"] ?? 0)),
    generateShare: engineShare(measured, "generate_share"),
    trainShare: engineShare(measured, "train_share"),
  };
}

export async function onlyRun(store: Store): Promise<RunRecord> {
  const [run, ...others] = await store.listRuns();
  if (run === undefined || others.length > 0) throw new Error(`${store.path} does not hold one run`);
  return run;
}

/** Whether a step of a run of `steps` is measured. */
export function isMeasured(step: number, steps: number): boolean {
  return step > UNMEASURED && step < steps;
}

function engineShare(rows: readonly MetricsRow[], name: string): number {
  const pattern = new RegExp(`^perf/engine/\\d+/${name}$`);
  return mean(
    rows.flatMap(({ metrics }) =>
      Object.entries(metrics).flatMap(([key, value]) => (pattern.test(key) && value !== null ? [value] : [])),
    ),
  );
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}
