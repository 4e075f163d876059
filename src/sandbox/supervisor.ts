/**
 * Makes sandboxes: one launcher, profiles registered once, warm pools refilled in the background. A launcher that dies
 * takes its sandboxes with it; the next sandbox starts a new one.
 */

import { resolve } from "node:path";
import { AleError } from "../core/errors.ts";
import { refuseWeaker } from "../core/isolation.ts";
import type { SandboxProvider, SandboxSnapshot, WarmPoolStatistics } from "../core/ports.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import { limitSettings } from "./environment-limits.ts";
import { LauncherClient } from "./launcher-client.ts";
import { masksFor } from "./masks.ts";
import { NativeSandbox, type SandboxOwner } from "./native-sandbox.ts";
import type { NetworkOptions } from "./network/native-network.ts";
import { NetworkPolicy } from "./network/policy.ts";
import { loadProfile } from "./profiles.ts";
import { encodeSettings, Op } from "./protocol.ts";
import { reapOrphans } from "./registry.ts";
import {
  Layer,
  NativeSnapshot,
  PRINT_SHELL_STATE,
  parseShellState,
  restoreShellState,
  type ShellState,
} from "./snapshots.ts";
import { WarmPools } from "./warm-pools.ts";

export interface SandboxProviderOptions {
  /** Host paths that no sandbox may see: Ale itself, its caches and data, task folders. */
  readonly maskPaths: readonly string[];
  /** Folder for what has to be found again after a crash. Made when missing. */
  readonly stateDir: string;
  /** `off`: limits by rlimits and a watcher even where control groups can be had. Default `auto`. */
  readonly cgroups?: "auto" | "off";
  /** Warm sandboxes being made at once. Default 4. */
  readonly warmConcurrency?: number;
  /** How sandboxes that may reach something do so. */
  readonly network?: NetworkOptions;
}

/** A provider that can also leave out the shell, for sandboxes that only grade. */
export interface NativeSandboxProvider extends SandboxProvider {
  /** A fresh sandbox whose shell starts with the first `run`; from the pool of such sandboxes where one waits. */
  createBare(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox>;
  create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox>;
  fork(snapshot: SandboxSnapshot, signal?: AbortSignal): Promise<NativeSandbox>;
  /** Ends a sandbox and keeps its files, for `fork`. */
  retire(sandbox: NativeSandbox): Promise<SandboxSnapshot>;
  /** How sandboxes are paused here: frozen by their control group, or each process stopped by a signal. */
  readonly pausing: "freeze" | "stop";
  /** As `warm`, of sandboxes for `createBare`. */
  warmBare(environment: EnvironmentSpec, count: number): void;
  /** Sandboxes that wait to be handed out. */
  readonly warmCount: number;
  readonly warmPools: readonly WarmPoolStatistics[];
  /** Process id of the launcher, for tests and diagnosis. */
  readonly launcherPid: number;
}

const CREATE_MS = 30_000;
const REGISTER_MS = 10_000;
const SHELL_MS = 10_000;
/** Exported variables beyond this are not carried over. */
const MAX_SHELL_STATE = 1 << 20;
/** As in `launcher/launcher.h`. */
const MAX_LAYERS = 64;

/** Warm sandboxes being made at once when nobody says. */
const WARM_CONCURRENCY = 4;

/** The launcher in use, with the profiles it knows. */
interface Launcher {
  readonly client: LauncherClient;
  readonly bases: Map<string, Promise<number>>;
}

class Supervisor implements NativeSandboxProvider, SandboxOwner {
  readonly isolation: string;
  readonly #options: SandboxProviderOptions;
  readonly #pools: WarmPools<NativeSandbox>;
  readonly #living = new Set<NativeSandbox>();
  /** Rejected or `undefined`: the next sandbox tries to start one. */
  #launcher: Promise<Launcher> | undefined;
  #current: LauncherClient;
  #nextNumber = 1;
  #nextLayer = 1;
  #closed: Promise<void> | undefined;

