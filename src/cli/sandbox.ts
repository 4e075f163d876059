/** `ale sandbox`: sandboxes for people, here and at a running service. */

import type { Command } from "commander";
import { AleError } from "../core/errors.ts";
import { formatDuration } from "../tui/format.ts";
import { sanitizeLine, sanitizeText } from "../tui/sanitize.ts";
import { formatTable } from "../tui/table.ts";
import { defineSandboxBench } from "./bench.ts";
import { type CommandLine, examples } from "./command-line.ts";
import { attach, isInteractive, terminalSize } from "./sandbox/attach.ts";
import { addServiceOption, type SandboxView, ServiceClient, type ServiceFlags } from "./sandbox/client.ts";
import { defineKept } from "./sandbox/kept.ts";
import { defineSandboxRun } from "./sandbox/run.ts";
import { defineStates } from "./sandbox/states.ts";

interface Flags extends ServiceFlags {
  readonly json?: boolean;
}

export function defineSandbox(command: Command, cli: CommandLine): void {
  command.addHelpText(
    "after",
    examples(
      ["ale sandbox run -- bash", "a shell in a sandbox of its own"],
      ["ale sandbox ps", "the sandboxes of a running ale serve"],
      ["ale sandbox shell NAME", "a shell in one of them"],
    ),
  );
  defineSandboxRun(command.command("run"), cli);
  definePs(command.command("ps"), cli);
  defineShell(command.command("shell"), cli);
  defineLogs(command.command("logs"), cli);
  defineCopy(command.command("cp"), cli);
  defineFork(command.command("fork"), cli);
  defineKill(command.command("kill"), cli);
  defineStates(command, cli);
  defineKept(command, cli);
  defineSandboxBench(command.command("bench"), cli);
}

function definePs(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("list the sandboxes of the service")
    .description("List the sandboxes of a running service: state, limits, and when they end by themselves.")
    .option("--json", "print JSON")
    .addHelpText("after", examples(["ale sandbox ps", "all of them"], ["ale sandbox ps --json", "for programs"]))
    .action(async (flags: Flags) => {
      const sandboxes = await new ServiceClient(cli, flags).list();
      if (flags.json) return cli.printJson(sandboxes);
      if (sandboxes.length === 0) return cli.note("no sandboxes");
      const until = ({ expiresAt, expiresBy }: SandboxView) =>
        expiresAt === null ? "" : `${expiresBy} in ${formatDuration(Math.max(0, Date.parse(expiresAt) - Date.now()))}`;
      const columns = [
        { title: "name", value: (row: SandboxView) => row.id },
        { title: "state", value: (row: SandboxView) => row.state },
        { title: "made of", value: (row: SandboxView) => row.image ?? row.profile },
        { title: "memory", align: "right" as const, value: (row: SandboxView) => `${row.memoryMb} MB` },
        {
          title: "age",
          align: "right" as const,
          value: (row: SandboxView) => formatDuration(Date.now() - Date.parse(row.createdAt)),
        },
        { title: "ends", value: until },
      ];
      cli.print(formatTable(sandboxes, columns, cli.paint));
    });
}

function defineShell(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("open a shell in a sandbox of the service")
    .description("Open a shell in a sandbox of a running service. Its terminal ends with it; the sandbox stays.")
    .argument("<name>", "the sandbox")
    .argument("[command...]", "another program, behind --", ["bash", "-i"])
    .addHelpText(
      "after",
      examples(["ale sandbox shell build", "bash"], ["ale sandbox shell build -- python3", "another program"]),
    )
    .action(async (name: string, argv: string[], flags: ServiceFlags) => {
      if (!isInteractive())
        throw new AleError("usage", "a shell needs a terminal on both sides", {
          hint: "ale sandbox run --json -- CMD, for programs",
        });
      const client = new ServiceClient(cli, flags);
      const base = `/${encodeURIComponent(name)}/terminals`;
      const { terminal } = await client.json<{ terminal: number }>("POST", base, { command: argv, ...terminalSize() });
      const path = `${base}/${terminal}`;
      try {
        cli.exitCode = await attach({
          read: async (waitMs) => {
            const got = await client.json<{ output: string; ended: boolean; exitCode: number | null }>(
              "GET",
              `${path}/output?waitMs=${waitMs}`,
            );
            return { ...got, output: Buffer.from(got.output, "base64") };
          },
          write: async (input) => void (await client.send("POST", `${path}/input`, new Uint8Array(input))),
          resize: async (rows, columns) => void (await client.send("POST", `${path}/size`, { rows, columns })),
        });
      } finally {
        await client.send("DELETE", path).catch(() => {}); // with the sandbox, its terminals ended
      }
    });
}

interface LogEntry {
  readonly at: string;
  readonly where: string;
  readonly command: string;
  readonly status: string;
  readonly exitCode: number | null;
  readonly ms: number;
  readonly output: string;
}

