import { existsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { type Command, Option } from "commander";
import type { Quantization } from "../core/quantization.ts";
import type { Split } from "../core/types.ts";
import type { EvaluationResult } from "../experiment/api.ts";
import { formatDuration, formatPercent } from "../tui/format.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { formatTable } from "../tui/table.ts";
import { type CommandLine, examples, nameList, quantizationOption, realNumber, wholeNumber } from "./command-line.ts";
import { viewModeFor, watch } from "./watch.ts";

interface EvalFlags {
  readonly policy: string;
  readonly adapter?: string;
  readonly quantization?: Quantization;
  readonly samples: number;
  readonly split: Split;
  readonly config?: string;
  readonly greedy?: boolean;
  readonly temperature: number;
  readonly seed: number;
  readonly families?: string[];
  readonly json?: boolean;
}

export function defineEval(command: Command, cli: CommandLine): void {
  command
    .argument("<suite>", "task suite: a folder, or the name of an embedded suite")
    .requiredOption("--policy <policy>", "folder of a policy, openai:URL#MODEL, scripted:FILE, or oracle, noop, random")
    .option("--adapter <dir>", "PEFT folder of low-rank adapters to put on the policy")
    .addOption(quantizationOption())
    .option("--samples <n>", "episodes", wholeNumber("--samples", 1, 1_000_000), 420)
    .addOption(new Option("--split <split>", "which instances").choices(["train", "dev", "heldout"]).default("heldout"))
    .option(
      "--config <file>",
      "experiment whose [rollout], [engine] and [sandbox] hold (default: the run's whose policy it is)",
    )
    .option("--greedy", "most likely token instead of sampling")
    .option("--temperature <t>", "sampling temperature", realNumber("--temperature", 0.01, 10), 1)
    .option(
      "--seed <n>",
      "seed of instances and sampling; runs evaluate on those of 0",
      wholeNumber("--seed", 0, 2 ** 31 - 1),
      0,
    )
    .option("--families <a,b>", "only these task families", nameList)
    .option("--json", "print the result as JSON")
    .description("Measure a policy on a task suite: success rate with its Wilson 95 % interval, per family too.")
    .addHelpText(
      "after",
      examples(
        ["ale eval shell --policy runs/shell-1/policy", "a trained policy on held-out instances"],
        ["ale eval shell --policy oracle --samples 28", "the reference solutions; must reach 100 %"],
        ["ale eval tasks/shell --policy models/shell-start --greedy --json", "greedy decoding, for programs"],
        ["ale eval shell --policy openai:http://127.0.0.1:8000/v1#qwen3 --samples 28", "a model behind a server"],
      ),
    )
    .action(async (suite: string, flags: EvalFlags) => {
      const mode = flags.json && cli.stderr.isTTY !== true ? "quiet" : viewModeFor(cli, cli.stderr);
      const { result } = await watch({ cli, mode, stream: cli.stderr }, async (hub, { signal }) => {
        const { evaluatePolicy } = await import("../experiment/evaluate.ts");
        const { loadExperiment } = await import("../config/load.ts");
        const config = flags.config ?? configOfRun(flags.adapter ?? flags.policy);
        const { isElsewhere, longEpisodeSettings } = await import("../experiment/language-model.ts");
        const overrides = config === undefined && isElsewhere(flags.policy) ? longEpisodeSettings(flags.policy) : [];
        const { experiment } = loadExperiment({ files: config === undefined ? [] : [config], overrides });
        const { policy, adapter, quantization, samples, split, temperature, seed, families } = flags;
        const options = {
          suite,
          experiment,
          policy,
          adapter,
          quantization,
          samples,
          split,
          greedy: flags.greedy ?? false,
          temperature,
          seed,
          hub,
          signal,
        };
        return evaluatePolicy(families === undefined ? options : { ...options, families });
      });
      if (flags.json) cli.printJson(result);
      else printEvaluation(cli, result);
      if (result.error !== undefined) cli.exitCode = 1;
    });
}

/** `config.toml` of the run directory that a policy folder lies in, as `policy` or as one of its checkpoints. */
function configOfRun(policy: string): string | undefined {
  const above = dirname(resolve(policy));
  const config = join(basename(above) === "checkpoints" ? dirname(above) : above, "config.toml");
  return existsSync(policy) && existsSync(config) ? config : undefined;
}

/** The result as a table of families and a line for all. */
export function printEvaluation(cli: CommandLine, result: EvaluationResult): void {
  const { paint } = cli;
  const families = Object.entries(result.perFamily).sort(([a], [b]) => a.localeCompare(b));
  const table = formatTable(
    families,
    [
      { title: "family", value: ([name]) => name },
      {
        title: "success",
        align: "right",
        value: ([, { rate }]) => formatPercent(rate),
        style: ([, { rate }]) => (rate >= 0.9 ? "green" : rate < 0.5 ? "red" : undefined),
      },
      { title: "n", align: "right", value: ([, { n }]) => String(n) },
    ],
    paint,
  );
  cli.print(table);
  const interval = `[${(result.low * 100).toFixed(1)}, ${(result.high * 100).toFixed(1)}]`;
  const how = result.greedy ? "greedy" : "sampled";
  const stops = Object.entries(result.stopReasons)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => `${sanitizeLine(reason, 30)} ${count}`)
    .join(", ");
  cli.print("");
  cli.print(`${paint("bold", formatPercent(result.rate))} ${interval}  n ${result.n}, ${result.split}, ${how}`);
  cli.print(paint("dim", `ended by: ${stops}`));
  if (result.error !== undefined)
    cli.print(paint("red", `not all could be judged: ${sanitizeLine(result.error, 500)}`));
  cli.print(
    paint(
      "dim",
      `policy ${sanitizeLine(result.policy)}, isolation ${sanitizeLine(result.isolation)}, ${formatDuration(result.ms)}`,
    ),
  );
}
