import type { Command } from "commander";
import { formatPercent } from "../../tui/format.ts";
import { type CommandLine, examples, realNumber, wholeNumber } from "../command-line.ts";
import { watch } from "../watch.ts";
import { experimentFor, progressMode } from "./options.ts";

interface SynthFlags {
  readonly out: string;
  readonly policy: string;
  readonly reviewer?: string;
  readonly solver?: string;
  readonly config?: string;
  readonly profile: string;
  readonly temperature: number;
  readonly count: number;
  readonly attempts: number;
  readonly repeats: number;
  readonly revisions: number;
  readonly rounds: number;
  readonly concurrency: number;
  readonly maxRequests?: number;
  readonly maxTokens?: number;
  readonly maxMinutes?: number;
  readonly json?: boolean;
}

const END = { count: "as many as were wanted", ideas: "no ideas are left", budget: "the budget is spent" } as const;

export function defineSynth(command: Command, cli: CommandLine): void {
  command
    .summary("make tasks out of a folder or repository with four agents")
    .description(
      "Make Harbor tasks out of a folder or a repository's work tree. Four agents work in sandboxes: one explores and has " +
        "ideas, one builds a task, one reviews it, one solves it. What passes all checks is written to the folder; the " +
        "command can be stopped and run again.",
    )
    .argument("<source>", "folder or work tree of a git repository")
    .requiredOption("--out <dir>", "folder of the data set; one that this command began is gone on with")
    .requiredOption(
      "--policy <policy>",
      "who plays the agents: openai:URL#MODEL, a chat model's folder, or scripted:FILE",
    )
    .option("--reviewer <policy>", "another one for the review")
    .option("--solver <policy>", "another one for the attempts")
    .option(
      "--config <file>",
      "experiment whose [rollout], [engine] and [remote] hold (default: limits for long episodes)",
    )
    .option("--profile <name>", "sandbox profile of agents and tasks", "host")
    .option("--temperature <t>", "sampling temperature", realNumber("--temperature", 0, 10), 0.7)
    .option("--count <n>", "tasks wanted", wholeNumber("--count", 1, 100_000), 10)
    .option("--attempts <n>", "attempts at each task", wholeNumber("--attempts", 0, 1000), 4)
    .option("--repeats <n>", "runs of solution and of nothing that must agree", wholeNumber("--repeats", 1, 100), 3)
    .option("--revisions <n>", "times a task is built again after a fault", wholeNumber("--revisions", 0, 20), 1)
    .option("--rounds <n>", "times that ideas are looked for", wholeNumber("--rounds", 1, 1000), 3)
    .option("--concurrency <n>", "ideas worked on at once", wholeNumber("--concurrency", 1, 1000), 4)
    .option(
      "--max-requests <n>",
      "stop before another agent once so much was asked",
      wholeNumber("--max-requests", 1, 1e9),
    )
    .option("--max-tokens <n>", "the same for tokens of prompts and answers", wholeNumber("--max-tokens", 1, 1e12))
    .option("--max-minutes <n>", "the same for minutes", realNumber("--max-minutes", 0.01, 1e6))
    .option("--json", "print the result as JSON")
    .addHelpText(
      "after",
      examples(
        [
          "ale data synth ./project --out data/raw --policy openai:http://127.0.0.1:8000/v1#qwen3 --count 20",
          "a local server",
        ],
        [
          "ale data synth ./project --out data/raw --policy models/Qwen3-4B --max-minutes 60",
          "a model of this machine, for an hour",
        ],
        [
          "ale data synth ./project --out data/raw --policy scripted:agents.json --json",
          "written answers, for programs (docs/data.md)",
        ],
      ),
    )
    .action(async (source: string, flags: SynthFlags) => {
      const mode = progressMode(cli, flags.json);
      const { result } = await watch({ cli, mode, stream: cli.stderr }, async (hub, { signal }) => {
        const { synthesizeData } = await import("../../experiment/data-synth.ts");
        const { out, config, maxRequests, maxTokens, maxMinutes, json, ...rest } = flags;
        const budget = { requests: maxRequests, tokens: maxTokens, minutes: maxMinutes };
        const experiment = experimentFor(flags.policy, config);
        return synthesizeData({ ...rest, source, outDir: out, experiment, budget, hub, signal });
      });
      if (flags.json) return cli.printJson(result);
      const { tasks, rejected, attempts, solved, usage, end, folder } = result;
      const share = attempts === 0 ? "" : `, ${formatPercent(solved / attempts)} of ${attempts} attempts solved theirs`;
      cli.print(`${cli.paint("bold", `${tasks} tasks`)} in ${folder}${share}; ${rejected} rejected (rejected.jsonl)`);
      const tokens = usage.promptTokens + usage.answerTokens;
      cli.print(cli.paint("dim", `ended: ${END[end]}; ${usage.requests} requests, ${tokens} tokens`));
    });
}
