/** Starting, watching and reporting a run: the common part of `ale run`, `ale sft` and `ale resume`. */

import { rmdirSync } from "node:fs";
import { join, relative } from "node:path";
import type { Command } from "commander";
import type { ChangedSetting, LoadedExperiment } from "../config/load.ts";
import { loadExperiment } from "../config/load.ts";
import { defaultRunDir, defaultStorePath, prepareRunDir, prepareStorePath } from "../config/paths.ts";
import { AleError } from "../core/errors.ts";
import type { RunExperiment, RunResult } from "../experiment/api.ts";
import { formatValue } from "../tui/format.ts";
import { highlightToml } from "../tui/highlight.ts";
import type { PanelHistory } from "../tui/panel-state.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { summaryLines } from "../tui/summary.ts";
import { type CommandLine, wholeNumber } from "./command-line.ts";
import { viewModeFor, watch } from "./watch.ts";

/** Settings that the title of the view shows anyway. */
const TITLE_KEYS: ReadonlySet<string> = new Set(["name", "seed"]);

export interface RunFlags {
  readonly seed?: number;
  readonly name?: string;
  readonly model?: string;
  readonly deterministic?: boolean;
  readonly out?: string;
  readonly store?: string;
  readonly serve?: boolean;
  readonly json?: boolean;
  readonly dryRun?: boolean;
  readonly trust?: boolean;
}

/** The options that `ale run` and `ale sft` share. */
export function addRunOptions(command: Command): Command {
  return command
    .argument("<file...>", "experiment files; later ones win")
    .option("--seed <n>", "seed of everything random", wholeNumber("--seed", 0, 2 ** 31 - 1))
    .option("--name <name>", "name of the experiment")
    .option(
      "--model <dir>",
      "model to start from: a folder as Hugging Face publishes it, a GGUF file, or a shipped policy",
    )
    .option("--deterministic", "make re-runs bit-equal")
    .option("--out <dir>", "run directory; must be empty or new (default: runs/<name>-<time>)")
    .option("--store <file>", "database of runs (default: ale.db in ALE_HOME)")
    .option("--no-serve", "no dashboard while the run lasts")
    .option("--dry-run", "print the resolved experiment and stop")
    .option("--json", "events as JSON lines on stdout")
    .addHelpText(
      "after",
      "\nSettings:\n  --table.key VALUE  any setting of the experiment, e.g. --trainer.steps 20; ale config show lists them",
    );
}

/**
 * Loads the experiment of a command line: files, then named options, then dotted settings. For a policy that holds
 * conversations, limits that nobody set get other defaults.
 */
export async function loadFromFlags(
  cli: CommandLine,
  files: readonly string[],
  flags: RunFlags,
): Promise<LoadedExperiment> {
  const overrides = overridesOf(cli, flags);
  const loaded = loadExperiment({ files, overrides });
  const { conversationSettings } = await import("../experiment/conversation-limits.ts");
  const settings = conversationSettings(loaded.experiment, loaded.changed);
  const trusted = await trustSettings(loaded, flags);
  if (settings.length + trusted.length === 0) return loaded;
  return loadExperiment({ files, overrides: [...settings, ...overrides, ...trusted] });
}

/** `--trust` writes the hashes of the code that it names into the experiment, so that a resumed run knows it again. */
async function trustSettings({ experiment }: LoadedExperiment, { trust }: RunFlags): Promise<string[]> {
  if (!trust) return [];
  const { codeOf, readCode } = await import("../experiment/trusted-code.ts");
  return codeOf(experiment).map((code) => `${code.hashKey}=${readCode(code).sha256}`);
}

/** What the command line sets: named options, then dotted settings. */
export function overridesOf(cli: CommandLine, flags: RunFlags): string[] {
  const named: string[] = [];
  if (flags.seed !== undefined) named.push(`seed=${flags.seed}`);
  if (flags.name !== undefined) named.push(`name=${flags.name}`);
  if (flags.model !== undefined) named.push(`model.path=${flags.model}`);
  if (flags.deterministic) named.push("deterministic=true");
  return [...named, ...cli.overrides];
}

/** Memory of one engine as `--dry-run` reports it. */
interface PredictedMemory {
  readonly device: string;
  readonly predictedBytes: number;
  /** Bytes by purpose. */
  readonly parts: object;
}

