import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { AleError, errorMessage } from "../../core/errors.ts";
import { type CommandLine, examples, nameList, realNumber, wholeNumber } from "../command-line.ts";
import { watch } from "../watch.ts";
import { experimentFor, printRejections, progressMode } from "./options.ts";

interface FilterFlags {
  readonly out: string;
  readonly filters?: string[];
  readonly judge?: string;
  readonly rubric?: string;
  readonly votes: number;
  readonly threshold: number;
  readonly repeats: number;
  readonly maxTurns?: number;
  readonly maxErrors?: number;
  readonly concurrency: number;
  readonly config?: string;
  readonly json?: boolean;
}

const FILTERS = ["heuristic", "execution", "judge"];

export function defineFilter(command: Command, cli: CommandLine): void {
  command
    .summary("leave out tasks and trajectories that do not hold")
    .description(
      "Copy a data set, or any suite, without what does not hold: by heuristics (lengths, leaks, forbidden paths, " +
        "repetition, errors), by running it (oracle 1, nothing 0, several times alike), by a judge with a rubric. Each " +
        "rejection has its reason in rejected.jsonl.",
    )
    .argument("<data>", "data set, or a suite of tasks")
    .requiredOption("--out <dir>", "folder of the filtered data set; must be empty or new")
    .option("--filters <a,b>", `which: ${FILTERS.join(", ")} (default: all; judge only with --judge)`, nameList)
    .option("--judge <policy>", "who judges: openai:URL#MODEL, a chat model's folder, or scripted:FILE")
    .option("--rubric <file>", "text file with a rubric in place of the built-in ones")
    .option("--votes <n>", "times that the judge is asked about each", wholeNumber("--votes", 1, 100), 1)
    .option("--threshold <score>", "smallest mean score from 0 to 1 that passes", realNumber("--threshold", 0, 1), 0.6)
    .option("--repeats <n>", "runs of solution and of nothing that must agree", wholeNumber("--repeats", 1, 100), 3)
    .option("--max-turns <n>", "turns of a trajectory (default 40)", wholeNumber("--max-turns", 1, 100_000))
    .option("--max-errors <share>", "share of failed commands in one (default 0.5)", realNumber("--max-errors", 0, 1))
    .option("--concurrency <n>", "tasks looked at at once", wholeNumber("--concurrency", 1, 1000), 8)
    .option("--config <file>", "experiment whose [engine] and [remote] hold")
    .option("--json", "print the result as JSON")
    .addHelpText(
      "after",
      examples(
        ["ale data filter data/raw --out data/checked", "heuristics, and three runs of each task"],
        [
          "ale data filter data/raw --out data/judged --judge openai:http://127.0.0.1:8000/v1#qwen3 --votes 3",
          "and a judge",
        ],
        ["ale data filter ./my-tasks --out data/mine --filters heuristic --json", "any suite, without running it"],
      ),
    )
    .action(async (data: string, flags: FilterFlags) => {
      const wanted = wantedFilters(flags);
      const { result } = await watch(
        { cli, mode: progressMode(cli, flags.json), stream: cli.stderr },
        async (hub, { signal }) => {
          const { filterDataSet } = await import("../../experiment/data-filters.ts");
          const { HEURISTIC_LIMITS } = await import("../../data/heuristics.ts");
          const { out, judge: policy, votes, threshold, repeats, maxTurns, maxErrors, concurrency } = flags;
          const own = {
            ...(maxTurns === undefined ? {} : { maxTurns }),
            ...(maxErrors === undefined ? {} : { maxErrors }),
          };
          const rubric = flags.rubric === undefined ? undefined : readRubric(flags.rubric);
          return filterDataSet({
            ...{ data, outDir: out, concurrency, hub, signal },
            experiment: experimentFor(policy ?? "openai", flags.config),
            heuristic: wanted.has("heuristic") ? { ...HEURISTIC_LIMITS, ...own } : undefined,
            execution: wanted.has("execution") ? repeats : undefined,
            judge: wanted.has("judge") && policy !== undefined ? { policy, votes, threshold, rubric } : undefined,
          });
        },
      );
      if (flags.json) return cli.printJson(result);
      printRejections(cli, result.rejected);
      cli.print(
        `${cli.paint("bold", `${result.tasks} tasks`)} and ${result.attempts} trajectories in ${result.folder}`,
      );
    });
}

function wantedFilters({ filters = FILTERS, judge }: FilterFlags): ReadonlySet<string> {
  const unknown = filters.find((name) => !FILTERS.includes(name));
  if (unknown !== undefined || filters.length === 0) {
    throw new AleError("usage", `--filters: there is no filter ${JSON.stringify(unknown ?? "")}`, {
      hint: `filters: ${FILTERS.join(", ")}`,
    });
  }
  if (filters !== FILTERS && filters.includes("judge") && judge === undefined) {
    throw new AleError("usage", "--filters judge needs somebody who judges", { hint: "add --judge POLICY" });
  }
  return new Set(filters);
}

function readRubric(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new AleError("usage", `the rubric ${path} cannot be read: ${errorMessage(error)}`, { cause: error });
  }
}
