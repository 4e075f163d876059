import { dirname, join, resolve } from "node:path";
import type { Command } from "commander";
import { prepareEmptyFolder } from "../config/paths.ts";
import type { ExportFormat } from "../export/export-run.ts";
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
