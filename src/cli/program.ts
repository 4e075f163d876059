/**
 * `ale`: arguments → one verb. Only the verb that is asked for is loaded, so that help and version cost nothing.
 */

import { Command, CommanderError } from "commander";
import { suggest } from "../config/suggest.ts";
import { AleError } from "../core/errors.ts";
import { VERSION } from "../core/version.ts";
import { CommandLine, examples, type Output } from "./command-line.ts";
import { reportError, usageError } from "./report-error.ts";

type Define = (command: Command, cli: CommandLine) => void;

interface Verb {
  readonly name: string;
  readonly summary: string;
  /** Whether the verb takes dotted experiment settings such as `--trainer.steps 20`. */
  readonly settings?: boolean;
  readonly load: () => Promise<Define>;
}

/** Every verb, in the order of the help. */
export const VERBS: readonly Verb[] = [
  {
    name: "run",
    summary: "train a policy as an experiment file says",
    settings: true,
    load: async () => (await import("./run.ts")).defineRun,
  },
  {
    name: "resume",
    summary: "continue a run from its last checkpoint",
    load: async () => (await import("./resume.ts")).defineResume,
  },
  {
    name: "eval",
    summary: "measure a policy on a task suite",
    load: async () => (await import("./eval.ts")).defineEval,
  },
  {
    name: "generate",
    summary: "have a model continue a prompt",
    load: async () => (await import("./generate.ts")).defineGenerate,
  },
  {
    name: "sft",
    summary: "train on demonstrations recorded in sandboxes",
    settings: true,
    load: async () => (await import("./sft.ts")).defineSft,
  },
  {
    name: "serve",
    summary: "dashboard, API and sandboxes for others",
    load: async () => (await import("./serve.ts")).defineServe,
  },
  {
    name: "sandbox",
    summary: "run commands in sandboxes, and handle those of the service",
    load: async () => (await import("./sandbox.ts")).defineSandbox,
  },
  {
    name: "images",
    summary: "root file systems for sandboxes: import, list, remove, export",
    load: async () => (await import("./images.ts")).defineImages,
  },
  {
    name: "tasks",
    summary: "list, check and render tasks",
    load: async () => (await import("./tasks.ts")).defineTasks,
  },
  {
    name: "data",
    summary: "make, filter and select tasks for training",
    load: async () => (await import("./data.ts")).defineData,
  },
  { name: "runs", summary: "list and show stored runs", load: async () => (await import("./runs.ts")).defineRuns },
  {
    name: "export",
    summary: "write a run's trajectories and report as files",
    load: async () => (await import("./export.ts")).defineExport,
  },
  {
    name: "doctor",
    summary: "check what this machine offers, with the fix for what is missing",
    load: async () => (await import("./doctor.ts")).defineDoctor,
  },
  {
    name: "bench",
    summary: "measure speed on this machine",
    load: async () => (await import("./bench.ts")).defineBench,
  },
  {
    name: "config",
    summary: "show settings, defaults and the JSON schema",
    settings: true,
    load: async () => (await import("./config.ts")).defineConfig,
  },
  {
    name: "version",
    summary: "print the versions of Ale and what it is built from",
    load: async () => (await import("./version.ts")).defineVersion,
  },
];

/**
 * Runs a command line (without the program's name) and returns the exit code: 0 done, 1 the job failed, 2 the input can be
 * corrected, 130 interrupted.
 */
export async function runCli(argv: readonly string[], streams: Streams = process): Promise<number> {
  const json = argv.includes("--json");
  let cli = new CommandLine(streams);
  cli.tolerateFailedWrites();
  let program: Command | undefined;
  try {
    const { rest, overrides } = await takeSettings(argv);
    cli = new CommandLine({ ...pickStreams(streams), overrides });
    program = await buildProgram(rest, cli);
    if (rest.length === 0) {
      program.outputHelp();
      return 0;
    }
    if (rest[0] === "help") refuseUnknownTopic(program, rest.slice(1));
    await program.parseAsync(rest, { from: "user" });
    return cli.exitCode;
  } catch (error) {
    if (!(error instanceof CommanderError)) return reportError(error, cli, json);
    if (error.exitCode === 0) return 0;
    if (error.code === "commander.help") return 2; // A command without its subcommand: the help was shown.
    return reportError(await explainUsage(error, program, argv), cli, json);
  }
}

interface Streams {
  readonly stdout: Output;
  readonly stderr: Output;
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** A parser error in our form; an unknown `--steps` is recognised as the setting `--trainer.steps`. */
async function explainUsage(
  error: CommanderError,
  program: Command | undefined,
  argv: readonly string[],
): Promise<AleError> {
  const path = commandPath(program, argv);
  const usage = usageError(error, path.join(" "));
  const [, option] = /^unknown option '--([^'=]*)/.exec(usage.message) ?? [];
  const verb = VERBS.find((candidate) => candidate.name === path[1]);
  if (option === undefined || verb?.settings !== true || usage.message.includes("did you mean")) return usage;
  const { listSettings } = await import("../config/schema-tree.ts");
  const keys = listSettings().map((setting) => setting.key);
  const same = keys.filter((key) => key.split(".").at(-1) === option).map((key) => `--${key}`);
  if (same.length === 0) return usage;
  return new AleError("usage", `${usage.message}; did you mean ${same.join(" or ")}?`, { hint: usage.hint ?? "" });
}

