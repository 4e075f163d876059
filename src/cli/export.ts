import { dirname, join, resolve } from "node:path";
import type { Command } from "commander";
import { prepareEmptyFolder } from "../config/paths.ts";
import type { ExportFormat } from "../export/export-run.ts";
import type { RunRecord } from "../store/records.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { type CommandLine, examples } from "./command-line.ts";
import { findRun, noStore, readStore, storePathOf } from "./stored-runs.ts";

export interface ExportFlags {
  readonly out?: string;
  readonly store?: string;
  readonly jsonl?: boolean;
  readonly parquet?: boolean;
  readonly html?: boolean;
  readonly metrics?: boolean;
  readonly config?: boolean;
  readonly trace?: string;
  readonly hf?: boolean;
  readonly dtype?: string;
  readonly like?: string;
  readonly json?: boolean;
}

export function defineExport(command: Command, cli: CommandLine): void {
  command
    .argument("<run>", "id of a run, its beginning, or its run directory; with --hf also a policy folder or GGUF file")
    .option("--out <dir>", "folder to write; must be empty or new (default: the run directory)")
    .option("--jsonl", "trajectories.jsonl")
    .option("--parquet", "trajectories.parquet")
    .option("--html", "report.html")
    .option("--metrics", "metrics.jsonl")
    .option("--config", "config.toml")
    .option("--trace <file>", "only this file: what happened when, for ui.perfetto.dev and chrome://tracing")
    .option("--hf", "the policy as a Hugging Face folder, hf/")
    .option("--dtype <type>", "with --hf: float32, bfloat16 or float16 (default: as in the model it was trained from)")
    .option(
      "--like <dir>",
      "with --hf: folder whose shards and types are followed (default: the one it was trained from)",
    )
    .option("--store <file>", "database of runs (default: ale.db in ALE_HOME)")
    .option("--json", "print JSON: run, folder, summary")
    .description(
      "Write a run's results from the store as files: everything, or only the kinds that are named; summary.json always.",
    )
    .addHelpText(
      "after",
      examples(
        ["ale export shell-1rxf --out results", "everything about a run"],
        ["ale export shell-1rxf --out table --parquet", "its trajectories for pandas or DuckDB"],
        ["ale export runs/second --html", "the report again, into the run directory"],
        ["ale export runs/second --trace trace.json", "engines and episodes over time; open it in ui.perfetto.dev"],
        ["ale export runs/second --hf --dtype bfloat16", "its policy for other tools"],
        ["ale export model.gguf --hf --out DIR", "a GGUF file as a Hugging Face folder"],
      ),
    )
    .action(async (name: string, flags: ExportFlags) => {
      const policies = flags.hf ? await import("./export-policy.ts") : undefined;
      if (policies?.isPolicy(name)) return policies.exportPolicy(cli, name, flags);
      const { exportRun } = await import("../export/export-run.ts");
      const path = storePathOf(cli, flags.store);
      const run = await findRun(path, name);
      if (flags.trace !== undefined) return exportTrace(cli, path, run, flags);
      const isOwnFolder = flags.out === undefined || resolve(flags.out) === run.outDir;
      const folder = isOwnFolder ? run.outDir : prepareEmptyFolder(flags.out ?? "");
      const formats = chosenFormats(flags);
      const summary = await readStore(path, (store) =>
        exportRun(store, run.id, folder, formats.length === 0 && !flags.hf ? {} : { formats }),
      );
      if (summary === undefined) throw noStore(path);
      if (policies !== undefined) {
        const toml = await readStore(path, (store) => store.readConfiguration(run.configHash));
        policies.exportRunPolicy(run, toml ?? "", join(folder, "hf"), flags);
      }
      if (flags.json) cli.printJson({ run: run.id, folder, summary });
      else cli.print(`${sanitizeLine(run.id, 100)} written to ${sanitizeLine(dirname(summary))}`);
    });
}

async function exportTrace(cli: CommandLine, path: string, run: RunRecord, flags: ExportFlags): Promise<void> {
  const { writeTrace } = await import("../export/trace.ts");
  const file = resolve(flags.trace ?? "");
  const steps = await readStore(path, (store) => writeTrace(store, run.id, file));
  if (steps === undefined) throw noStore(path);
  if (flags.json) cli.printJson({ run: run.id, trace: file, steps });
  else cli.print(`${sanitizeLine(file)} holds ${steps} ${steps === 1 ? "step" : "steps"}: open it in ui.perfetto.dev`);
}

function chosenFormats(flags: ExportFlags): ExportFormat[] {
  const chosen: [boolean | undefined, ExportFormat][] = [
    [flags.jsonl, "jsonl"],
    [flags.parquet, "parquet"],
    [flags.html, "report"],
    [flags.metrics, "metrics"],
    [flags.config, "config"],
  ];
  return chosen.flatMap(([wanted, format]) => (wanted ? [format] : []));
}
