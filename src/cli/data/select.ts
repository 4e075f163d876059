import type { Command } from "commander";
import { AleError } from "../../core/errors.ts";
import { formatPercent } from "../../tui/format.ts";
import { sanitizeLine } from "../../tui/sanitize.ts";
import { formatTable } from "../../tui/table.ts";
import { type CommandLine, examples, realNumber, wholeNumber } from "../command-line.ts";
import { watch } from "../watch.ts";
import { experimentFor, progressMode } from "./options.ts";

interface SelectFlags {
  readonly out: string;
  readonly policy: string;
  readonly passRate: readonly [low: number, high: number];
  readonly samples: number;
  readonly temperature: number;
  readonly seed: number;
  readonly config?: string;
  readonly json?: boolean;
}

export function defineSelect(command: Command, cli: CommandLine): void {
  command
    .summary("keep the tasks that a policy solves neither always nor never")
    .description(
      "Measure how often a policy solves each task of a data set or suite, and copy those whose pass rate lies in the given range.",
    )
    .argument("<data>", "data set, or a suite of tasks")
    .requiredOption("--out <dir>", "folder of the selection; must be empty or new")
    .requiredOption("--policy <policy>", "who tries: a policy's folder, openai:URL#MODEL, or scripted:FILE")
    .option("--pass-rate <low..high>", "pass rates that are wanted, both ends included", readRange, [0.1, 0.9])
    .option("--samples <n>", "attempts at each task", wholeNumber("--samples", 1, 10_000), 8)
    .option("--temperature <t>", "sampling temperature", realNumber("--temperature", 0.01, 10), 1)
    .option("--seed <n>", "seed of instances and sampling", wholeNumber("--seed", 0, 2 ** 30), 0)
    .option("--config <file>", "experiment whose [rollout], [engine] and [remote] hold")
    .option("--json", "print the result as JSON")
    .addHelpText(
      "after",
      examples(
        [
          "ale data select data/checked --out data/train --policy models/Qwen3-4B --pass-rate 0.1..0.9",
          "what it can learn from",
        ],
        [
          "ale data select shell --out data/hard --policy models/shell-start --config experiments/shell.toml",
          "families of a suite",
        ],
        [
          "ale data select data/checked --out data/hard --policy models/mine --pass-rate 0..0.2 --samples 16 --json",
          "hard ones",
        ],
      ),
    )
    .action(async (data: string, flags: SelectFlags) => {
      const { result } = await watch(
        { cli, mode: progressMode(cli, flags.json), stream: cli.stderr },
        async (hub, { signal }) => {
          const { selectDataSet } = await import("../../experiment/data-filters.ts");
          const { out, policy, samples, temperature, seed, config } = flags;
          const [low, high] = flags.passRate;
          const experiment = experimentFor(policy, config);
          return selectDataSet({
            data,
            outDir: out,
            policy,
            samples,
            low,
            high,
            temperature,
            seed,
            experiment,
            hub,
            signal,
          });
        },
      );
      if (flags.json) return cli.printJson(result);
      const left = new Set(result.rejected.map(({ name }) => name));
      const columns = [
        { title: "task", value: ([name]: [string, number]) => sanitizeLine(name, 60) },
        { title: "solved", align: "right" as const, value: ([, rate]: [string, number]) => formatPercent(rate) },
        { title: "", value: ([name]: [string, number]) => (left.has(name) ? "left out" : "kept") },
      ];
      cli.print(formatTable(Object.entries(result.passRates), columns, cli.paint));
      cli.print(`\n${cli.paint("bold", `${result.tasks} tasks`)} in ${result.folder}`);
    });
}

function readRange(text: string): readonly [number, number] {
  const [low, high, ...rest] = text
    .split("..")
    .map((part) => (/^(\d+\.?\d*|\.\d+)$/.test(part) ? Number(part) : Number.NaN));
  if (low !== undefined && high !== undefined && rest.length === 0 && low >= 0 && low <= high && high <= 1)
    return [low, high];
  throw new AleError("usage", `--pass-rate is ${JSON.stringify(text)}; expected two numbers from 0 to 1`, {
    hint: "write --pass-rate 0.1..0.9",
  });
}
