/** One run of the product in a process of its own; a run that was stopped on the way is resumed. */

import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { openStore } from "../../src/store/store.ts";
import { type Outcome, readOutcome } from "./outcome.ts";

export interface RunRequest {
  /** Program and leading arguments. */
  readonly command: readonly string[];
  readonly file: string;
  readonly overrides: readonly string[];
  /** Run directory; the store lies beside it. */
  readonly folder: string;
}

const REPOSITORY = join(import.meta.dir, "../..");
const RUN_MS = 3 * 3_600_000;

/** Runs to the end, from where an earlier driver left off. Rejects with what the run printed when it fails. */
export async function runToEnd(request: RunRequest): Promise<Outcome> {
  const { folder } = request;
  const store = `${folder}.db`;
  const finished = existsSync(store) ? await readFinished(store) : undefined;
  if (finished !== undefined) return finished;
  // A run that has no store, or never got as far as a row in it, begins again.
  const isStarted = existsSync(store) && (await statusOf(store)) !== undefined;
  if (!isStarted) for (const path of [folder, store]) rmSync(path, { recursive: true, force: true });
  const settings = request.overrides.map((override) => `--${override}`);
  await spawn(
    isStarted
      ? [...request.command, "resume", folder, "--store", store, "--no-serve"]
      : [...request.command, "run", request.file, "--out", folder, "--store", store, "--no-serve", ...settings],
  );
  const outcome = await readFinished(store);
  if (outcome === undefined) throw new Error(`the run in ${folder} ended without finishing`);
  return outcome;
}

async function spawn(command: readonly string[]): Promise<void> {
  const child = Bun.spawn([...command], {
    cwd: REPOSITORY,
    env: { ...process.env, NO_COLOR: "1" },
    stdio: ["ignore", "ignore", "pipe"],
    timeout: RUN_MS,
    killSignal: "SIGTERM",
  });
  const problem = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}\n${problem.trim().slice(-2000)}`);
}

async function statusOf(path: string): Promise<string | undefined> {
  await using store = await openStore(path, { mode: "read" });
  return (await store.listRuns())[0]?.status;
}

async function readFinished(path: string): Promise<Outcome | undefined> {
  await using store = await openStore(path, { mode: "read" });
  const [run] = await store.listRuns();
  if (run?.status !== "finished") return undefined;
  return readOutcome(await store.readMetrics(run.id), await store.readEvaluations(run.id), run.wallSeconds);
}
