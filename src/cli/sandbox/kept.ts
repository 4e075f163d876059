/** `ale sandbox`: snapshots, images and archives of sandboxes of the service. */

import type { Command } from "commander";
import { writeTar } from "../../images/export-image.ts";
import { formatDuration } from "../../tui/format.ts";
import { formatTable } from "../../tui/table.ts";
import { type CommandLine, examples } from "../command-line.ts";
import { addServiceOption, type SandboxView, ServiceClient, type ServiceFlags } from "./client.ts";

interface Flags extends ServiceFlags {
  readonly json?: boolean;
}

interface SnapshotView {
  readonly name: string;
  readonly sandbox: string;
  readonly bytes: number;
  readonly lostProcesses: number;
  readonly createdAt: string;
}

const at = (name: string, rest = "") => `/${encodeURIComponent(name)}${rest}`;
export const mb = (bytes: number) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;

export function defineKept(command: Command, cli: CommandLine): void {
  defineSnapshot(command.command("snapshot"), cli);
  defineSnapshots(command.command("snapshots"), cli);
  defineForget(command.command("forget"), cli);
  defineCommit(command.command("commit"), cli);
  defineArchive(command.command("archive"), cli);
  defineRestore(command.command("restore"), cli);
  defineExport(command.command("export"), cli);
}

function defineSnapshot(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("keep the files of a sandbox under a name")
    .description(
      "Keep what the files and shells of a sandbox are now, for as long as the service runs. Its processes end; it goes " +
        "on with its shells opened again. ale sandbox run --detach --snapshot NAME starts others from it.",
    )
    .argument("<sandbox>", "the sandbox, running or stopped")
    .argument("<name>", "name of the snapshot")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples(
        ["ale sandbox snapshot build built", "as it is now"],
        ["ale sandbox run --detach --snapshot built -- make test", "another one from there"],
      ),
    )
    .action(async (sandbox: string, name: string, flags: Flags) => {
      const client = new ServiceClient(cli, flags);
      const made = await client.json<SnapshotView>("POST", at(sandbox, "/snapshots"), { name });
      if (flags.json) return cli.printJson(made);
      cli.print(made.name);
      if (made.lostProcesses > 0) cli.note(`${made.lostProcesses} processes are not part of it, and ended`);
    });
}

function defineSnapshots(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("list the snapshots of the service")
    .description("List the snapshots of a running service, with the memory each added.")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples(["ale sandbox snapshots", "all of them"], ["ale sandbox snapshots --json", "for programs"]),
    )
    .action(async (flags: Flags) => {
      const client = new ServiceClient(cli, flags);
      const { snapshots } = (await (await client.request("GET", "/v1/snapshots")).json()) as {
        snapshots: readonly SnapshotView[];
      };
      if (flags.json) return cli.printJson(snapshots);
      if (snapshots.length === 0) return cli.note("no snapshots");
      const age = (row: SnapshotView) => formatDuration(Date.now() - Date.parse(row.createdAt));
      const columns = [
        { title: "name", value: (row: SnapshotView) => row.name },
        { title: "of", value: (row: SnapshotView) => row.sandbox },
        { title: "files", align: "right" as const, value: (row: SnapshotView) => mb(row.bytes) },
        { title: "age", align: "right" as const, value: age },
      ];
      cli.print(formatTable(snapshots, columns, cli.paint));
    });
}

function defineForget(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("delete snapshots of the service")
    .description("Delete snapshots. Sandboxes that were started from them stay.")
    .argument("<name...>", "the snapshots")
    .option("--json", "print JSON: forgotten")
    .addHelpText("after", examples(["ale sandbox forget built", "one"], ["ale sandbox forget built tried", "several"]))
    .action(async (names: string[], flags: Flags) => {
      const client = new ServiceClient(cli, flags);
      for (const name of names) await client.request("DELETE", `/v1/snapshots${at(name)}`);
      if (flags.json) cli.printJson({ forgotten: names });
    });
}

function defineCommit(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("make an image of a sandbox")
    .description(
      "Make an image of what the files of a sandbox are now, over what it was made from. Its processes end; it goes on with " +
        "its shells opened again.",
    )
    .argument("<sandbox>", "the sandbox, running or stopped")
    .argument("<image>", "name of the image; one that has it loses it")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples(
        ["ale sandbox commit build tools:2", "as it is now"],
        ["ale sandbox run --image tools:2 -- CMD", "a sandbox of it"],
      ),
    )
    .action(async (sandbox: string, image: string, flags: Flags) => {
      const made = await new ServiceClient(cli, flags).json<{ name: string; bytes: number; layers: number }>(
        ...(["POST", at(sandbox, "/commit"), { image }] as const),
      );
      if (flags.json) cli.printJson(made);
      else cli.print(`${made.name}  ${made.layers} layers, ${mb(made.bytes)}`);
    });
}

function defineArchive(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("move stopped sandboxes to disk")
    .description("Stop sandboxes that run, and move their files to disk, where they outlive the service.")
    .argument("<name...>", "the sandboxes")
    .option("--json", "print JSON: the sandboxes")
    .addHelpText(
      "after",
      examples(
        ["ale sandbox archive build", "ale sandbox restore build brings it back"],
        ["ale sandbox archive build try2", "several"],
      ),
    )
    .action(async (names: string[], flags: Flags) => {
      const client = new ServiceClient(cli, flags);
      const views: SandboxView[] = [];
      for (const name of names) {
        const { state } = await client.json<SandboxView>("GET", at(name));
        if (state === "running" || state === "paused") await client.send("POST", at(name, "/stop"));
        views.push(await client.json<SandboxView>("POST", at(name, "/archive")));
      }
      if (flags.json) cli.printJson(views);
    });
}

function defineRestore(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("start an archived sandbox")
    .description("Start an archived sandbox again, with its files and without its processes.")
    .argument("<name>", "the sandbox")
    .option("--json", "print JSON: the sandbox")
    .addHelpText(
      "after",
      examples(
        ["ale sandbox restore build", "as it was archived"],
        ["ale sandbox restore build --json", "for programs"],
      ),
    )
    .action(async (name: string, flags: Flags) => {
      const view = await new ServiceClient(cli, flags).json<SandboxView>("POST", at(name, "/restore"));
      if (flags.json) cli.printJson(view);
    });
}

function defineExport(command: Command, cli: CommandLine): void {
  addServiceOption(command)
    .summary("write the files of a sandbox or a snapshot as a tar file")
    .description(
      "Write the whole root file system of a sandbox, or of a snapshot, as a tar file; compressed when its name ends with " +
        ".gz or .zst. This machine's own programs (profile host) are not part of it. Processes of a sandbox end; it goes on " +
        "with its shells opened again.",
    )
    .argument("<name>", "the sandbox, running or stopped")
    .argument("<file>", "the tar file")
    .option("--snapshot", "NAME is a snapshot")
    .option("--json", "print JSON: file, bytes")
    .addHelpText(
      "after",
      examples(
        ["ale sandbox export build build.tar.zst", "a sandbox"],
        ["ale sandbox export built built.tar --snapshot", "a snapshot"],
      ),
    )
    .action(async (name: string, file: string, flags: Flags & { readonly snapshot?: boolean }) => {
      const client = new ServiceClient(cli, flags);
      const path = `/v1/${flags.snapshot ? "snapshots" : "sandboxes"}${at(name, "/tar")}`;
      const { body } = await client.request("GET", path);
      if (body !== null) await writeTar(body as unknown as AsyncIterable<Uint8Array>, file);
      if (flags.json) cli.printJson({ file, bytes: Bun.file(file).size });
    });
}
