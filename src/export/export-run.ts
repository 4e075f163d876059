/** Writes the results of a run as files that others can open. */

import { join } from "node:path";
import type { RunStatus } from "../core/events.ts";
import type { MetricsRow } from "../store/records.ts";
import type { Store } from "../store/store.ts";
import { columnGlossary } from "./columns.ts";
import { engineMemory } from "./engine-memory.ts";
import { makeFolder, writeTextFile } from "./files.ts";
import { withAliases } from "./metric-names.ts";
import { readReportData } from "./report/data.ts";
import { renderReport } from "./report/report.ts";
import { summarizeRun } from "./summary.ts";
import { writeTrajectories } from "./trajectories.ts";

export type ExportFormat = "summary" | "config" | "metrics" | "jsonl" | "parquet" | "report";
export const EXPORT_FORMATS: readonly ExportFormat[] = ["summary", "config", "metrics", "jsonl", "parquet", "report"];

export interface ExportOptions {
  /** All of them by default; `summary` is always written. */
  readonly formats?: readonly ExportFormat[];
  /** Status to report for a run that is just ending. */
  readonly status?: RunStatus;
  /** Step whose weights were kept as the best; by default the one with the highest development success. */
  readonly best?: number;
}

/**
 * Writes into `dir`: `summary.json`, `config.toml`, `metrics.jsonl`, `trajectories.jsonl` and `.parquet` with
 * `columns.md`, and `report.html`. Each file appears complete or not at all. Returns the path of `summary.json`.
 * @throws AleError("storage_full"), AleError("usage") when the folder cannot be written, AleError("store").
 */
export async function exportRun(
  store: Store,
  runId: string,
  dir: string,
  options: ExportOptions = {},
): Promise<string> {
  const formats = new Set(options.formats ?? EXPORT_FORMATS);
  makeFolder(dir);
  const run = await store.getRun(runId);
  const configuration = (await store.readConfiguration(run.configHash)) ?? "";
  const metrics = await store.readMetrics(run.id);
  const memory = engineMemory(configuration, metrics);
  const summary = summarizeRun(run, await store.readEvaluations(run.id), { ...options, memory });
  if (formats.has("config")) await writeTextFile(join(dir, "config.toml"), configuration);
  if (formats.has("metrics")) await writeTextFile(join(dir, "metrics.jsonl"), metricsLines(metrics));
  if (formats.has("jsonl") || formats.has("parquet")) {
    const paths = {
      ...(formats.has("jsonl") ? { jsonl: join(dir, "trajectories.jsonl") } : {}),
      ...(formats.has("parquet") ? { parquet: join(dir, "trajectories.parquet") } : {}),
    };
    await writeTrajectories(paths, store.episodes({ runId: run.id }), `ale ${run.aleVersion}`);
    await writeTextFile(join(dir, "columns.md"), columnGlossary());
  }
  if (formats.has("report")) {
    await writeTextFile(join(dir, "report.html"), renderReport(await readReportData(store, run, summary)));
  }
  const path = join(dir, "summary.json");
  await writeTextFile(path, `${JSON.stringify(summary, null, 2)}\n`);
  return path;
}

/** One line per step: `{"step": 1, "critic/rewards/mean": 0.42, "reward": 0.42, …}`; null where a value was not a finite number. */
function metricsLines(rows: readonly MetricsRow[]): string {
  return rows.map(({ step, metrics }) => `${JSON.stringify(withAliases({ step, ...metrics }))}\n`).join("");
}
