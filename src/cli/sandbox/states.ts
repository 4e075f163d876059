/** `ale sandbox`: what sandboxes of the service are doing, and changes of their state. */

import type { Command } from "commander";
import type { NetworkUsage } from "../../core/ports.ts";
import type { SandboxStatistics } from "../../sandbox/requests.ts";
import { formatTable } from "../../tui/table.ts";
import { type CommandLine, examples } from "../command-line.ts";
import { addServiceOption, type SandboxView, ServiceClient, type ServiceFlags } from "./client.ts";
import { mb } from "./kept.ts";

interface Flags extends ServiceFlags {
  readonly json?: boolean;
}

type Statistics = SandboxStatistics & NetworkUsage;

const CHANGES = [
  ["pause", "hold every process of a sandbox", "Hold every process of running sandboxes; time limits stand still."],
  ["resume", "let a paused sandbox go on", "Let the processes of paused sandboxes go on."],
  ["stop", "end the processes of a sandbox and keep its files", "End every process of sandboxes; their files stay."],
  [
    "restart",
    "start a stopped sandbox",
    "Start stopped sandboxes again, with their files and without their processes.",
  ],
] as const;

export function defineStates(command: Command, cli: CommandLine): void {
  defineStatistics(command.command("stats"), cli);
  for (const [name, summary, description] of CHANGES)
    addServiceOption(command.command(name))
      .summary(summary)
      .description(description)
      .argument("<name...>", "the sandboxes")
      .option("--json", "print JSON: the sandboxes")
      .addHelpText(
        "after",
        examples([`ale sandbox ${name} build`, "one"], [`ale sandbox ${name} build try2 --json`, "several"]),
      )
      .action(async (names: string[], flags: Flags) => {
        const client = new ServiceClient(cli, flags);
        const views: SandboxView[] = [];
        for (const sandbox of names)
          views.push(await client.json<SandboxView>("POST", `/${encodeURIComponent(sandbox)}/${name}`));
        if (flags.json) cli.printJson(views);
      });
}

function defineStatistics(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("what sandboxes of the service use")
    .description(
      "Show what sandboxes use and have used: processor time, memory now and at most, processes ended for want of memory, " +
        "processes, files, and bytes through their network.",
    )
    .argument("[name...]", "the sandboxes (default: all that run)")
    .option("--json", "print JSON, a list")
    .addHelpText("after", examples(["ale sandbox stats", "all that run"], ["ale sandbox stats build --json", "one"]))
    .action(async (names: string[], flags: Flags) => {
      const client = new ServiceClient(cli, flags);
      const chosen = names.length > 0 ? names : await running(client);
      const rows: (Statistics & { readonly sandbox: string })[] = [];
      for (const sandbox of chosen)
        rows.push({
          sandbox,
          ...(await client.json<Statistics>("GET", `/${encodeURIComponent(sandbox)}/statistics`)),
        });
      if (flags.json) return cli.printJson(rows);
      if (rows.length === 0) return cli.note("no sandboxes run");
      type Row = (typeof rows)[number];
      const right = (title: string, value: (row: Row) => string) => ({ title, align: "right" as const, value });
      const size = (bytes: number | null) => (bytes === null ? "?" : mb(bytes));
      const columns = [
        { title: "name", value: (row: Row) => row.sandbox },
        right("cpu", ({ cpuSeconds }) => (cpuSeconds === null ? "?" : `${cpuSeconds.toFixed(2)} s`)),
        right("memory", (row) => size(row.memoryBytes)),
        right("at most", (row) => size(row.memoryPeakBytes)),
        right("oom kills", (row) => String(row.memoryKills ?? "?")),
        right("processes", (row) => String(row.processes ?? "?")),
        right("disk", (row) => size(row.diskBytes)),
        right("bytes out", (row) => mb(row.bytesOut)),
        right("bytes in", (row) => mb(row.bytesIn)),
      ];
      cli.print(formatTable(rows, columns, cli.paint));
    });
}

async function running(client: ServiceClient): Promise<string[]> {
  return (await client.list()).filter(({ state }) => state === "running" || state === "paused").map(({ id }) => id);
}
