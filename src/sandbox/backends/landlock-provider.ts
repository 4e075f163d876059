/**
 * The level below user namespaces, for machines that do not permit them: sandboxes on the machine's own files, in domains of
 * Landlock (`launcher/landlock.c`). Opened only where somebody asked for it.
 */

import { mkdir, readdir, realpath } from "node:fs/promises";
import { join } from "node:path";
import { AleError } from "../../core/errors.ts";
import { refuseWeaker } from "../../core/isolation.ts";
import type { CommandOptions, SandboxSnapshot, WarmPoolStatistics } from "../../core/ports.ts";
import type { EnvironmentSpec, SandboxFile } from "../../core/types.ts";
import { limitSettings } from "../environment-limits.ts";
import type { SandboxOwner } from "../init-channel.ts";
import { Connection } from "../launcher-client.ts";
import { launcherPath } from "../launcher-path.ts";
import { NativeSandbox } from "../native-sandbox.ts";
import { loadProfile } from "../profiles.ts";
import type { ExecOptions } from "../programs.ts";
import { concat, encodeSettings, Op } from "../protocol.ts";
import { forgetLauncher, type LauncherRecord, reapOrphans, recordLauncher } from "../registry.ts";
import type { NativeSandboxProvider } from "../supervisor.ts";
import { WarmPools } from "../warm-pools.ts";
import { PrivatePaths } from "./private-paths.ts";
import { SoloChannel } from "./solo-channel.ts";

export interface LandlockProviderOptions {
  /** Host paths that no sandbox may see. */
  readonly maskPaths: readonly string[];
  readonly stateDir: string;
}

const START_MS = 10_000;
const REQUEST_MS = 10_000;
const WARM_CONCURRENCY = 2;
const PROBE: EnvironmentSpec = {
  ...{ profile: "host", workdir: "/work", cpus: 1, pids: 32 },
  ...{ memoryBytes: 64 << 20, diskBytes: 16 << 20 },
};
const FOLDERS = ["work", "tests", "solution", "logs", "tmp", "root"];
/** Programs, what they are found and configured through, and what the kernel tells. */
const READABLE = [
  ...["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc"],
  ...["/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/localtime", "/etc/ssl/certs", "/sys/devices/system/cpu"],
];
const DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/** Sees the usual paths, and lives elsewhere. */
class LandlockSandbox extends NativeSandbox {
  readonly #paths: PrivatePaths;

  constructor(channel: SoloChannel, number: number, root: string, environment: EnvironmentSpec, owner: SandboxOwner) {
    super(channel, number, { environment, root: { base: "", layers: [], env: {} }, owner });
    this.#paths = new PrivatePaths(root, environment.workdir);
  }