/** Prints what `--dry-run` promises; what it adds to the experiment are comments. */
export async function printDryRun(
  cli: CommandLine,
  loaded: LoadedExperiment,
  flags: RunFlags,
  memory?: readonly PredictedMemory[],
): Promise<void> {
  const { experiment, changed, toml, hash: configHash } = loaded;
  const engines = (await import("../experiment/engine-plan.ts")).planEngines(experiment);
  if (flags.json) {
    return cli.printJson({ experiment, changed, configHash, engines, ...(memory === undefined ? {} : { memory }) });
  }
  cli.stdout.write(highlightToml(toml, cli.paint));
  for (const [i, { device, threads, work }] of engines.entries()) {
    const only = work === "both" ? "" : `, only ${work}s`;
    cli.print(cli.paint("dim", `# engine ${i}: ${device}, ${threads} ${threads === 1 ? "thread" : "threads"}${only}`));
    const predicted = memory?.[i];
    for (const line of predicted === undefined ? [] : memoryTable(predicted)) cli.print(cli.paint("dim", line));
  }
}

function memoryTable({ predictedBytes, parts }: PredictedMemory): readonly string[] {
  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0).padStart(8)} MB`;
  const rows = [...Object.entries(parts), ["memory at its peak", predictedBytes] as const];
  return rows.map(([part, bytes]) => `#   ${part.padEnd(20)}${megabytes(bytes)}`);
}

/** A new run in a new directory. */
export async function startRun(
  cli: CommandLine,
  loaded: LoadedExperiment,
  flags: RunFlags,
  execute: RunExperiment,
): Promise<void> {
  const storePath = prepareStorePath(flags.store ?? defaultStorePath(cli.env));
  const outDir = prepareRunDir(flags.out ?? defaultRunDir(loaded.experiment.name, new Date()));
  try {
    await watchRun(cli, loaded, { outDir, storePath, flags }, execute);
  } catch (error) {
    removeIfEmpty(outDir);
    throw error;
  }
}

/** Runs `execute` under the view and reports its result; sets the exit code. */
export async function watchRun(
  cli: CommandLine,
  loaded: LoadedExperiment,
  target: {
    readonly outDir: string;
    readonly storePath: string;
    readonly flags: RunFlags;
    readonly resumeRunId?: string;
    readonly history?: PanelHistory;
  },
  execute: RunExperiment,
): Promise<void> {
  const { outDir, storePath, flags, resumeRunId, history } = target;
  const { experiment, toml, hash: configHash, changed } = loaded;
  const serve = flags.serve !== false && experiment.service.enabled;
  tellOfLostReader(cli);
  const { result, state } = await watch(
    {
      cli,
      mode: flags.json ? "json" : viewModeFor(cli, cli.stdout),
      stream: cli.stdout,
      changed: changed.filter(({ key }) => !TITLE_KEYS.has(key)).map(showSetting),
      byStep: true,
      parityLimit: experiment.trainer.parityLimit,
      ...(history === undefined ? {} : { history }),
    },
    (hub, { stop, signal }) =>
      execute({
        experiment,
        toml,
        configHash,
        outDir,
        storePath,
        hub,
        stop,
        signal,
        serve,
        ...(resumeRunId === undefined ? {} : { resumeRunId }),
      }),
  );
  if (flags.json) cli.printJson({ v: 1, type: "result", ...result });
  else if (result.status === "finished") {
    for (const line of summaryLines(state, cli.paint)) cli.print(line);
    printPaths(cli, result);
  }
  failUnlessFinished(result);
}

/** A run outlives the reader of its output (`ale run … | head`), and says so. */
function tellOfLostReader(cli: CommandLine): void {
  let told = false;
  cli.stdout.on?.("error", ({ code }) => {
    if (told || code !== "EPIPE") return;
    told = true;
    cli.note("nobody reads the output any more; the run goes on, Ctrl-C saves and stops it");
  });
}

/** `key=value` of a changed setting. */
export function showSetting({ key, value }: ChangedSetting): string {
  return `${key}=${formatValue(value)}`;
}

function printPaths(cli: CommandLine, result: RunResult): void {
  const shown = (path: string) => sanitizeLine(shortPath(path));
  cli.print(`${"results".padEnd(20)} ${shown(result.outDir)}`);
  cli.print(`${"summary".padEnd(20)} ${shown(result.summaryPath)}`);
  cli.print(`${"report".padEnd(20)} ${shown(join(result.outDir, "report.html"))}`);
}

function failUnlessFinished(result: RunResult): void {
  const resume = `ale resume ${sanitizeLine(result.runId)}`;
  if (result.status === "interrupted") {
    throw new AleError("interrupted", `run ${result.runId} is saved`, { hint: resume });
  }
  if (result.status === "failed") {
    throw new AleError("engine", `run ${result.runId} failed; its state up to the last checkpoint is saved`, {
      hint: `${resume}   or look at ale runs show ${sanitizeLine(result.runId)}`,
    });
  }
}

/** Relative to the working directory where that is shorter. */
function shortPath(path: string): string {
  const short = relative(process.cwd(), path);
  return short !== "" && !short.startsWith("..") ? short : path;
}

function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // It holds something, which is then worth keeping.
  }
}
