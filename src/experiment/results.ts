/** What a run leaves in its directory: policy, metrics, trajectories, report, summary. */

import { cpSync, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { exportRun } from "../export/export-run.ts";
import { bestStep } from "../export/summary.ts";
import type { RunOptions, RunResult } from "./api.ts";
import type { RunSession } from "./run-session.ts";

/**
 * Copies the best policy to `policy/` and writes the result files. Returns the path of `summary.json`.
 * Called for interrupted and failed runs too: what was reached is worth looking at.
 */
export async function writeResults(
  options: RunOptions,
  session: RunSession,
  status: RunResult["status"],
): Promise<string> {
  const { outDir } = options;
  const step = bestStep(session.evaluations) ?? session.committedStep;
  const checkpoint = session.checkpoints.path(step);
  if (step >= 0 && existsSync(checkpoint)) {
    const target = join(outDir, "policy");
    rmSync(target, { recursive: true, force: true });
    cpSync(checkpoint, target, { recursive: true, filter: (path) => !path.endsWith("optimizer.safetensors") });
  }
  return exportRun(session.store, session.runId, outDir, { status, best: step });
}