function pickStreams({ stdout, stderr, env }: Streams): Streams {
  return { stdout, stderr, ...(env === undefined ? {} : { env }) };
}

/** Dotted settings are taken out before commander sees the arguments; they need the schema, which is loaded only then. */
async function takeSettings(
  argv: readonly string[],
): Promise<{ rest: readonly string[]; overrides: readonly string[] }> {
  if (!argv.some((argument) => /^--[A-Za-z][\w-]*\./.test(argument))) return { rest: argv, overrides: [] };
  const { splitOverrides } = await import("../config/overrides.ts");
  return splitOverrides(argv);
}

/** The program with the verb of `argv` loaded and the others known by name and summary. */
export async function buildProgram(argv: readonly string[], cli: CommandLine): Promise<Command> {
  const program = configure(new Command("ale"), cli)
    .description("An agentic learning ecosystem: agents work on real tasks in real sandboxes and learn from it.")
    .version(`ale ${VERSION}`, "-V, --version", "print the version")
    .helpCommand("help [command]", "show help for a command")
    .addHelpText(
      "after",
      examples(
        ["ale run experiments/shell.toml", "watch a small policy learn shell work"],
        ["ale doctor", "check this machine"],
        ["ale help run", "options and examples of a command"],
      ),
    );
  program.hook("preAction", () => removeLeftovers(cli));
  const words = argv.filter((argument) => !argument.startsWith("-"));
  const wanted = words[0] === "help" ? words[1] : words[0];
  for (const verb of VERBS) {
    const command = configure(program.command(verb.name), cli)
      .summary(verb.summary)
      .description(sentence(verb.summary));
    if (verb.name === wanted) {
      if (cli.overrides.length > 0 && verb.settings !== true) throw refuseSettings(verb.name, cli.overrides);
      (await verb.load())(command, cli);
      for (const child of command.commands) configure(child, cli);
    }
  }
  return program;
}

/** Control groups and folders that a killed Ale left are gone after the next command, whatever it is. */
async function removeLeftovers(cli: CommandLine): Promise<void> {
  const [{ reapOrphans }, { sandboxStateDir }] = await Promise.all([
    import("../sandbox/registry.ts"),
    import("../config/paths.ts"),
  ]);
  await reapOrphans(sandboxStateDir(cli.env));
}

function configure(command: Command, cli: CommandLine): Command {
  const paint = cli.paint;
  return command
    .exitOverride()
    .helpOption("-h, --help", "show this help")
    .showSuggestionAfterError(true)
    .configureHelp({
      sortSubcommands: false,
      styleTitle: (title) => paint("bold", title),
      subcommandTerm: (child) => child.name(),
    })
    .configureOutput({
      writeOut: (text) => void cli.stdout.write(text),
      writeErr: (text) => void cli.stderr.write(text),
      outputError: () => {}, // reportError prints it, once and in one form
      getOutHelpWidth: () => Math.min(cli.stdout.columns ?? 100, 110),
    });
}

function sentence(summary: string): string {
  return `${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`;
}

/** `ale help WORD…` of a command that does not exist would show the help of `ale` and say nothing of the mistake. */
function refuseUnknownTopic(program: Command, words: readonly string[]): void {
  let command = program;
  for (const word of words.filter((argument) => !argument.startsWith("-"))) {
    const names = command.commands.map((child) => child.name());
    const child = command.commands.find((candidate) => candidate.name() === word);
    if (child === undefined) {
      const meant = suggest(word, names);
      const help = command === program ? "ale --help" : `ale ${command.name()} --help`;
      throw new AleError(
        "usage",
        `there is no command "${word}"${meant === undefined ? "" : `; did you mean ${meant}?`}`,
        {
          hint: help,
        },
      );
    }
    command = child;
  }
}

function refuseSettings(verb: string, overrides: readonly string[]): AleError {
  const key = (overrides[0] ?? "").split("=")[0];
  const hint =
    verb === "resume"
      ? "a run keeps its settings; start a new one with ale run FILE and these settings"
      : `ale ${verb} --help lists its options`;
  return new AleError("usage", `ale ${verb} takes no experiment settings (--${key})`, { hint });
}

/** `ale tasks check` for the arguments of that command, for the hint to its help. */
function commandPath(program: Command | undefined, argv: readonly string[]): string[] {
  const path = ["ale"];
  let command = program;
  for (const word of argv.filter((argument) => !argument.startsWith("-"))) {
    command = command?.commands.find((child) => child.name() === word);
    if (command === undefined) break;
    path.push(word);
  }
  return path;
}