function defineLogs(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("what was run in a sandbox")
    .description("Show the last hundred commands of a sandbox, or the output of one that runs in the background.")
    .argument("<name>", "the sandbox")
    .argument("[command]", "a command in the background, such as c1: its whole output")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples(
        ["ale sandbox logs build", "its last commands"],
        ["ale sandbox logs build c1", "output of ale sandbox run --detach"],
      ),
    )
    .action(async (name: string, id: string | undefined, flags: Flags) => {
      const client = new ServiceClient(cli, flags);
      if (id !== undefined) return showOutput(cli, client, name, id, flags.json ?? false);
      const { entries } = await client.json<{ entries: readonly LogEntry[] }>(
        "GET",
        `/${encodeURIComponent(name)}/log`,
      );
      if (flags.json) return cli.printJson(entries);
      for (const { at, where, command: text, status, exitCode, ms, output } of entries) {
        const end = status === "exited" ? `exit ${exitCode}` : status;
        cli.print(
          `${cli.paint("dim", at)} ${sanitizeLine(where)} ${cli.paint("bold", sanitizeLine(text))} (${end}, ${formatDuration(ms)})`,
        );
        if (output !== "") cli.print(sanitizeText(output).trimEnd());
      }
    });
}

const LOG_PART = 1 << 20;

async function showOutput(
  cli: CommandLine,
  client: ServiceClient,
  name: string,
  id: string,
  json: boolean,
): Promise<void> {
  const path = `/${encodeURIComponent(name)}/commands/${encodeURIComponent(id)}`;
  if (json) return cli.printJson(await client.json("GET", path));
  const decoder = new TextDecoder();
  for (let offset = 0; ; ) {
    const part = await client.bytes(`${path}/log?offset=${offset}&bytes=${LOG_PART}`);
    cli.stdout.write(sanitizeText(decoder.decode(part, { stream: true })));
    offset += part.length;
    if (part.length < LOG_PART) return;
  }
}

function defineCopy(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("copy files and folders into a sandbox or out of it")
    .description("Copy a file or a folder between this machine and a sandbox of a running service. Links stay behind.")
    .argument("<from>", "a path, or NAME:PATH in a sandbox")
    .argument("<to>", "a path, or NAME:PATH in a sandbox")
    .option("--json", "print JSON: files, bytes, skipped")
    .addHelpText(
      "after",
      examples(
        ["ale sandbox cp src build:/work/src", "a folder into it"],
        ["ale sandbox cp build:/work/out.txt .", "a file out of it"],
      ),
    )
    .action(async (from: string, to: string, flags: Flags) => {
      const { copyIn, copyOut, parsePlace } = await import("./sandbox/copy.ts");
      const [source, target] = [parsePlace(from), parsePlace(to)];
      const inward = source.sandbox === undefined && target.sandbox !== undefined;
      if (inward === (source.sandbox !== undefined && target.sandbox === undefined))
        throw new AleError("usage", "one side of a copy is in a sandbox", { hint: "write NAME:PATH for that side" });
      const client = new ServiceClient(cli, flags);
      const result = inward
        ? await copyIn(client, source.path, target.sandbox ?? "", target.path)
        : await copyOut(client, source.sandbox ?? "", source.path, target.path);
      if (flags.json) return cli.printJson(result);
      const left = result.skipped === 0 ? "" : `; ${result.skipped} links and others left out`;
      cli.note(`${result.files} files, ${result.bytes} bytes${left}`);
    });
}

function defineFork(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("make a sandbox with the files and shells of another")
    .description("Make a sandbox with the files and shells of a running one. Processes are not carried over, and end.")
    .argument("<name>", "the sandbox to start from")
    .argument("[new]", "name of the new one")
    .option("--json", "print JSON: sandbox, lostProcesses, freshShells")
    .addHelpText(
      "after",
      examples(["ale sandbox fork build", "prints the new name"], ["ale sandbox fork build try2", "named"]),
    )
    .action(async (name: string, id: string | undefined, flags: Flags) => {
      const body = id === undefined ? {} : { id };
      const result = await new ServiceClient(cli, flags).json<{ sandbox: SandboxView; lostProcesses: number }>(
        ...(["POST", `/${encodeURIComponent(name)}/fork`, body] as const),
      );
      if (flags.json) return cli.printJson(result);
      cli.print(result.sandbox.id);
      if (result.lostProcesses > 0) cli.note(`${result.lostProcesses} processes were not carried over`);
    });
}

function defineKill(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("end sandboxes of the service")
    .description("End sandboxes with their processes and files.")
    .argument("<name...>", "the sandboxes")
    .option("--json", "print JSON: killed")
    .addHelpText(
      "after",
      examples(["ale sandbox kill build", "one"], ["ale sandbox kill build try2 --json", "several"]),
    )
    .action(async (names: string[], flags: Flags) => {
      const client = new ServiceClient(cli, flags);
      for (const name of names) await client.send("DELETE", `/${encodeURIComponent(name)}`);
      if (flags.json) cli.printJson({ killed: names });
    });
}
