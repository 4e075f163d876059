import type { Command } from "commander";
import { type CommandLine, examples } from "./command-line.ts";
import { versionInfo } from "./version-info.ts";

export function defineVersion(command: Command, cli: CommandLine): void {
  command
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples(
        ["ale version", "Ale, its source revision, Bun, ONNX Runtime, libSQL, the machine"],
        ["ale version --json", "the same for programs"],
        ["ale --version", "the number alone"],
      ),
    )
    .action((options: { json?: boolean }) => {
      const info = versionInfo();
      if (options.json) return cli.printJson(info);
      const width = Math.max(...Object.keys(info).map((name) => name.length));
      for (const [name, value] of Object.entries(info)) cli.print(`${cli.paint("dim", name.padEnd(width))}  ${value}`);
    });
}
