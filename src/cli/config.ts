import type { Command } from "commander";
import { loadExperiment } from "../config/load.ts";
import { experimentJsonSchema } from "../config/schema-tree.ts";
import { highlightToml } from "../tui/highlight.ts";
import { type CommandLine, examples } from "./command-line.ts";

export function defineConfig(command: Command, cli: CommandLine): void {
  command.addHelpText(
    "after",
    examples(
      ["ale config show", "every setting with its default, bounds and meaning"],
      ["ale config show experiments/shell.toml --trainer.steps 20", "a resolved experiment"],
      ["ale config schema > experiment.schema.json", "for editors and other programs"],
    ),
  );

  command
    .command("show")
    .summary("print an experiment with every setting filled in")
    .description("Print an experiment with every setting filled in; without a file, the defaults.")
    .argument("[file...]", "experiment files; later ones win")
    .option("--changed", "only settings that differ from their defaults")
    .option("--json", "print JSON: experiment, changed, configHash")
    .addHelpText(
      "after",
      examples(
        ["ale config show", "the defaults"],
        ["ale config show experiments/shell.toml --changed", "what the file changes"],
        ["ale config show shell.toml mine.toml --optimizer.lr 1e-4 --json", "merged, for programs"],
      ),
    )
    .action((files: string[], options: { changed?: boolean; json?: boolean }) => {
      const loaded = loadExperiment({ files, overrides: cli.overrides });
      if (options.json) {
        cli.printJson({ experiment: loaded.experiment, changed: loaded.changed, configHash: loaded.hash });
      } else if (options.changed) {
        for (const { key, value, default: before } of loaded.changed) {
          cli.print(`${key} = ${JSON.stringify(value)}${cli.paint("dim", `  # default ${JSON.stringify(before)}`)}`);
        }
      } else {
        cli.stdout.write(highlightToml(loaded.toml, cli.paint));
      }
    });

  command
    .command("schema")
    .summary("print the JSON schema of experiment files")
    .description("Print the JSON schema of experiment files: type, default, bounds and meaning of every setting.")
    .option("--json", "the output is JSON with or without it")
    .addHelpText(
      "after",
      examples(
        ["ale config schema > experiment.schema.json", "save it"],
        ["ale config schema | jq '.properties.rollout'", "one table of it"],
      ),
    )
    .action(() => cli.print(JSON.stringify(experimentJsonSchema(), null, 2)));
}
