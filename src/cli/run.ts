import type { Command } from "commander";
import { type CommandLine, examples } from "./command-line.ts";
import { addRunOptions, loadFromFlags, overridesOf, printDryRun, type RunFlags, startRun } from "./experiment-run.ts";

export function defineRun(command: Command, cli: CommandLine): void {
  addRunOptions(command)
    .description(
      "Train a policy as an experiment file says: agents work on tasks in sandboxes, and what they did trains the " +
        "policy. Ctrl-C saves; ale resume continues.",
    )
    .addHelpText(
      "after",
      examples(
        ["ale run experiments/shell.toml", "the shipped experiment, with its live curve"],
        ["ale run experiments/shell.toml --seed 2 --out runs/second", "another seed, a named run directory"],
        [
          "ale run shell.toml mine.toml --trainer.steps 20 --optimizer.lr=1e-4",
          "two files and two settings, later ones win",
        ],
        ["ale run experiments/shell.toml --replay runs/second", "the updates of that run again, from what it recorded"],
        [
          "ale run experiments/shell.toml --reward.function ./mine.ts --trust",
          "a reward of your own (docs/rewards.md)",
        ],
        ["ale run experiments/rome.toml", "a recipe: supervised stages, then reinforcement learning"],
        ["ale run experiments/shell.toml --dry-run", "every setting as the run would see it"],
      ),
    )
    .option("--replay <run>", "train on the batches that a run recorded, by id or run directory, in place of a rollout")
    .option("--trust", "run the code that reward.function and rollout.filter.module name, as it is now")
    .action(async (files: string[], flags: RunFlags & { readonly replay?: string }) => {
      const { startRecipe } = await import("./recipe.ts");
      if (flags.replay === undefined && (await startRecipe(cli, files, overridesOf(cli, flags), flags))) return;
      const loaded = await loadFromFlags(cli, files, flags);
      const { codeOf, trustedSource } = await import("../experiment/trusted-code.ts");
      for (const code of codeOf(loaded.experiment)) trustedSource(code);
      if (flags.dryRun) {
        const { predictRunMemory } = await import("../experiment/memory.ts");
        return printDryRun(cli, loaded, flags, predictRunMemory(loaded.experiment));
      }
      const { replay } = flags;
      await startRun(cli, loaded, flags, async (options) =>
        (await import("../experiment/run.ts")).runExperiment(replay === undefined ? options : { ...options, replay }),
      );
    });
}
