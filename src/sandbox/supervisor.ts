/**
 * Makes sandboxes: one launcher, profiles registered once, warm pools refilled in the background. A launcher that dies
 * takes its sandboxes with it; the next sandbox starts a new one.
 */

import { totalmem } from "node:os";
import { join, resolve } from "node:path";
import { AleError } from "../core/errors.ts";
import { refuseWeaker } from "../core/isolation.ts";
import type { RestartListener, SandboxProvider, SandboxSnapshot, WarmPoolStatistics } from "../core/ports.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import { targetSettings } from "./carrier.ts";
import { diskLeft, environmentNow, limitSettings } from "./environment-limits.ts";
import type { HeartbeatOptions } from "./heartbeat.ts";
import type { SandboxOwner } from "./init-channel.ts";
import { LauncherClient } from "./launcher-client.ts";
import { LayerBudget } from "./layer-budget.ts";
import { LayerStore, type MakeOptions } from "./layer-store.ts";
import { NativeSandbox } from "./native-sandbox.ts";
import type { NetworkOptions } from "./network/native-network.ts";
import { NetworkPolicy } from "./network/policy.ts";
import { encodeSettings, Op } from "./protocol.ts";
import { reapOrphans } from "./registry.ts";
import { removeTree } from "./remove-tree.ts";
import { type ResolveImage, Roots, type SandboxRoot } from "./roots.ts";
import { countProcesses, exportVariables, readShellState, reopenShell } from "./shell-state.ts";
import { Layer, NativeSnapshot } from "./snapshots.ts";
import { WarmPools } from "./warm-pools.ts";

export interface SandboxProviderOptions {
  /** Host paths that no sandbox may see: Ale itself, its caches and data, task folders. */
  readonly maskPaths: readonly string[];
  /** Folder for what has to be found again after a crash. Made when missing. */
  readonly stateDir: string;
  /** `off`: limits by rlimits and a watcher even where control groups can be had. Default `auto`. */
  readonly cgroups?: "auto" | "off";
  /** `off`: an ordinary user's sandboxes have that user's id, not subordinate ones. Default `auto`. */
  readonly subids?: "auto" | "off";
  /** How often the launcher is asked whether it is at work, and how long it may take to answer. */
  readonly heartbeat?: HeartbeatOptions;
  /** Warm sandboxes being made at once. Default 4. */
  readonly warmConcurrency?: number;
  /** Finds the root file system of an image; without it there are none. */
  readonly resolveImage?: ResolveImage;
  /** Memory for frozen files, beyond which they go to disk. Default half of the machine's. */
  readonly frozenBytes?: number;
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
  /** Layers between memory and disk; `undefined` where there are none, as in containers. */
  readonly store?: LayerStore;
  /** The memory that frozen files take. */
  readonly frozen?: LayerBudget;
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

/** A provider whose sandboxes stand on layers. */
export interface LayeredSandboxProvider extends NativeSandboxProvider {
  readonly store: LayerStore;
  readonly frozen: LayerBudget;
}

const CREATE_MS = 30_000;
/** As in `launcher/launcher.h`. */
const MAX_LAYERS = 64;

const WARM_CONCURRENCY = 4;

/** The launcher in use, with the bases and layers it knows. */
interface Launcher {
  readonly client: LauncherClient;
  readonly roots: Roots;
}

class Supervisor implements LayeredSandboxProvider, SandboxOwner {
  readonly isolation: string;
  readonly store: LayerStore;
  readonly frozen: LayerBudget;
  readonly #options: SandboxProviderOptions;
  /** Base that each layer in memory was written over. */
  readonly #basesOfLayers = new WeakMap<Layer, string>();
  readonly #pools: WarmPools<NativeSandbox>;
  readonly #living = new Set<NativeSandbox>();
  /** Rejected or `undefined`: the next sandbox tries to start one. */
  #launcher: Promise<Launcher> | undefined;
  #current: LauncherClient;
  #nextNumber = 1;
  #restarts = 0;
  #onRestart: RestartListener = () => {};
  #closed: Promise<void> | undefined;

  constructor(options: SandboxProviderOptions, client: LauncherClient) {
    this.#options = options;
    this.isolation = client.isolation;
    this.store = new LayerStore({
      make: (environment, what) => this.#make(environment, what),
      roots: async () => (await this.#ready()).roots,
    });
    this.frozen = new LayerBudget(options.frozenBytes ?? totalmem() / 2, (layer) => this.#spill(layer));
    this.#current = client;
    this.#launcher = Promise.resolve(this.#adopt(client));
    this.#pools = new WarmPools({
      make: (environment, shell) => this.#makeFresh(environment, shell),
      concurrency: options.warmConcurrency ?? WARM_CONCURRENCY,
    });
  }

