/** Sandboxes as containers of podman or docker: slower to make than the launcher's, and driven by the same init. */

import { AleError, errorMessage } from "../../core/errors.ts";
import { refuseWeaker } from "../../core/isolation.ts";
import type { SandboxArchive, SandboxSnapshot, WarmPoolStatistics } from "../../core/ports.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import type { SandboxOwner } from "../init-channel.ts";
import { NativeSandbox } from "../native-sandbox.ts";
import { isOrphan, ownedName } from "../registry.ts";
import { SandboxFiles } from "../sandbox-files.ts";
import { readShellState, reopenShell } from "../shell-state.ts";
import type { ShellState } from "../snapshots.ts";
import type { NativeSandboxProvider } from "../supervisor.ts";
import { filterArchive } from "../tar.ts";
import { WarmPools } from "../warm-pools.ts";
import { ContainerChannel, removeContainer } from "./container-channel.ts";
import { askEngine, type ContainerEngine, type ContainerEngineName, findContainerEngine } from "./container-engine.ts";
import { type ContainerRoot, containerRoot } from "./container-root.ts";

export interface ContainerProviderOptions {
  readonly engine: ContainerEngineName;
  /** Omitted: what the environment's profile says, which must be `host`. */
  readonly image?: string | undefined;
  /** Host paths that no sandbox may see. */
  readonly maskPaths: readonly string[];
}

const LIST_MS = 30_000;
/** Containers being made at once in the background: each takes a processor for a while. */
const WARM_CONCURRENCY = 2;
const COMMIT_MS = 120_000;
const PROBE: EnvironmentSpec = {
  ...{ profile: "host", workdir: "/work", cpus: 1, pids: 32 },
  ...{ memoryBytes: 64 << 20, diskBytes: 16 << 20 },
};
/** Files below /etc that the engine puts into every container. */
const OF_THE_ENGINE = ["hosts", "hostname", "resolv.conf", "mtab"];

/** What a container's files were: those of its writable folders, or a committed image. */
interface ContainerFiles {
  readonly environment: EnvironmentSpec;
  readonly shell: ShellState | undefined;
  readonly archives: ReadonlyMap<string, SandboxArchive>;
  readonly image: string | undefined;
  readonly bytes: number;
  readonly lostProcesses: number;
}

class ContainerSnapshot implements SandboxSnapshot {
  readonly id: string;
  readonly bytes: number;
  readonly lostProcesses: number;
  readonly #forget: (image: string) => Promise<void>;
  #files: ContainerFiles | undefined;

  constructor(number: number, files: ContainerFiles, forget: (image: string) => Promise<void>) {
    this.id = `snapshot-${number}`;
    this.bytes = files.bytes;
    this.lostProcesses = files.lostProcesses;
    this.#files = files;
    this.#forget = forget;
  }

  /** @throws AleError("sandbox") when it was disposed of. */
  get files(): ContainerFiles {
    if (this.#files === undefined) throw new AleError("sandbox", `${this.id} was disposed of`);
    return this.#files;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const image = this.#files?.image;
    this.#files = undefined;
    if (image !== undefined) await this.#forget(image);
  }
}

class ContainerProvider implements NativeSandboxProvider, SandboxOwner {
  readonly isolation: string;
  readonly pausing = "stop";
  readonly #engine: ContainerEngine;
  readonly #options: ContainerProviderOptions;
  readonly #living = new Map<NativeSandbox, ContainerChannel>();
  readonly #pools: WarmPools<NativeSandbox>;
  #nextNumber = 1;
  #closed: Promise<void> | undefined;

