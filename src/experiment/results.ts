/** What a run leaves in its directory: policy, metrics, trajectories, report, summary. */

import { cpSync, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { EvaluationSummary } from "../core/events.ts";
import { exportRun } from "../export/export-run.ts";
import type { RunOptions, RunResult } from "./api.ts";
import type { RunSession } from "./run-session.ts";

/** The step with the highest development success; the earlier one when two are equal. */
export function bestStep(evaluations: readonly EvaluationSummary[]): number | undefined {
  let best: EvaluationSummary | undefined;
  for (const row of evaluations) {
    if (row.split === "dev" && !row.greedy && (best === undefined || row.rate > best.rate)) best = row;
  }
  return best?.step;
}

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
