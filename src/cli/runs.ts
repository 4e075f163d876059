import type { Command } from "commander";
import type { RunStatus } from "../core/events.ts";
import type { EvaluationRecord, RunRecord } from "../store/records.ts";
import { formatCount, formatDuration, formatPercent } from "../tui/format.ts";
import { splitName } from "../tui/panel-state.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import type { Style } from "../tui/style.ts";
import { type Column, formatTable } from "../tui/table.ts";
import { type CommandLine, examples, wholeNumber } from "./command-line.ts";
import { findRun, noStore, readStore, storePathOf } from "./stored-runs.ts";

const STATUS_STYLES: Readonly<Record<RunStatus, Style>> = {
  running: "cyan",
  finished: "green",
  interrupted: "yellow",
  failed: "red",
};

interface RunRow {
  readonly run: RunRecord;
  readonly evaluations: readonly EvaluationRecord[];
}

export function defineRuns(command: Command, cli: CommandLine): void {
  command.addHelpText(
    "after",
    examples(
      ["ale runs ls", "every run, newest first"],
      ["ale runs show shell-1rxf", "one run, by the beginning of its id"],
      ["ale runs ls --json | jq '.[0].id'", "the newest id"],
    ),
  );
  defineList(command.command("ls"), cli);
  defineShow(command.command("show"), cli);
}

function defineList(command: Command, cli: CommandLine): void {
  command
    .summary("list stored runs, newest first")
    .description("List stored runs, newest first.")
    .option("--limit <n>", "at most so many", wholeNumber("--limit", 1, 100_000), 20)
    .option("--store <file>", "database of runs (default: ale.db in ALE_HOME)")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples(["ale runs ls", "the last 20"], ["ale runs ls --limit 1000 --json", "all, for programs"]),
    )
    .action(async (flags: { limit: number; store?: string; json?: boolean }) => {
      const path = storePathOf(cli, flags.store);
      const rows = await readStore(path, async (store) => {
        const runs = await store.listRuns(flags.limit);
        return Promise.all(runs.map(async (run) => ({ run, evaluations: await store.readEvaluations(run.id) })));
      });
      if (rows === undefined && flags.store !== undefined) throw noStore(path);
      if (flags.json) cli.printJson((rows ?? []).map(({ run, evaluations }) => ({ ...run, evaluations })));
      else if (rows === undefined || rows.length === 0)
        cli.note("no runs yet; start one: ale run experiments/shell.toml");
      else cli.print(formatTable(rows, runColumns(Date.now()), cli.paint));
    });
}

function runColumns(now: number): Column<RunRow>[] {
  return [
    { title: "run", value: ({ run }) => run.id },
    { title: "status", value: ({ run }) => run.status, style: ({ run }) => STATUS_STYLES[run.status] },
    { title: "algorithm", value: ({ run }) => run.algorithm },
    { title: "seed", align: "right", value: ({ run }) => String(run.seed) },
    { title: "step", align: "right", value: ({ run }) => `${run.committedStep ?? 0}/${run.steps}` },
    { title: "episodes", align: "right", value: ({ run }) => formatCount(run.episodes) },
    { title: "work", align: "right", value: ({ run }) => formatDuration(run.wallSeconds * 1000) },
    { title: "held-out", align: "right", value: ({ evaluations }) => gain(evaluations) },
    { title: "started", align: "right", value: ({ run }) => `${formatDuration(Math.max(0, now - run.createdAt))} ago` },
  ];
}

/** First → last sampled success on the held-out split. */
function gain(evaluations: readonly EvaluationRecord[]): string {
  const sampled = evaluations.filter(({ split, greedy }) => split === "heldout" && !greedy);
  const first = sampled[0];
  const last = sampled.at(-1);
  if (first === undefined || last === undefined) return "–";
  return first === last ? formatPercent(last.rate) : `${formatPercent(first.rate)} → ${formatPercent(last.rate)}`;
}