  constructor(engine: ContainerEngine, options: ContainerProviderOptions, isolation: string) {
    this.#engine = engine;
    this.#options = options;
    this.isolation = isolation;
    this.#pools = new WarmPools({
      make: (environment, shell) => this.#make(environment, shell),
      concurrency: WARM_CONCURRENCY,
    });
  }

  get warmCount(): number {
    return this.#pools.count;
  }

  get warmPools(): readonly WarmPoolStatistics[] {
    return this.#pools.statistics;
  }

  /** There is none: each container is a process of its own. */
  get launcherPid(): number {
    return process.pid;
  }

  async #make(environment: EnvironmentSpec, session: boolean, files?: ContainerFiles): Promise<NativeSandbox> {
    if (this.#closed !== undefined) throw new AleError("sandbox", "the sandbox provider is closed");
    refuseWeaker(this.isolation, environment);
    if (environment.network !== undefined && environment.network.mode !== "none")
      throw new AleError("sandbox", `containers of ${this.#engine.name} have no network`, {
        hint: "use the backend native for tasks that need one",
      });
    if (environment.image !== undefined)
      throw new AleError(
        "sandbox",
        `image ${environment.image} is Ale's own, which ${this.#engine.name} does not have`,
        {
          hint: "use the backend native",
        },
      );
    const root = await this.#root(environment, files?.image);
    const number = this.#nextNumber++;
    const channel = await ContainerChannel.start(this.#engine, {
      ...{ name: await ownedName(), number, root, environment, session },
    });
    const sandbox = new NativeSandbox(channel, number, {
      ...{ environment, root: { base: "", layers: [], env: {} }, owner: this },
    });
    this.#living.set(sandbox, channel);
    try {
      // Over what podman puts there.
      const etc = new SandboxFiles(sandbox);
      if (files === undefined) for (const { path, content } of root.etc) await etc.write(`/etc/${path}`, content);
      for (const [folder, archive] of files?.archives ?? []) await sandbox.importFolder(folder, archive);
      return sandbox;
    } catch (error) {
      await sandbox.destroy();
      throw error;
    }
  }

  async #root(environment: EnvironmentSpec, committed: string | undefined): Promise<ContainerRoot> {
    return containerRoot(this.#engine, environment, committed ?? this.#options.image, this.#options.maskPaths);
  }

  async #unlessAborted(making: Promise<NativeSandbox>, signal: AbortSignal | undefined): Promise<NativeSandbox> {
    const sandbox = await making;
    if (!signal?.aborted) return sandbox;
    await sandbox.destroy();
    throw new AleError("interrupted", "making a sandbox was cancelled", { cause: signal.reason });
  }

  async create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox> {
    return this.#pools.claim(environment, true) ?? this.#unlessAborted(this.#make(environment, true), signal);
  }

  async createBare(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox> {
    return this.#pools.claim(environment, false) ?? this.#unlessAborted(this.#make(environment, false), signal);
  }

  async fork(snapshot: SandboxSnapshot, signal?: AbortSignal): Promise<NativeSandbox> {
    if (!(snapshot instanceof ContainerSnapshot)) throw new AleError("internal", "the snapshot is of another provider");
    const { environment, shell } = snapshot.files;
    const sandbox = await this.#unlessAborted(this.#make(environment, shell !== undefined, snapshot.files), signal);
    try {
      await reopenShell(sandbox, shell);
      return sandbox;
    } catch (error) {
      await sandbox.destroy();
      throw error;
    }
  }

  async takeSnapshot(sandbox: NativeSandbox, withShell: boolean): Promise<ContainerSnapshot> {
    const shell = withShell ? await readShellState(sandbox) : undefined;
    const ended = await sandbox.endProcesses();
    const snapshot = await this.#keep(sandbox, shell, Math.max(0, ended - (shell === undefined ? 0 : 1)));
    await reopenShell(sandbox, shell);
    return snapshot;
  }

  async retire(sandbox: NativeSandbox): Promise<SandboxSnapshot> {
    await sandbox.endProcesses();
    const snapshot = await this.#keep(sandbox, undefined, 0);
    await sandbox.destroy();
    return snapshot;
  }

  async #keep(sandbox: NativeSandbox, shell: ShellState | undefined, lostProcesses: number) {
    const { environment } = sandbox;
    const number = this.#nextNumber++;
    const root = await this.#root(environment, undefined);
    const archives = new Map<string, SandboxArchive>();
    let image: string | undefined;
    for (const folder of root.writable ?? []) {
      const archive = await sandbox.exportFolder(folder, environment.diskBytes);
      archives.set(folder, folder === "/etc" ? filterArchive(archive, (path) => isOfTheSandbox(path, root)) : archive);
    }
    if (root.writable === undefined) image = await this.#commit(sandbox, number);
    const bytes = [...archives.values()].reduce((sum, archive) => sum + archive.length, 0);
    const files = { environment, shell, archives, image, bytes, lostProcesses };
    return new ContainerSnapshot(number, files, (name) => this.#forget(name));
  }

  async #commit(sandbox: NativeSandbox, number: number): Promise<string> {
    const channel = this.#living.get(sandbox);
    if (channel === undefined) throw new AleError("sandbox", `sandbox ${sandbox.id} is gone`);
    const image = `localhost/ale/${channel.name}:${number}`;
    // Its processes have ended; pausing it needs a freezer, which ordinary users may lack.
    const args = ["commit", "--pause=false", channel.name, image];
    await askEngine(this.#engine.path, args, `keeping the files of ${sandbox.id}`, COMMIT_MS);
    return image;
  }

  async #forget(image: string): Promise<void> {
    await askEngine(this.#engine.path, ["rmi", image], `removing image ${image}`, LIST_MS);
  }

  onDestroyed(sandbox: NativeSandbox): void {
    this.#living.delete(sandbox);
  }

  warm(environment: EnvironmentSpec, count: number): void {
    refuseWeaker(this.isolation, environment);
    this.#pools.keep(environment, count, true);
  }

  warmBare(environment: EnvironmentSpec, count: number): void {
    this.#pools.keep(environment, count, false);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#pools.close();
    await Promise.all([...this.#living.keys()].map((sandbox) => sandbox.destroy()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Whether an entry of /etc is the sandbox's own, and not one that is mounted into every container. */
function isOfTheSandbox(path: string, { mounted }: ContainerRoot): boolean {
  const name = `/etc/${path}`;
  return !OF_THE_ENGINE.includes(path) && !mounted.some((place) => name === place || name.startsWith(`${place}/`));
}

/** Removes the containers of processes that were killed. */
async function reapContainers(engine: ContainerEngine): Promise<void> {
  const args = ["ps", "--all", "--filter=name=^ale-", "--format={{.Names}}"];
  const names = (await askEngine(engine.path, args, "listing containers", LIST_MS)).split("\n");
  for (const name of names) if (await isOrphan(name.trim())) await removeContainer(engine, name.trim());
}

/**
 * Sandboxes as containers. Makes and ends one, which says what level is reached here.
 * @throws AleError("sandbox") when the engine is not here, or no container can be made; the hint says what would help.
 */
export async function createContainerProvider(options: ContainerProviderOptions): Promise<NativeSandboxProvider> {
  const engine = await findContainerEngine(options.engine);
  await reapContainers(engine);
  const root = await containerRoot(engine, PROBE, options.image, options.maskPaths);
  const probe = { name: await ownedName(), number: 0, root, environment: PROBE, session: false };
  try {
    const channel = await ContainerChannel.start(engine, probe);
    await channel.destroy();
    return new ContainerProvider(engine, options, channel.isolation);
  } catch (error) {
    throw new AleError("sandbox", `${engine.name} cannot make sandboxes here: ${errorMessage(error)}`, {
      hint: `try: ${engine.name} run --rm --network=none ${engine.flags.join(" ")} ${root.image} true`,
      cause: error,
    });
  }
}
