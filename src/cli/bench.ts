import { availableParallelism, loadavg } from "node:os";
import { type Command, InvalidArgumentError } from "commander";
import { suggest } from "../config/suggest.ts";
import { AleError } from "../core/errors.ts";
import type { Bench, Row } from "./benches/bench.ts";
import { type CommandLine, examples, wholeNumber } from "./command-line.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { versionInfo } from "./version-info.ts";

const DEFAULT_THREADS = Math.min(2, availableParallelism());

interface BenchFlags {
  readonly list?: boolean;
  readonly json?: boolean;
  readonly threads: number;
  readonly sizes?: readonly string[];
  readonly rounds?: number;
  readonly only?: readonly string[];
}

export function defineBench(command: Command, cli: CommandLine): void {
  command
    .argument("[name...]", "which ones (default: all)")
    .option("--list", "list them and stop")
    .option("--threads <n>", "threads of the engine", parseThreads, DEFAULT_THREADS)
    .option("--sizes <name...>", "model sizes for the engine: 0.1m 1m 5m 25m 100m (default: up to 25m)")
    .option("--rounds <n>", "how often each case is measured (sandbox: 100)", wholeNumber("--rounds", 1, 100_000))
    .option("--only <name...>", "cases to measure, of benches that have several (sandbox)")
    .option("--json", "print JSON: the rows of the bench; with several, an object with the rows of each")
    .description(
      "Measure on this machine what a training step is made of. Sandboxes are compared with bubblewrap, runc and podman " +
        "where they are installed; comparisons with PyTorch and others are in the repository: bun run bench.",
    )
    .addHelpText(
      "after",
      examples(
        ["ale bench", "everything, in a few minutes"],
        ["ale bench engine --sizes 1m", "training, prefill and decode of one model size"],
        ["ale bench sandbox --json", "for programs; figures of a busy machine say little"],
        ["ale bench sandbox --only cold --rounds 500", "one case, measured thoroughly"],
      ),
    )
    .action(async (names: string[], flags: BenchFlags) => {
      const benches = await loadBenches();
      const chosen = names.length === 0 ? benches : names.map((name) => findNamed(benches, name, "bench"));
      if (flags.list) return listBenches(cli, chosen, flags.json ?? false);
      await runBenches(cli, chosen, flags);
    });
}

/** Measures with each of `chosen` in turn and prints what was found. */
async function runBenches(cli: CommandLine, chosen: readonly Bench[], flags: BenchFlags): Promise<void> {
  const sizes = await checkSizes(flags.sizes ?? []);
  using interrupt = listenForInterrupt(false, (message) => cli.note(message));
  const results: Record<string, Row[]> = {};
  const load = loadavg()[0] ?? 0;
  for (const bench of chosen) {
    if (!flags.json) cli.print(cli.paint("bold", bench.name));
    const rows: Row[] = [];
    results[bench.name] = rows;
    const report = (row: Row) => {
      rows.push(row);
      if (!flags.json) cli.print(`  ${bench.show(row)}`);
    };
    const { threads, rounds, only = [] } = flags;
    const note = (message: string) => cli.note(cli.paint("dim", `  ${message}`));
    await measure(bench, { signal: interrupt.signal, threads, sizes, rounds, only, note, report });
  }
  const [only] = Object.values(results);
  if (!flags.json) cli.print(cli.paint("dim", `${flags.threads} threads, load at the start ${load.toFixed(2)}`));
  else cli.printJson(chosen.length === 1 ? only : { version: versionInfo(), load, ...results });
}

/** `ale sandbox bench`: the same as `ale bench sandbox`. */
export function defineSandboxBench(command: Command, cli: CommandLine): void {
  command
    .summary("measure sandboxes on this machine")
    .description(
      "Measure what making, using, forking and destroying sandboxes costs here, beside bubblewrap, runc and podman where " +
        "they are installed: the same as ale bench sandbox.",
    )
    .argument("[case...]", "which cases (default: all)")
    .option("--rounds <n>", "how often each case is measured", wholeNumber("--rounds", 1, 100_000))
    .option("--json", "print JSON: a list of {name, backend, concurrency, firstMs, totalMs, perSecond}")
    .addHelpText(
      "after",
      examples(["ale sandbox bench", "all cases"], ["ale sandbox bench cold warm --json", "two, for programs"]),
    )
    .action(async (only: string[], flags: Pick<BenchFlags, "rounds" | "json">) => {
      const { SANDBOX_BENCH } = await import("./benches/sandbox.ts");
      await runBenches(cli, [SANDBOX_BENCH], { ...flags, only, threads: DEFAULT_THREADS });
    });
}

async function loadBenches(): Promise<readonly Bench[]> {
  const [{ SANDBOX_BENCH }, { ENGINE_BENCH }, { STORE_BENCH }] = await Promise.all([
    import("./benches/sandbox.ts"),
    import("./benches/engine.ts"),
    import("./benches/store.ts"),
  ]);
  return [SANDBOX_BENCH, ENGINE_BENCH, STORE_BENCH];
}

async function checkSizes(names: readonly string[]): Promise<readonly string[]> {
  const { MODEL_SIZES } = await import("./benches/model-sizes.ts");
  return names.map((name) => findNamed(MODEL_SIZES, name, "model size").name);
}

async function measure(bench: Bench, context: Parameters<Bench["measure"]>[0]): Promise<void> {
  try {
    context.signal.throwIfAborted();
    await bench.measure(context);
  } catch (error) {
    if (!context.signal.aborted) throw error;
    throw new AleError("interrupted", "the measurement was stopped", { cause: error });
  }
}

function listBenches(cli: CommandLine, benches: readonly Bench[], json: boolean): void {
  if (json) cli.printJson(benches.map(({ name, summary }) => ({ name, summary })));
  else for (const { name, summary } of benches) cli.print(`${name.padEnd(10)} ${summary}`);
}

function findNamed<T extends { readonly name: string }>(all: readonly T[], name: string, what: string): T {
  const found = all.find((candidate) => candidate.name === name);
  if (found !== undefined) return found;
  const known = all.map((candidate) => candidate.name);
  const near = suggest(name, known);
  const question = near === undefined ? "" : `; did you mean ${near}?`;
  throw new AleError("usage", `there is no ${what} ${JSON.stringify(name)}${question}`, {
    hint: `there are ${known.join(", ")}`,
  });
}

function parseThreads(text: string): number {
  const threads = Number(text);
  if (Number.isInteger(threads) && threads >= 1 && threads <= 256) return threads;
  throw new InvalidArgumentError("a whole number from 1 to 256.");
}
