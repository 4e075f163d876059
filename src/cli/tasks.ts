import { type Command, Option } from "commander";
import { AleError } from "../core/errors.ts";
import { SPLITS, type Split } from "../core/types.ts";
import type { TaskCheck } from "../experiment/api.ts";
import { formatDuration } from "../tui/format.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { formatTable } from "../tui/table.ts";
import { type CommandLine, examples, nameList, wholeNumber } from "./command-line.ts";
import { viewModeFor, watch } from "./watch.ts";

export function defineTasks(command: Command, cli: CommandLine): void {
  command.addHelpText(
    "after",
    examples(
      ["ale tasks ls", "the suites that come with Ale"],
      ["ale tasks check shell --samples 28", "does every oracle score 1 and doing nothing 0?"],
      ["ale tasks render shell/cfg --seed 7 --out /tmp/task", "one instance as a Harbor folder"],
    ),
  );
  defineList(command.command("ls"), cli);
  defineCheck(command.command("check"), cli);
  defineRender(command.command("render"), cli);
}

function defineList(command: Command, cli: CommandLine): void {
  command
    .summary("list suites, or the families of a suite")
    .description("List the suites that come with Ale, or the task families of one suite.")
    .argument("[suite]", "a folder, or the name of an embedded suite")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples(
        ["ale tasks ls", "suites"],
        ["ale tasks ls shell", "families with an example instruction"],
        ["ale tasks ls ./my-tasks --json", "a folder of yours, for programs"],
      ),
    )
    .action(async (suite: string | undefined, flags: { json?: boolean }) => {
      if (suite === undefined) await listSuites(cli, flags.json ?? false);
      else await listFamilies(cli, suite, flags.json ?? false);
    });
}

async function listSuites(cli: CommandLine, json: boolean): Promise<void> {
  const { embeddedSuites } = await import("../tasks/source.ts");
  const { loadSuite } = await import("../tasks/suite.ts");
  const suites = embeddedSuites().map((path) => ({ suite: path, families: loadSuite(path).families.length }));
  if (json) return cli.printJson(suites);
  cli.print(
    formatTable(
      suites,
      [
        { title: "suite", value: ({ suite }) => suite },
        { title: "families", align: "right", value: ({ families }) => String(families) },
      ],
      cli.paint,
    ),
  );
}

async function listFamilies(cli: CommandLine, path: string, json: boolean): Promise<void> {
  const { loadSuite } = await import("../tasks/suite.ts");
  const suite = loadSuite(path);
  const families = suite.families.map((name) => {
    const family = suite.family(name);
    const task = family.render("train", 0);
    return {
      family: name,
      description: family.description,
      instances: family.parametric ? "many" : "one",
      profile: family.environment.image ?? family.environment.profile,
      example: task.instruction,
    };
  });
  if (json) return cli.printJson(families);
  cli.print(
    formatTable(
      families,
      [
        { title: "family", value: ({ family }) => family },
        { title: "instances", value: ({ instances }) => instances },
        { title: "profile", value: ({ profile }) => profile },
        { title: "an instance", value: ({ example, description }) => example || description },
      ],
      cli.paint,
    ),
  );
}

interface CheckFlags {
  readonly samples: number;
  readonly families?: string[];
  readonly json?: boolean;
}

function defineCheck(command: Command, cli: CommandLine): void {
  command
    .summary("run the oracle and nothing at all on instances of a suite")
    .description(
      "Run the reference solution (must score 1) and nothing at all (must score 0) on instances of a suite, in real " +
        "sandboxes. Exit code 1 when a task fails.",
    )
    .argument("<suite>", "a folder, or the name of an embedded suite")
    .option("--samples <n>", "instances in all", wholeNumber("--samples", 1, 1_000_000), 28)
    .option("--families <a,b>", "only these task families", nameList)
    .option("--json", "print JSON: task, seed, oracle, noop, ms of each instance")
    .addHelpText(
      "after",
      examples(
        ["ale tasks check shell", "two instances of each family"],
        ["ale tasks check ./my-tasks --samples 1", "a task of yours"],
        ["ale tasks check shell --families cfg,json --samples 100 --json", "two families, for programs"],
      ),
    )
    .action(async (suite: string, flags: CheckFlags) => {
      const mode = flags.json && cli.stderr.isTTY !== true ? "quiet" : viewModeFor(cli, cli.stderr);
      const { result: checks } = await watch({ cli, mode, stream: cli.stderr }, async (hub, { signal }) => {
        const { checkTasks } = await import("../experiment/check.ts");
        const { samples, families } = flags;
        const options = { suite, samples, hub, signal, ...(families === undefined ? {} : { families }) };
        const collected: TaskCheck[] = [];
        for await (const check of checkTasks(options)) collected.push(check);
        return collected.sort((a, b) => (a.task < b.task ? -1 : a.task > b.task ? 1 : a.seed - b.seed));
      });
      const bad = checks.filter((check) => check.oracle !== 1 || check.noop !== 0 || check.error !== undefined);
      if (flags.json) cli.printJson(checks);
      else printChecks(cli, checks, bad);
      if (bad.length > 0) cli.exitCode = 1;
    });
}

