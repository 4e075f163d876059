/** `ale sandbox run`: a command in a sandbox of its own, here or left with the service. */

import { type Command, Option } from "commander";
import { aleHome } from "../../config/paths.ts";
import { isRemote, NATIVE } from "../../config/sandbox-backend.ts";
import { AleError } from "../../core/errors.ts";
import { isolationStep } from "../../core/isolation.ts";
import type { SandboxNetwork } from "../../core/ports.ts";
import {
  type ConnectionRecord,
  type EnvironmentSpec,
  IMAGE_PROFILE,
  type NetworkMode,
  type NetworkSpec,
} from "../../core/types.ts";
import { ImageStore } from "../../images/image-store.ts";
import type { NativeSandbox } from "../../sandbox/native-sandbox.ts";
import { sanitizeLine, sanitizeText } from "../../tui/sanitize.ts";
import { type CommandLine, examples, realNumber, wholeNumber } from "../command-line.ts";
import { listenForInterrupt } from "../interrupt.ts";
import { attach, isInteractive, terminalSize } from "./attach.ts";
import { addBackendOptions, type BackendFlags, backendOf } from "./backend.ts";
import { addServiceOption, type SandboxView, ServiceClient, type ServiceFlags } from "./client.ts";

interface RunFlags extends ServiceFlags, BackendFlags {
  readonly profile: string;
  readonly snapshot?: string;
  readonly cpus: number;
  readonly memory: number;
  readonly disk: number;
  readonly processes: number;
  readonly network: NetworkMode;
  readonly allow?: readonly string[];
  readonly timeout: number;
  readonly stdin?: boolean;
  readonly detach?: boolean;
  readonly name?: string;
  readonly json?: boolean;
}

const MIB = 2 ** 20;
const WORKDIR = "/work";
/** Of each stream, where they are not shown as they come. */
const MAX_OUTPUT_BYTES = 16 * MIB;
/** Hosts it did not get to that are shown. */
const MAX_REFUSED = 8;

export function defineSandboxRun(command: Command, cli: CommandLine): void {
  addBackendOptions(addServiceOption(command))
    .summary("run a command in a fresh sandbox")
    .description(
      "Run a command in a fresh sandbox that ends with it. On a terminal it gets a terminal; otherwise its output is " +
        "shown when it ends. With --detach a running service (ale serve) keeps the sandbox, and the command goes on there.",
    )
    .argument("<command...>", "program and arguments, behind --")
    .option("--profile <name>", "what the sandbox is made of", "host")
    .option("--token-env <name>", "variable with the token of the service rock or e2b, whose address is --url")
    .option("--snapshot <name>", "a snapshot of the service instead, with --detach")
    .option("--cpus <n>", "processors it may use", realNumber("--cpus", 0.01, 1024), 1)
    .option("--memory <mb>", "memory in megabytes", wholeNumber("--memory", 16, 1 << 24), 512)
    .option("--disk <mb>", "room for files in megabytes", wholeNumber("--disk", 1, 1 << 24), 256)
    .option("--processes <n>", "processes at once", wholeNumber("--processes", 4, 1 << 22), 256)
    .addOption(
      new Option("--network <mode>", "what it may reach (docs/sandbox.md)")
        .choices(["none", "allowlist", "public"])
        .default("none"),
    )
    .option("--allow <host>", "host, *.host, address or range it may reach, each with or without :port", addHost)
    .option("--timeout <seconds>", "end it after this long; 0: never", realNumber("--timeout", 0, 1e7), 0)
    .option("--stdin", "pass on what is piped in")
    .option("--detach", "leave it with the service and print the sandbox's name")
    .option("--name <name>", "name of the sandbox, with --detach")
    .option("--json", "print JSON: exitCode, status, stdout, stderr, ms; with a network, refused")
    .addHelpText(
      "after",
      examples(
        ["ale sandbox run -- python3 -c 'print(6 * 7)'", "one command"],
        ["ale sandbox run -- bash", "look around; exit ends it"],
        ["tar c src | ale sandbox run --stdin -- tar t", "with input"],
        [
          "ale sandbox run --network allowlist --allow pypi.org --allow '*.pythonhosted.org' -- pip download six",
          "what is listed",
        ],
        ["ale sandbox run --backend podman --image debian:12 -- apt list", "in a container"],
        ["ale sandbox run --detach --name build -- make -j2", "goes on without this terminal"],
      ),
    )
    .action(async (argv: string[], flags: RunFlags) => {
      networkOf(flags); // says what is wrong before anything is made
      if (flags.detach) await runDetached(cli, argv, flags);
      else await runHere(cli, argv, flags);
    });
}

const addHost = (host: string, before: readonly string[] = []) => [...before, host];

function networkOf({ network: mode, allow = [] }: RunFlags): NetworkSpec {
  if (mode === "none" && allow.length > 0)
    throw new AleError("usage", "--allow lists hosts for a sandbox without a network", {
      hint: "give --network allowlist, too",
    });
  if (mode === "allowlist" && allow.length === 0)
    throw new AleError("usage", "--network allowlist needs hosts", { hint: "give --allow HOST, any number of times" });
  return { mode, allow };
}

async function runDetached(cli: CommandLine, argv: readonly string[], flags: RunFlags): Promise<void> {
  const client = new ServiceClient(cli, flags);
  const { profile, image, snapshot, cpus, memory, disk, processes, timeout, name } = flags;
  const sandbox = await client.json<SandboxView>("POST", "", {
    ...{ profile, image, snapshot, cpus, memoryMb: memory, diskMb: disk, processes, network: networkOf(flags) },
    ...(name === undefined ? {} : { id: name }),
  });
  const timeoutSeconds = timeout === 0 ? null : timeout;
  const started = await client.json<{ id: string; logPath: string }>("POST", `/${sandbox.id}/commands`, {
    command: argv,
    timeoutSeconds,
  });
  if (flags.json) cli.printJson({ sandbox: sandbox.id, command: started.id, logPath: started.logPath });
  else cli.print(sandbox.id);
}