  constructor(options: SandboxProviderOptions, client: LauncherClient) {
    this.#options = options;
    this.isolation = client.isolation;
    this.#current = client;
    this.#launcher = Promise.resolve(this.#adopt(client));
    this.#pools = new WarmPools({
      make: (environment, shell) => this.#make(environment, shell),
      concurrency: options.warmConcurrency ?? WARM_CONCURRENCY,
    });
  }

  #adopt(client: LauncherClient): Launcher {
    this.#current = client;
    client.ended.then(() => this.#replace(client));
    return { client, bases: new Map() };
  }

  /** Runs when a launcher has ended. What waits in the pools ended with it. */
  #replace(ended: LauncherClient): void {
    if (this.#closed !== undefined) return;
    this.#pools.drop();
    const launcher = ended.close().then(() => this.#start());
    this.#launcher = launcher;
    launcher.then(
      () => this.#pools.refill(),
      () => {}, // told to whoever asks for a sandbox
    );
  }

  async #start(): Promise<Launcher> {
    try {
      const { stateDir, cgroups } = this.#options;
      return this.#adopt(await LauncherClient.start({ stateDir: resolve(stateDir), cgroups: cgroups ?? "auto" }));
    } catch (error) {
      this.#launcher = undefined;
      throw error;
    }
  }

  get warmCount(): number {
    return this.#pools.count;
  }

  get warmPools(): readonly WarmPoolStatistics[] {
    return this.#pools.statistics;
  }

  get pausing(): "freeze" | "stop" {
    return this.#current.pausing;
  }

  get launcherPid(): number {
    return this.#current.pid;
  }

  /** The launcher's number for a profile; registered on first use. */
  #base(launcher: Launcher, name: string): Promise<number> {
    let base = launcher.bases.get(name);
    if (base === undefined) {
      const id = launcher.bases.size;
      base = this.#register(launcher.client, name, id);
      launcher.bases.set(name, base);
    }
    return base;
  }

  async #register(client: LauncherClient, name: string, id: number): Promise<number> {
    const profile = loadProfile(name);
    const settings: [string, string | number][] = [["id", id]];
    if (profile.kind === "directory") settings.push(["root", profile.root]);
    for (const bind of profile.binds) settings.push(["bind", bind]);
    for (const mask of masksFor(profile, this.#options.maskPaths)) settings.push(["mask", mask]);
    const what = `registering sandbox profile "${name}"`;
    try {
      await client.request(Op.base, 0, encodeSettings(settings), what, REGISTER_MS);
    } catch (error) {
      throw new AleError("sandbox", `sandbox profile "${name}" cannot be used: ${String((error as Error).message)}`, {
        hint: `look at sandboxes/${name}.toml, and at what \`ale doctor\` says`,
        cause: error,
      });
    }
    return id;
  }

  async #make(environment: EnvironmentSpec, session: boolean, layers: readonly Layer[] = []): Promise<NativeSandbox> {
    if (this.#closed !== undefined) throw new AleError("sandbox", "the sandbox provider is closed");
    const { network } = environment;
    refuseWeaker(this.isolation, environment);
    if (network !== undefined) new NetworkPolicy(network); // refuses rules that are none
    const reaches = network !== undefined && network.mode !== "none";
    this.#launcher ??= this.#start();
    const launcher = await this.#launcher;
    const base = await this.#base(launcher, environment.profile);
    const number = this.#nextNumber++;
    const sandbox = new NativeSandbox(launcher.client, number, {
      ...{ environment, layers, owner: this, network: this.#options.network },
    });
    this.#living.add(sandbox);
    try {
      // Its shell starts with the first command, when it is known what programs are to be told of the proxy.
      await this.#request(launcher.client, number, { environment, base, session: session && !reaches, layers });
      if (reaches) await sandbox.network.change(network);
      return sandbox;
    } catch (error) {
      await sandbox.destroy().catch(() => {});
      if (!(error instanceof AleError)) throw error;
      throw new AleError("sandbox", `a sandbox could not be made: ${error.message}`, {
        hint: error.hint ?? "`ale doctor` tries each part by itself",
        cause: error,
      });
    }
  }

  async #request(client: LauncherClient, number: number, what: CreateRequest): Promise<void> {
    const settings = encodeSettings([
      ["base", what.base],
      ["session", what.session ? 1 : 0],
      ...limitSettings(what.environment),
      ...what.layers.map(({ id }): [string, number] => ["layer", id]),
    ]);
    await client.request(Op.create, number, settings, `making sandbox s${number}`, CREATE_MS);
  }

  onDestroyed(sandbox: NativeSandbox): void {
    this.#living.delete(sandbox);
  }

  async #ownLauncher(sandbox: NativeSandbox): Promise<Launcher> {
    const launcher = await this.#launcher;
    if (launcher?.client !== sandbox.launcher)
      throw new AleError("sandbox", `sandbox ${sandbox.id} is gone: its launcher ended`);
    if (sandbox.layers.length >= MAX_LAYERS)
      throw new AleError("sandbox", `sandbox ${sandbox.id} stands on ${MAX_LAYERS} snapshots already`, {
        hint: "export its folder and place it in a fresh sandbox",
      });
    return launcher;
  }

  async #freeze(
    sandbox: NativeSandbox,
    client: LauncherClient,
  ): Promise<{ readonly layers: readonly Layer[]; readonly bytes: number }> {
    const id = this.#nextLayer++;
    const bytes = await sandbox.freeze(id).catch((error: unknown) => {
      client.dropLayer(id); // given up, it may have become one all the same
      throw error;
    });
    const layer = new Layer(id, (dropped) => client.dropLayer(dropped));
    return { layers: [layer, ...sandbox.layers], bytes };
  }

  async retire(sandbox: NativeSandbox): Promise<SandboxSnapshot> {
    const { client } = await this.#ownLauncher(sandbox);
    const { layers, bytes } = await this.#freeze(sandbox, client);
    const environment = environmentNow(sandbox);
    const contents = { layers, environment, shell: undefined, bytes, lostProcesses: 0 };
    const snapshot = new NativeSnapshot(client, contents);
    await sandbox.destroy();
    return snapshot;
  }

  /** Freezes the sandbox, and lets it go on above what it wrote so far. */
  async takeSnapshot(sandbox: NativeSandbox, withShell: boolean): Promise<NativeSnapshot> {
    const environment = environmentNow(sandbox);
    const launcher = await this.#ownLauncher(sandbox);
    const { client } = launcher;
    const shell = withShell ? await readShellState(sandbox) : undefined;
    const ended = await sandbox.endProcesses();
    const { layers, bytes } = await this.#freeze(sandbox, client);
    const lostProcesses = Math.max(0, ended - (shell === undefined ? 0 : 1));
    const snapshot = new NativeSnapshot(client, { layers, environment, shell, bytes, lostProcesses });
    const number = this.#nextNumber++;
    try {
      const base = await this.#base(launcher, environment.profile);
      const session = shell !== undefined && sandbox.network.spec.mode === "none";
      await this.#request(client, number, { environment, base, session, layers });
      sandbox.continueAs(number, layers);
      await sandbox.network.reopen();
      await reopenShell(sandbox, shell);
    } catch (error) {
      sandbox.fail("it could not go on after its snapshot was taken");
      await snapshot[Symbol.asyncDispose]();
      await client.destroy(number).catch(() => {}); // where it was destroyed meanwhile, nobody else will
      throw error;
    }
    return snapshot;
  }

  async fork(snapshot: SandboxSnapshot, signal?: AbortSignal): Promise<NativeSandbox> {
    if (!(snapshot instanceof NativeSnapshot)) throw new AleError("internal", "the snapshot is of another provider");
    const { environment, layers, shell } = snapshot.contents;
    const sandbox = await this.#unlessAborted(this.#make(environment, shell !== undefined, layers), signal);
    try {
      await reopenShell(sandbox, shell);
    } catch (error) {
      await sandbox.destroy();
      throw error;
    }
    return sandbox;
  }

  async create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox> {
    return this.#pools.claim(environment, true) ?? this.#unlessAborted(this.#make(environment, true), signal);
  }

  async createBare(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox> {
    return this.#pools.claim(environment, false) ?? this.#unlessAborted(this.#make(environment, false), signal);
  }

  async #unlessAborted(making: Promise<NativeSandbox>, signal: AbortSignal | undefined): Promise<NativeSandbox> {
    const sandbox = await making;
    if (!signal?.aborted) return sandbox;
    await sandbox.destroy();
    throw new AleError("interrupted", "making a sandbox was cancelled", { cause: signal.reason });
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
    const launcher = await this.#launcher?.catch(() => undefined);
    await launcher?.client.close();
    this.#living.clear();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

interface CreateRequest {
  readonly environment: EnvironmentSpec;
  readonly base: number;
  readonly session: boolean;
  readonly layers: readonly Layer[];
}

/** What stands on a sandbox's files may reach what that one may reach now, which need not be what it was made with. */
function environmentNow({ environment, network }: NativeSandbox): EnvironmentSpec {
  return { ...environment, network: network.spec };
}

/** `undefined` where the sandbox has no shell. */
export async function readShellState(sandbox: NativeSandbox): Promise<ShellState | undefined> {
  const options = { timeoutMs: SHELL_MS, maxOutputBytes: MAX_SHELL_STATE };
  const result = await sandbox.run(PRINT_SHELL_STATE, options).catch((error: unknown) => {
    if (sandbox.alive) return undefined;
    throw error;
  });
  return result?.exitCode === 0 && !result.truncated ? parseShellState(result.output) : undefined;
}

export async function reopenShell(sandbox: NativeSandbox, shell: ShellState | undefined): Promise<void> {
  if (shell === undefined) return;
  await sandbox.run(restoreShellState(shell), { timeoutMs: SHELL_MS, maxOutputBytes: MAX_SHELL_STATE });
}

/**
 * Starts a launcher and returns the sandboxes' provider. Removes first what a killed `ale` left in `stateDir`.
 * @throws AleError("sandbox") when this machine does not allow sandboxes; the hint says what would.
 */
export async function createSandboxProvider(options: SandboxProviderOptions): Promise<NativeSandboxProvider> {
  await reapOrphans(options.stateDir);
  const cgroups = options.cgroups ?? "auto";
  return new Supervisor(options, await LauncherClient.start({ stateDir: resolve(options.stateDir), cgroups }));
}