function printChecks(cli: CommandLine, checks: readonly TaskCheck[], bad: readonly TaskCheck[]): void {
  const { paint } = cli;
  cli.print(
    formatTable(
      checks,
      [
        { title: "task", value: ({ task }) => task },
        { title: "seed", align: "right", value: ({ seed }) => String(seed) },
        {
          title: "oracle",
          align: "right",
          value: ({ oracle }) => String(oracle),
          style: ({ oracle }) => (oracle === 1 ? "green" : "red"),
        },
        {
          title: "nothing",
          align: "right",
          value: ({ noop }) => String(noop),
          style: ({ noop }) => (noop === 0 ? "green" : "red"),
        },
        { title: "time", align: "right", value: ({ ms }) => formatDuration(ms) },
      ],
      paint,
    ),
  );
  cli.print("");
  if (bad.length === 0) {
    const count = checks.length === 1 ? "1 instance" : `${checks.length} instances`;
    cli.print(`${paint("green", "good")}: ${count}, every oracle scores 1 and doing nothing 0`);
    return;
  }
  cli.print(`${paint("red", "wrong")}: ${bad.length} of ${checks.length} instances`);
  for (const check of bad.slice(0, MAX_REASONS)) {
    cli.print(`  ${sanitizeLine(check.task, 100)}: ${sanitizeLine(whatIsWrong(check), 500)}`);
  }
  if (bad.length > MAX_REASONS) cli.print(paint("dim", "  --json tells all of them"));
}

/** Wrong instances that are explained one by one. */
const MAX_REASONS = 10;

function whatIsWrong({ error, oracle, noop }: TaskCheck): string {
  if (error !== undefined) return error;
  if (oracle !== 1) return `solution/solve.sh scores ${oracle} instead of 1`;
  return `doing nothing scores ${noop} instead of 0`;
}

interface RenderFlags {
  readonly out: string;
  readonly split: Split;
  readonly seed: number;
  readonly json?: boolean;
}

function defineRender(command: Command, cli: CommandLine): void {
  command
    .summary("write an instance of a task family as a folder")
    .description("Write an instance of a task family as a task folder in Harbor form, to look at or to use elsewhere.")
    .argument("<suite/family>", "a family of a suite, e.g. shell/cfg")
    .requiredOption("--out <dir>", "folder to write; must be empty or new")
    .addOption(new Option("--split <split>", "pool of the instance").choices([...SPLITS]).default("train"))
    .option("--seed <n>", "seed of the instance", wholeNumber("--seed", 0, 2 ** 31 - 1), 0)
    .option("--json", "print JSON: task, folder, files")
    .addHelpText(
      "after",
      examples(
        ["ale tasks render shell/cfg --out /tmp/task", "instance 0 of the training pool"],
        ["ale tasks render tasks/shell/json --split heldout --seed 7 --out held-out-7", "a held-out instance"],
      ),
    )
    .action(async (name: string, flags: RenderFlags) => {
      const { suite, family } = splitTaskName(name);
      const { loadSuite } = await import("../tasks/suite.ts");
      const { writeTask } = await import("../tasks/write.ts");
      const task = loadSuite(suite, { families: [family] }).render(family, flags.split, flags.seed);
      const files = writeTask(task, flags.out);
      if (flags.json) return cli.printJson({ task: task.id, folder: flags.out, files });
      cli.print(`${sanitizeLine(task.id)} written to ${sanitizeLine(flags.out)}`);
      cli.print(cli.paint("dim", sanitizeLine(task.instruction, 300)));
    });
}

function splitTaskName(name: string): { suite: string; family: string } {
  const plain = name.replace(/\/+$/, "");
  const slash = plain.lastIndexOf("/");
  if (slash > 0) return { suite: plain.slice(0, slash), family: plain.slice(slash + 1) };
  throw new AleError("usage", `${JSON.stringify(name)} names no family; expected suite/family, e.g. shell/cfg`, {
    hint: "ale tasks ls SUITE lists the families of a suite",
  });
}