async function runHere(cli: CommandLine, argv: readonly string[], flags: RunFlags): Promise<void> {
  if (flags.name !== undefined)
    throw new AleError("usage", "--name names a sandbox that stays", { hint: "give --detach, too" });
  if (flags.snapshot !== undefined)
    throw new AleError("usage", "snapshots are the service's", { hint: "give --detach, too" });
  const isNative = flags.backend === NATIVE.backend;
  const image =
    isNative && flags.image !== undefined ? await new ImageStore(aleHome(cli.env)).get(flags.image) : undefined;
  const workdir = image?.workdir == null || image.workdir === "/" ? WORKDIR : image.workdir;
  const environment: EnvironmentSpec = {
    profile: image === undefined ? flags.profile : IMAGE_PROFILE,
    image: image?.name,
    workdir,
    cpus: flags.cpus,
    memoryBytes: flags.memory * MIB,
    diskBytes: flags.disk * MIB,
    pids: flags.processes,
    network: networkOf(flags),
  };
  const { openLocalBackend, openRemoteBackend } = await import("../../experiment/backends.ts");
  if (isRemote(flags.backend)) {
    await using provider = await openRemoteBackend(backendOf(flags));
    await using sandbox = await provider.create(environment);
    return await execute(cli, sandbox, argv, { ...flags, workdir });
  }
  const { url: _, image: ofEngine, ...local } = flags; // the address is of the service that --detach is about
  await using provider = await openLocalBackend(backendOf(isNative ? local : { ...local, image: ofEngine }));
  if (isolationStep(provider.isolation) === "landlock")
    cli.note(`a weak sandbox, without namespaces: ${provider.isolation}; \`ale doctor\` says what would raise it`);
  await using sandbox = await provider.createBare(environment);
  if (isInteractive() && !flags.json && !flags.stdin) {
    const { SandboxTerminal } = await import("../../sandbox/terminals.ts");
    cli.exitCode = await attach(await SandboxTerminal.open(sandbox, { argv, cwd: workdir, ...terminalSize() }));
    tellRefused(cli, refusedBy(flags, sandbox));
    return;
  }
  await execute(cli, sandbox, argv, { ...flags, workdir });
}

/** A sandbox of any backend; those elsewhere tell nothing of their network. */
type Executing = Pick<NativeSandbox, "execSeparate"> & { readonly network?: Pick<SandboxNetwork, "connections"> };

async function execute(
  cli: CommandLine,
  sandbox: Executing,
  argv: readonly string[],
  flags: RunFlags & { readonly workdir: string },
): Promise<void> {
  const stdin = flags.stdin ? new Uint8Array(await Bun.stdin.arrayBuffer()) : undefined;
  using interrupt = listenForInterrupt(false, () => {});
  const result = await sandbox.execSeparate(argv, {
    cwd: flags.workdir,
    timeoutMs: flags.timeout === 0 ? Number.POSITIVE_INFINITY : flags.timeout * 1000,
    maxOutputBytes: MAX_OUTPUT_BYTES,
    signal: interrupt.signal,
    stdin,
  });
  const { exitCode, status, ms, output, errorOutput } = result;
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const refused = refusedBy(flags, sandbox);
  if (flags.json)
    cli.printJson({
      ...{ exitCode, status, stdout: text(output), stderr: text(errorOutput), ms },
      ...(flags.network === "none" ? {} : { refused }),
    });
  else {
    writeBytes(cli, "stdout", output);
    writeBytes(cli, "stderr", errorOutput);
    if (status === "timeout") cli.note(`ended: it took more than ${flags.timeout} s`);
    if (status === "output_limit") cli.note("ended: it wrote too much");
    tellRefused(cli, refused);
  }
  cli.exitCode = exitCode ?? 1;
}

type Refused = Pick<ConnectionRecord, "host" | "port" | "verdict" | "reason">;

/** What it did not get to, each once: programs tell of that in words of their own, or not at all. */
function refusedBy(flags: RunFlags, sandbox: Pick<Executing, "network">): Refused[] {
  if (flags.network === "none") return [];
  const found = new Map<string, Refused>();
  for (const { kind, host, port, verdict, reason } of sandbox.network?.connections ?? [])
    if (verdict !== "allowed" && (kind === "proxy" || kind === "dns"))
      found.set(`${host} ${port} ${reason}`, { host, port, verdict, reason });
  return [...found.values()];
}

function tellRefused(cli: CommandLine, refused: readonly Refused[]): void {
  for (const { host, port, verdict, reason } of refused.slice(0, MAX_REFUSED))
    cli.note(`${verdict}: ${sanitizeLine(host) || "?"}:${port}: ${sanitizeLine(reason)}`);
  if (refused.length > MAX_REFUSED) cli.note(`and ${refused.length - MAX_REFUSED} others; --json lists them`);
}

/** As it is into files and pipes, text without control characters onto terminals. */
function writeBytes(cli: CommandLine, name: "stdout" | "stderr", bytes: Uint8Array): void {
  const stream = cli[name];
  if (stream.isTTY) stream.write(sanitizeText(new TextDecoder().decode(bytes)));
  else if (stream === process[name]) process[name].write(bytes);
  else stream.write(new TextDecoder().decode(bytes));
}