  #adopt(client: LauncherClient): Launcher {
    this.#current = client;
    client.ended.then((reason) => this.#replace(client, reason));
    return { client, roots: new Roots(client, this.#options) };
  }

  /** Runs when a launcher has ended. What waits in the pools ended with it. */
  #replace(ended: LauncherClient, reason: string): void {
    if (this.#closed !== undefined) return;
    this.#onRestart(reason, ++this.#restarts);
    this.#pools.drop();
    this.frozen.clear();
    const launcher = ended.close().then(() => this.#start());
    this.#launcher = launcher;
    launcher.then(
      () => this.#pools.refill(),
      () => {}, // told to whoever asks for a sandbox
    );
  }

  async #start(): Promise<Launcher> {
    try {
      return this.#adopt(await startLauncher(this.#options));
    } catch (error) {
      this.#launcher = undefined;
      throw error;
    }
  }

  onRestart(listener: RestartListener): void {
    this.#onRestart = listener;
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

  #ready(): Promise<Launcher> {
    if (this.#closed !== undefined) throw new AleError("sandbox", "the sandbox provider is closed");
    this.#launcher ??= this.#start();
    return this.#launcher;
  }

  async #makeFresh(environment: EnvironmentSpec, session: boolean): Promise<NativeSandbox> {
    const { roots } = await this.#ready();
    return this.#make(environment, { session, root: await roots.of(environment) });
  }

  async #make(environment: EnvironmentSpec, what: MakeOptions): Promise<NativeSandbox> {
    const { network } = environment;
    refuseWeaker(this.isolation, environment);
    if (network !== undefined) new NetworkPolicy(network); // refuses rules that are none
    const reaches = network !== undefined && network.mode !== "none";
    const launcher = await this.#ready();
    const number = this.#nextNumber++;
    const sandbox = new NativeSandbox(launcher.client, number, {
      ...{ environment, root: what.root, owner: this, network: this.#options.network },
    });
    this.#living.add(sandbox);
    try {
      // Its shell starts with the first command, when it is known what programs are to be told of the proxy.
      sandbox.isolation = await this.#request(launcher, number, environment, {
        ...what,
        session: what.session && !reaches,
      });
      if (reaches) await sandbox.network.change(network);
      if (what.session) await exportVariables(sandbox);
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

  /** Returns the level that the sandbox reached. */
  async #request(launcher: Launcher, number: number, environment: EnvironmentSpec, what: MakeOptions): Promise<string> {
    const { root, target, session } = what;
    const settings = encodeSettings([
      ["base", target?.store ? 0 : await launcher.roots.base(root.base)],
      ["session", session ? 1 : 0],
      ...limitSettings({ ...environment, diskBytes: diskLeft(environment.diskBytes, root) }),
      ...(target === undefined ? [] : targetSettings(target)),
      ...root.layers.map(({ id }): [string, number] => ["layer", id]),
    ]);
    const reply = await launcher.client.request(Op.create, number, settings, `making sandbox s${number}`, CREATE_MS);
    return new TextDecoder().decode(reply.payload);
  }

  onDestroyed(sandbox: NativeSandbox): void {
    this.#living.delete(sandbox);
    // What it stood on may go to disk now.
    if (this.#closed === undefined && this.frozen.bytes > this.frozen.limitBytes) this.frozen.settle();
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
    { client, roots }: Launcher,
  ): Promise<SandboxRoot & { readonly bytes: number }> {
    const id = roots.nextLayer();
    const bytes = await sandbox.freeze(id).catch((error: unknown) => {
      client.dropLayer(id); // given up, it may have become one all the same
      throw error;
    });
    const layer = new Layer(id, bytes, (dropped) => {
      client.dropLayer(dropped.id);
      this.frozen.remove(dropped);
      if (dropped.path !== undefined) removeTree(dropped.path).catch(() => {}); // it goes with the launcher's folder
    });
    this.#basesOfLayers.set(layer, sandbox.root.base);
    this.frozen.add(layer);
    return { ...sandbox.root, layers: [layer, ...sandbox.layers], bytes };
  }

  async #spill(layer: Layer): Promise<void> {
    const { client } = await this.#ready();
    await this.store.spill(layer, this.#basesOfLayers.get(layer) ?? "", join(client.folder, "layers"));
  }

  async retire(sandbox: NativeSandbox): Promise<SandboxSnapshot> {
    const launcher = await this.#ownLauncher(sandbox);
    const root = await this.#freeze(sandbox, launcher);
    const environment = environmentNow(sandbox);
    const snapshot = new NativeSnapshot(launcher.client, { ...root, environment, shell: undefined, lostProcesses: 0 });
    await sandbox.destroy();
    await this.frozen.settle();
    return snapshot;
  }

  /** Freezes the sandbox, and lets it go on above what it wrote so far. */
  async takeSnapshot(sandbox: NativeSandbox, withShell: boolean): Promise<NativeSnapshot> {
    const environment = environmentNow(sandbox);
    const launcher = await this.#ownLauncher(sandbox);
    await this.frozen.makeRoom();
    await sandbox.reopening;
    const [shell, ended] = await Promise.all([
      withShell ? readShellState(sandbox) : undefined,
      countProcesses(sandbox),
    ]);
    // Whoever waits for something hears that it was ended. The rest ends with the sandbox.
    if (sandbox.busy) await sandbox.endProcesses();
    const { bytes, ...root } = await this.#freeze(sandbox, launcher);
    const lostProcesses = Math.max(0, ended - (shell === undefined ? 0 : 1));
    const snapshot = new NativeSnapshot(launcher.client, { ...root, environment, shell, bytes, lostProcesses });
    const session = shell !== undefined && environment.network?.mode === "none";
    sandbox.goOnBy(
      () => this.#goOn(sandbox, launcher, environment, { session, root }),
      () => reopenShell(sandbox, shell),
    );
    return snapshot;
  }

  async #goOn(sandbox: NativeSandbox, launcher: Launcher, environment: EnvironmentSpec, what: MakeOptions) {
    const { layers } = what.root;
    const number = this.#nextNumber++;
    for (const layer of layers) layer.retain(true); // the snapshot may be disposed of before it stands on them
    await new Promise(setImmediate); // a fork that is asked for at once comes first
    try {
      const made = this.#request(launcher, number, environment, what).then((isolation) => {
        sandbox.continueAs(number, layers);
        sandbox.isolation = isolation;
      });
      await sandbox.network.reopen(made);
    } catch (error) {
      if (sandbox.layers !== layers) for (const layer of layers) layer.release(true);
      await launcher.client.destroy(number).catch(() => {}); // where it was destroyed meanwhile, nobody else will
      throw error;
    }
  }