  override async upload(folder: string, files: readonly SandboxFile[]): Promise<void> {
    await super.upload(folder, this.#inward(files));
  }

  override async replaceFolder(folder: string, files: readonly SandboxFile[]): Promise<void> {
    await super.replaceFolder(folder, this.#inward(files));
  }

  #inward(files: readonly SandboxFile[]): SandboxFile[] {
    return files.map((file) => this.#paths.inwardFile(file));
  }

  override async runIn(shell: number, command: string, options: CommandOptions & { readonly interactive?: boolean }) {
    const result = await super.runIn(shell, this.#paths.inward(command), options);
    return { ...result, output: this.#paths.outward(result.output) };
  }

  override async exec(argv: readonly string[], options: ExecOptions) {
    const result = await super.exec(this.#argv(argv), options);
    return { ...result, output: this.#paths.outward(result.output) };
  }

  override async execSeparate(argv: readonly string[], options: ExecOptions) {
    const result = await super.execSeparate(this.#argv(argv), options);
    const { output, errorOutput } = result;
    return { ...result, output: this.#paths.outward(output), errorOutput: this.#paths.outward(errorOutput) };
  }

  #argv(argv: readonly string[]): string[] {
    return argv.map((argument) => this.#paths.inward(argument));
  }
}

class LandlockProvider implements NativeSandboxProvider, SandboxOwner {
  readonly isolation: string;
  readonly pausing = "stop";
  readonly #options: LandlockProviderOptions;
  readonly #readable: readonly string[];
  readonly #living = new Set<NativeSandbox>();
  readonly #pools: WarmPools<NativeSandbox>;
  #nextNumber = 1;
  #closed: Promise<void> | undefined;

  constructor(options: LandlockProviderOptions, readable: readonly string[], isolation: string) {
    this.#options = options;
    this.#readable = readable;
    this.isolation = isolation;
    this.#pools = new WarmPools({ make: (environment) => this.#make(environment), concurrency: WARM_CONCURRENCY });
  }

  get warmCount(): number {
    return this.#pools.count;
  }

  get warmPools(): readonly WarmPoolStatistics[] {
    return this.#pools.statistics;
  }

  /** There is none: each sandbox has a process of its own. */
  get launcherPid(): number {
    return process.pid;
  }

  async #make(environment: EnvironmentSpec): Promise<NativeSandbox> {
    if (this.#closed !== undefined) throw new AleError("sandbox", "the sandbox provider is closed");
    refuseWeaker(this.isolation, environment);
    if (environment.network !== undefined && environment.network.mode !== "none")
      throw new AleError("sandbox", `sandboxes at the level ${this.isolation} have no network`);
    if (environment.image !== undefined)
      throw new AleError("sandbox", `image ${environment.image} needs namespaces, which are not permitted here`, {
        hint: "`ale doctor` says how to allow them",
      });
    const number = this.#nextNumber++;
    const { channel, root } = await startInit(this.#options.stateDir, number, environment, this.#readable);
    const sandbox = new LandlockSandbox(channel, number, root, environment, this);
    this.#living.add(sandbox);
    const variables = [`HOME=${root}/root`, `TMPDIR=${root}/tmp`].map((text) => new TextEncoder().encode(`${text}\0`));
    await sandbox.request(Op.variables, concat(variables), "telling of folders", REQUEST_MS);
    return sandbox;
  }

  async create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox> {
    const sandbox = this.#pools.claim(environment, false) ?? (await this.#make(environment));
    if (!signal?.aborted) return sandbox;
    await sandbox.destroy();
    throw new AleError("interrupted", "making a sandbox was cancelled", { cause: signal.reason });
  }

  createBare(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox> {
    return this.create(environment, signal);
  }

  fork(): Promise<NativeSandbox> {
    return this.takeSnapshot();
  }

  retire(): Promise<SandboxSnapshot> {
    return this.takeSnapshot();
  }

  async takeSnapshot(): Promise<never> {
    throw new AleError("sandbox", `sandboxes at the level ${this.isolation} cannot be forked, nor kept when stopped`, {
      hint: "allow user namespaces: `ale doctor` says how",
    });
  }

  warm(environment: EnvironmentSpec, count: number): void {
    refuseWeaker(this.isolation, environment);
    this.#pools.keep(environment, count, false);
  }

  warmBare(environment: EnvironmentSpec, count: number): void {
    this.warm(environment, count);
  }

  onDestroyed(sandbox: NativeSandbox): void {
    this.#living.delete(sandbox);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#pools.close();
    await Promise.all([...this.#living].map((sandbox) => sandbox.destroy()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Starts the init of one sandbox in a folder of its own. */
async function startInit(
  stateDir: string,
  number: number,
  environment: EnvironmentSpec,
  readable: readonly string[],
): Promise<{ readonly channel: SoloChannel; readonly root: string }> {
  const record = await recordLauncher(stateDir);
  const root = join(await realpath(record.folder), "root");
  for (const folder of FOLDERS) await mkdir(join(root, folder), { recursive: true, mode: 0o700 });
  await mkdir(join(root, environment.workdir), { recursive: true, mode: 0o700 });
  const connection = new Connection([await launcherPath(), "landlock"], { name: "the sandbox's init", env: {} });
  const end = () => endInit(connection, record);
  try {
    record.launcher = connection.pid;
    await record.save();
    const settings = encodeSettings([
      ...limitSettings(environment),
      ...[["session", 0] as const, ["root", root] as const],
      ...readable.map((path) => ["read", path] as const),
      ...DEVICES.map((path) => ["device", path] as const),
    ]);
    const reply = await connection.request(Op.hello, number, settings, "starting a sandbox's init", START_MS);
    const found = new TextDecoder().decode(reply.payload).split("\0")[0] ?? "";
    const isolation = `user+${found.replace("isolation=", "")}`;
    return { channel: new SoloChannel(connection, isolation, end), root };
  } catch (error) {
    await end();
    throw error;
  }
}

async function endInit(connection: Connection, record: LauncherRecord): Promise<void> {
  await connection.stop();
  await forgetLauncher(record);
}

/** What may be read: Landlock knows no exceptions, so around a masked path each neighbour is named. */
async function readableAround(folder: string, masks: readonly string[]): Promise<string[]> {
  if (masks.includes(folder)) return [];
  if (!masks.some((mask) => mask.startsWith(`${folder}/`))) return [folder];
  const names = await readdir(folder).catch(() => []);
  return (await Promise.all(names.map((name) => readableAround(join(folder, name), masks)))).flat();
}

/**
 * Sandboxes without namespaces. Makes one, which says what this machine has of Landlock.
 * @throws AleError("sandbox") where there is no Landlock.
 */
export async function createLandlockProvider(options: LandlockProviderOptions): Promise<NativeSandboxProvider> {
  if (process.getuid?.() === 0)
    throw new AleError(
      "sandbox",
      "sandboxes without namespaces cannot be had as root, whose processes nothing limits",
      {
        hint: "run ale as an ordinary user, or allow root namespaces: in a container, start it with --privileged",
      },
    );
  await reapOrphans(options.stateDir);
  const real = async (path: string) => realpath(path).catch(() => path);
  const masks = await Promise.all(options.maskPaths.map(real));
  const shown = [...READABLE, ...loadProfile("host").binds];
  const folders = new Set(await Promise.all(shown.map(real)));
  const readable = (await Promise.all([...folders].map((folder) => readableAround(folder, masks)))).flat();
  const { channel } = await startInit(options.stateDir, 0, PROBE, readable);
  await channel.destroy();
  return new LandlockProvider(options, readable, channel.isolation);
}
