import { readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { type Command, Option } from "commander";
import { AleError, errorMessage } from "../../core/errors.ts";
import { type CommandLine, examples, wholeNumber } from "../command-line.ts";
import { printRejections } from "./options.ts";

interface ReviewFlags {
  readonly sample?: number;
  readonly kind: "task" | "trajectory";
  readonly seed: number;
  readonly sheet: string;
  readonly out?: string;
  readonly json?: boolean;
}

export function defineReview(command: Command, cli: CommandLine): void {
  command
    .summary("have a person look at a sample")
    .description(
      "With --sample: write a sheet with random tasks or trajectories for a person to mark. With --out: read the marked " +
        "sheet back and copy the data set without what was rejected. A sheet is Markdown, or JSON lines if its name ends in .jsonl.",
    )
    .argument("<data>", "data set, or a suite of tasks")
    .requiredOption("--sheet <file>", "the sheet, e.g. review.md or review.jsonl")
    .option("--sample <n>", "write the sheet with so many entries", wholeNumber("--sample", 1, 100_000))
    .addOption(new Option("--kind <kind>", "what is sampled").choices(["task", "trajectory"]).default("task"))
    .option("--seed <n>", "seed of the sample", wholeNumber("--seed", 0, 2 ** 30), 0)
    .option("--out <dir>", "read the sheet; folder of what is left, must be empty or new")
    .option("--json", "print the result as JSON")
    .addHelpText(
      "after",
      examples(
        ["ale data review data/checked --sheet review.md --sample 20", "a sheet to mark"],
        ["ale data review data/checked --sheet review.md --out data/reviewed", "and without what was rejected"],
        ["ale data review data/checked --sheet r.jsonl --sample 50 --kind trajectory --json", "for a program of yours"],
      ),
    )
    .action(async (path: string, flags: ReviewFlags) => {
      if ((flags.sample === undefined) === (flags.out === undefined)) {
        throw new AleError("usage", "either write a sheet or read one", { hint: "give --sample N, or --out DIR" });
      }
      const { openDataSet } = await import("../../data/data-set.ts");
      const sheets = await import("../../data/review-sheet.ts");
      const data = openDataSet(path);
      const { sheet, kind, seed, sample, out, json } = flags;
      const form = sheet.endsWith(".jsonl") ? "jsonl" : "markdown";
      if (sample !== undefined) {
        const entries = sheets.sampleEntries(data, kind, sample, seed);
        onFile(sheet, () => writeFileSync(sheet, sheets.writeSheetText(entries, form), { flag: "wx" }));
        if (json) return cli.printJson({ sheet, entries: entries.length });
        return cli.print(
          `${entries.length} entries in ${sheet}; mark them, then: ale data review ${path} --sheet ${sheet} --out DIR`,
        );
      }
      const marks = sheets.readMarks(
        onFile(sheet, () => readFileSync(sheet, "utf8")),
        form,
        sheet,
      );
      const result = await sheets.applyMarks(data, marks, resolve(out ?? ""));
      if (json) return cli.printJson(result);
      printRejections(cli, result.rejected);
      const { accepted, rejected, unmarked, tasks, folder } = result;
      cli.print(`${accepted} accepted, ${rejected.length} rejected, ${unmarked} unmarked; ${tasks} tasks in ${folder}`);
    });
}

function onFile<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    const isThere = error instanceof Error && "code" in error && error.code === "EEXIST";
    throw new AleError("usage", isThere ? `${path} exists already` : `${path}: ${errorMessage(error)}`, {
      hint: isThere ? "give it another name; marks are not written over" : "check the path",
      cause: error,
    });
  }
}
