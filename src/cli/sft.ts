import type { Command } from "commander";
import { type CommandLine, examples } from "./command-line.ts";
import { addRunOptions, loadFromFlags, printDryRun, type RunFlags, startRun } from "./experiment-run.ts";

export function defineSft(command: Command, cli: CommandLine): void {
  addRunOptions(command)
    .description(
      "Record demonstrations by running known solutions (and, where the file says so, typical mistakes) in sandboxes, " +
        "and train a policy to imitate them. The result is a folder that ale run and ale eval take as a policy.",
    )
    .addHelpText(
      "after",
      examples(
        ["ale sft experiments/shell-sft.toml --out runs/warm-start", "make the warm start of the shipped experiment"],
        ["ale sft experiments/shell-sft.toml --sft.demonstrations 600 --out runs/small", "fewer demonstrations"],
        ["ale eval shell --policy runs/warm-start --samples 200", "measure what it learned"],
      ),
    )
    .action(async (files: string[], flags: RunFlags) => {
      const loaded = await loadFromFlags(cli, files, flags);
      if (flags.dryRun) return printDryRun(cli, loaded, flags);
      await startRun(cli, loaded, flags, async (options) => (await import("../experiment/sft.ts")).runSft(options));
    });
}
