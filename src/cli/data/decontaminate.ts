import { resolve } from "node:path";
import type { Command } from "commander";
import { type CommandLine, examples, realNumber, wholeNumber } from "../command-line.ts";
import { printRejections } from "./options.ts";

interface DecontaminateFlags {
  readonly out: string;
  readonly against: string[];
  readonly ngram: number;
  readonly threshold: number;
  readonly instances: number;
  readonly json?: boolean;
}

export function defineDecontaminate(command: Command, cli: CommandLine): void {
  command
    .summary("leave out tasks that a held-out suite has too")
    .description(
      "Copy a data set without the tasks whose instruction, solution or tests share too many n-grams of words with those of " +
        "held-out suites. overlaps.jsonl says for every task what it shares, and with which.",
    )
    .argument("<data>", "data set, or a suite of tasks")
    .requiredOption("--out <dir>", "folder of what is left; must be empty or new")
    .requiredOption("--against <suite...>", "held-out suites")
    .option("--ngram <n>", "words per n-gram; shorter texts count as one", wholeNumber("--ngram", 1, 100), 8)
    .option(
      "--threshold <share>",
      "share of a part's n-grams from which on it is left out",
      realNumber("--threshold", 0.01, 1),
      0.3,
    )
    .option(
      "--instances <n>",
      "held-out instances per family that are compared with",
      wholeNumber("--instances", 1, 10_000),
      16,
    )
    .option("--json", "print the result as JSON")
    .addHelpText(
      "after",
      examples(
        [
          "ale data decontaminate data/train --against shell --out data/clean",
          "against the held-out instances of a suite",
        ],
        [
          "ale data decontaminate data/train --against ./bench-a ./bench-b --out data/clean --ngram 13",
          "two, long n-grams",
        ],
        [
          "ale data decontaminate data/train --against shell --out data/clean --threshold 0.1 --json",
          "strict, for programs",
        ],
      ),
    )
    .action(async (path: string, { out, against, ngram: n, threshold, instances, json }: DecontaminateFlags) => {
      const { openDataSet } = await import("../../data/data-set.ts");
      const { decontaminate } = await import("../../data/decontaminate.ts");
      const { loadSuite } = await import("../../tasks/suite.ts");
      const suites = against.map((suite) => loadSuite(suite));
      const result = await decontaminate(openDataSet(path), suites, { folder: resolve(out), n, threshold, instances });
      if (json) return cli.printJson(result);
      printRejections(cli, result.rejected);
      cli.print(
        `${cli.paint("bold", `${result.tasks} tasks`)} in ${result.folder}, compared with ${result.compared} held-out ones`,
      );
    });
}