function defineShow(command: Command, cli: CommandLine): void {
  command
    .summary("show one run: status, evaluations, families")
    .description("Show one run: status, results, evaluations, success per task family.")
    .argument("<run>", "id of a run, its beginning, or its run directory")
    .option("--store <file>", "database of runs (default: ale.db in ALE_HOME)")
    .option("--json", "print JSON, metrics of every step included")
    .addHelpText(
      "after",
      examples(
        ["ale runs show shell-1rxf", "by the beginning of its id"],
        ["ale runs show runs/second --json", "by its run directory, for programs"],
      ),
    )
    .action(async (name: string, flags: { store?: string; json?: boolean }) => {
      const path = storePathOf(cli, flags.store);
      const run = await findRun(path, name);
      const details = await readStore(path, async (store) => ({
        evaluations: await store.readEvaluations(run.id),
        families: (await store.readFamilies(run.id)).filter(({ split }) => split === "train"),
        checkpoints: await store.readCheckpoints(run.id),
        metrics: await store.readMetrics(run.id),
      }));
      if (details === undefined) throw noStore(path);
      if (flags.json) return cli.printJson({ run, ...details });
      printFacts(cli, run);
      printEvaluations(cli, details.evaluations);
      printFamilies(cli, details.families);
    });
}

function printFacts(cli: CommandLine, run: RunRecord): void {
  const { paint } = cli;
  const reason = run.reason === null ? "" : ` (${sanitizeLine(run.reason, 300)})`;
  const facts: [string, string][] = [
    ["status", paint(STATUS_STYLES[run.status], run.status) + reason],
    ["algorithm", `${sanitizeLine(run.algorithm, 60)}, seed ${run.seed}`],
    [
      "steps",
      `${run.committedStep ?? 0} of ${run.steps}, ${run.episodes} episodes, ${formatDuration(run.wallSeconds * 1000)} of work`,
    ],
    ["started", new Date(run.createdAt).toLocaleString("sv-SE")],
    ["isolation", sanitizeLine(run.isolation, 200)],
    ["results", sanitizeLine(run.outDir)],
    ["settings", run.configHash.slice(0, 12)],
    ["made by", `ale ${sanitizeLine(run.aleVersion, 40)}`],
  ];
  if (run.status === "interrupted" || run.status === "failed")
    facts.push(["continue", `ale resume ${sanitizeLine(run.id, 100)}`]);
  cli.print(paint("bold", sanitizeLine(run.id, 100)));
  for (const [label, text] of facts) cli.print(`  ${paint("dim", label.padEnd(10))} ${text}`);
}

function printEvaluations(cli: CommandLine, evaluations: readonly EvaluationRecord[]): void {
  if (evaluations.length === 0) return;
  const columns: Column<EvaluationRecord>[] = [
    { title: "step", align: "right", value: ({ step }) => String(step) },
    { title: "split", value: ({ split }) => splitName(split) },
    { title: "decoding", value: ({ greedy }) => (greedy ? "greedy" : "sampled") },
    { title: "success", align: "right", value: ({ rate }) => formatPercent(rate) },
    { title: "95 %", value: ({ low, high }) => `[${(low * 100).toFixed(1)}, ${(high * 100).toFixed(1)}]` },
    { title: "n", align: "right", value: ({ n }) => String(n) },
  ];
  cli.print(`\n${formatTable(evaluations, columns, cli.paint)}`);
}

function printFamilies(
  cli: CommandLine,
  families: readonly { readonly family: string; readonly episodes: number; readonly solved: number }[],
): void {
  if (families.length === 0) return;
  const table = formatTable(
    families,
    [
      { title: "training family", value: ({ family }) => family },
      { title: "episodes", align: "right", value: ({ episodes }) => String(episodes) },
      { title: "solved", align: "right", value: ({ solved, episodes }) => formatPercent(solved / episodes) },
    ],
    cli.paint,
  );
  cli.print(`\n${table}`);
}
