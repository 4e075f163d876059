import { loadavg } from "node:os";
import type { Command } from "commander";
import { suggest } from "../config/suggest.ts";
import { AleError } from "../core/errors.ts";
import { formatCount } from "../tui/format.ts";
import type { Bench, Figure } from "./benches.ts";
import { type CommandLine, examples } from "./command-line.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { versionInfo } from "./version-info.ts";

export function defineBench(command: Command, cli: CommandLine): void {
  command
    .argument("[name...]", "which ones (default: all)")
    .option("--list", "list them and stop")
    .option("--json", "print JSON: versions, load, and one entry per figure")
    .description(
      "Measure on this machine what a training step is made of. Comparisons with other programs (PyTorch, …) are not in " +
        "the executable: bun run bench in the repository.",
    )
    .addHelpText(
      "after",
      examples(
        ["ale bench", "everything, in about half a minute"],
        ["ale bench train generate", "only these"],
        ["ale bench --json", "for programs; figures of a busy machine say little, so the load is in it"],
      ),
    )
    .action(async (names: string[], flags: { list?: boolean; json?: boolean }) => {
      const { BENCHES } = await import("./benches.ts");
      const chosen = names.length === 0 ? BENCHES : names.map((name) => findBench(BENCHES, name));
      if (flags.list) return listBenches(cli, chosen, flags.json ?? false);
      using interrupt = listenForInterrupt((message) => cli.note(message));
      const figures: (Figure & { readonly bench: string })[] = [];
      const load = loadavg()[0] ?? 0;
      for (const bench of chosen) {
        if (!flags.json) cli.print(cli.paint("bold", bench.name));
        const measured = await measure(bench, interrupt.signal);
        figures.push(...measured.map((figure) => ({ bench: bench.name, ...figure })));
        if (!flags.json) for (const figure of measured) cli.print(`  ${showFigure(figure)}`);
      }
      if (flags.json) cli.printJson({ version: versionInfo(), load, figures });
      else cli.print(cli.paint("dim", `load at the start ${load.toFixed(2)}`));
    });
}

async function measure(bench: Bench, signal: AbortSignal): Promise<readonly Figure[]> {
  try {
    signal.throwIfAborted();
    return await bench.measure(signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    throw new AleError("interrupted", "the measurement was stopped", { cause: error });
  }
}

function listBenches(cli: CommandLine, benches: readonly Bench[], json: boolean): void {
  if (json) cli.printJson(benches.map(({ name, summary }) => ({ name, summary })));
  else for (const { name, summary } of benches) cli.print(`${name.padEnd(10)} ${summary}`);
}

function findBench(benches: readonly Bench[], name: string): Bench {
  const bench = benches.find((candidate) => candidate.name === name);
  if (bench !== undefined) return bench;
  const known = benches.map((candidate) => candidate.name);
  const near = suggest(name, known);
  throw new AleError(
    "usage",
    `there is no bench ${JSON.stringify(name)}${near === undefined ? "" : `; did you mean ${near}?`}`,
    {
      hint: `there are ${known.join(", ")}`,
    },
  );
}

function showFigure({ name, value, unit }: Figure): string {
  const number =
    unit === "ms" ? `${value.toFixed(value < 10 ? 2 : 1)} ms` : `${formatCount(Math.round(value))} per second`;
  return `${name.padEnd(44)} ${number.padStart(16)}`;
}
