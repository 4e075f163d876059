/** `ale images`: root file systems for sandboxes. */

import { resolve } from "node:path";
import type { Command } from "commander";
import { aleHome } from "../config/paths.ts";
import { exportTar, writeTar } from "../images/export-image.ts";
import { ImageStore } from "../images/image-store.ts";
import { importImage } from "../images/import-image.ts";
import { DEFAULT_LIMITS } from "../images/limits.ts";
import type { ImageManifest } from "../images/manifest.ts";
import { formatDuration } from "../tui/format.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { formatTable } from "../tui/table.ts";
import { type CommandLine, examples, wholeNumber } from "./command-line.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { mb } from "./sandbox/kept.ts";

interface Flags {
  readonly json?: boolean;
}

interface ImportFlags extends Flags {
  readonly base?: string;
  readonly maxBytes: number;
  readonly maxEntries: number;
}

export function defineImages(command: Command, cli: CommandLine): void {
  command.addHelpText(
    "after",
    examples(
      ["docker save python:3.11 -o py.tar", "on a machine that has it"],
      ["ale images import py.tar python:3.11", "here"],
      ["ale sandbox run --image python:3.11 -- python3 -V", "a command in it"],
    ),
  );
  defineList(command.command("ls"), cli);
  defineImport(command.command("import"), cli);
  defineRemove(command.command("rm"), cli);
  defineExport(command.command("export"), cli);
}

function defineList(command: Command, cli: CommandLine): void {
  command
    .summary("list the images")
    .description("List the images of this user: what they stand on, how many layers and how much they have.")
    .option("--json", "print JSON")
    .addHelpText("after", examples(["ale images ls", "all of them"], ["ale images ls --json", "for programs"]))
    .action(async (flags: Flags) => {
      const images = await new ImageStore(aleHome(cli.env)).list();
      if (flags.json) return cli.printJson(images);
      if (images.length === 0) return cli.note("no images; ale images import FILE NAME makes one");
      const age = (row: ImageManifest) => formatDuration(Math.max(0, Date.now() - row.createdAt));
      const columns = [
        { title: "name", value: (row: ImageManifest) => row.name },
        { title: "base", value: (row: ImageManifest) => sanitizeLine(row.base.replace(/^scratch:$/, "")) },
        { title: "layers", align: "right" as const, value: (row: ImageManifest) => String(row.layers.length) },
        { title: "size", align: "right" as const, value: (row: ImageManifest) => mb(row.bytes) },
        { title: "age", align: "right" as const, value: age },
      ];
      cli.print(formatTable(images, columns, cli.paint));
    });
}

function defineImport(command: Command, cli: CommandLine): void {
  command
    .summary("make an image of an archive or a folder")
    .description(
      "Make an image of a tar file (plain, gzip or zstd), of what docker save wrote, of an OCI image layout, or of a folder " +
        "that holds a root file system, which is used where it lies. Archives are unpacked by a confined sandbox. Images " +
        "are not pulled from registries, and Dockerfiles are not built.",
    )
    .argument("<path>", "the archive or folder")
    .argument("<name>", "name of the image, such as python:3.11; one that has it loses it")
    .option("--base <profile>", "a plain tar file stands on this machine's programs: host")
    .option("--max-bytes <n>", "the most it may hold", wholeNumber("--max-bytes", 1, 2 ** 50), DEFAULT_LIMITS.bytes)
    .option("--max-entries <n>", "the most files", wholeNumber("--max-entries", 1, 2 ** 32), DEFAULT_LIMITS.entries)
    .option("--json", "print JSON: image, unpacked, leftOut")
    .addHelpText(
      "after",
      examples(
        ["ale images import rootfs.tar.zst debian:12", "a root file system"],
        ["ale images import /srv/rootfs mine", "a folder, as it is"],
      ),
    )
    .action(async (path: string, name: string, flags: ImportFlags) => {
      const { openSandboxes } = await import("../experiment/sandboxes.ts");
      await using provider = await openSandboxes("tasks");
      using interrupt = listenForInterrupt(false, () => {});
      const result = await importImage(new ImageStore(aleHome(cli.env)), provider, path, name, {
        base: flags.base,
        limits: { bytes: flags.maxBytes, entries: flags.maxEntries },
        signal: interrupt.signal,
      });
      if (flags.json) return cli.printJson(result);
      const { image, leftOut } = result;
      cli.print(`${image.name}  ${image.layers.length} layers, ${image.entries} files, ${mb(image.bytes)}`);
      if (leftOut.special > 0) cli.note(`${leftOut.special} devices and fifos were left out`);
      if (leftOut.attributes > 0) cli.note(`${leftOut.attributes} extended attributes were left out`);
    });
}

function defineRemove(command: Command, cli: CommandLine): void {
  command
    .summary("remove images")
    .description("Remove images. Layers that others, archives or running sandboxes need stay until they do not.")
    .argument("<name...>", "the images")
    .option("--json", "print JSON: removed")
    .addHelpText("after", examples(["ale images rm python:3.11", "one"], ["ale images rm a:1 b:2", "several"]))
    .action(async (names: string[], flags: Flags) => {
      const store = new ImageStore(aleHome(cli.env));
      for (const name of names) await store.remove(name);
      if (flags.json) cli.printJson({ removed: names });
    });
}

function defineExport(command: Command, cli: CommandLine): void {
  command
    .summary("write an image as a tar file")
    .description(
      "Write the files of an image as one tar file; compressed when its name ends with .gz or .zst. This machine's own " +
        "programs (profile host) are not part of it.",
    )
    .argument("<name>", "the image")
    .argument("<file>", "the tar file")
    .option("--json", "print JSON: file, bytes")
    .addHelpText(
      "after",
      examples(
        ["ale images export tools:2 tools.tar.zst", "compressed"],
        ["ale images export tools:2 tools.tar --json", "for programs"],
      ),
    )
    .action(async (name: string, file: string, flags: Flags) => {
      const store = new ImageStore(aleHome(cli.env));
      const root = await store.resolve(name);
      const { openSandboxes } = await import("../experiment/sandboxes.ts");
      await using provider = await openSandboxes("tasks");
      await writeTar(exportTar(store, provider, root), resolve(file));
      if (flags.json) cli.printJson({ file: resolve(file), bytes: Bun.file(file).size });
    });
}