  async fork(snapshot: SandboxSnapshot, signal?: AbortSignal): Promise<NativeSandbox> {
    if (!(snapshot instanceof NativeSnapshot)) throw new AleError("internal", "the snapshot is of another provider");
    const { environment, base, layers, env, shell } = snapshot.contents;
    const making = this.#make(environment, { session: shell !== undefined, root: { base, layers, env } });
    const sandbox = await this.#unlessAborted(making, signal);
    try {
      await reopenShell(sandbox, shell);
    } catch (error) {
      await sandbox.destroy();
      throw error;
    }
    return sandbox;
  }

  create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox> {
    return this.#provide(environment, true, signal);
  }

  createBare(environment: EnvironmentSpec, signal?: AbortSignal): Promise<NativeSandbox> {
    return this.#provide(environment, false, signal);
  }

  /** One from the pool, unless the name of its image means another one by now, or a new one. */
  async #provide(environment: EnvironmentSpec, shell: boolean, signal?: AbortSignal): Promise<NativeSandbox> {
    const waiting = this.#pools.claim(environment, shell);
    if (waiting !== undefined && (await (await this.#ready()).roots.isCurrent(waiting.root, environment)))
      return waiting;
    await waiting?.destroy();
    return this.#unlessAborted(this.#makeFresh(environment, shell), signal);
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

function startLauncher(options: SandboxProviderOptions): Promise<LauncherClient> {
  const { stateDir, cgroups = "auto", subids = "auto", heartbeat } = options;
  return LauncherClient.start({ stateDir: resolve(stateDir), cgroups, subids, heartbeat });
}

/**
 * Starts a launcher and returns the sandboxes' provider. Removes first what a killed `ale` left in `stateDir`.
 * @throws AleError("sandbox") when this machine does not allow sandboxes; the hint says what would.
 */
export async function createSandboxProvider(options: SandboxProviderOptions): Promise<LayeredSandboxProvider> {
  await reapOrphans(options.stateDir);
  return new Supervisor(options, await startLauncher(options));
}
