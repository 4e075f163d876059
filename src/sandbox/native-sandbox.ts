/** One sandbox with Ale's init in it, as the control process sees it: of the launcher, or in a container. */

import { AleError, errorMessage } from "../core/errors.ts";
import type {
  CommandOptions,
  CommandResult,
  LimitEvents,
  Sandbox,
  SandboxArchive,
  SandboxSnapshot,
} from "../core/ports.ts";
import type { EnvironmentSpec, SandboxFile } from "../core/types.ts";
import { decodeObservation, type Observation } from "./guards/observation.ts";
import type { InitChannel, SandboxOwner } from "./init-channel.ts";
import { type Reply, SOCKETS } from "./launcher-client.ts";
import { NativeNetwork, type NetworkOptions } from "./network/native-network.ts";
import {
  checkPath,
  type ExecOptions,
  encodeProgram,
  ProgramMissing,
  type SeparateResult,
  ShellMissing,
  throwIfAborted,
  toResult,
} from "./programs.ts";
import {
  decodeResult,
  encodeCommand,
  encodeFiles,
  encodeImport,
  encodePath,
  encodeSettings,
  encodeText,
  Op,
  type OpCode,
  type RawResult,
} from "./protocol.ts";
import { decodeLimits, decodeRead, decodeStatistics, encodeRead, type SandboxStatistics } from "./requests.ts";
import type { SandboxRoot } from "./roots.ts";
import { findWritten } from "./sandbox-files.ts";
import type { Layer } from "./snapshots.ts";

/** A command that timed out is interrupted for at most 1 s inside; then the shell is replaced. */
const COMMAND_GRACE_MS = 15_000;
const FILES_MS = 30_000;
/** Until all processes have ended; longer than the limit inside, which names the cause. */
const END_MS = 40_000;
const LIMITS_MS = 10_000;
const PAUSE_MS = 10_000;

/** A paused sandbox's init may be frozen, and answers to these only. */
const WHILE_PAUSED: ReadonlySet<OpCode> = new Set([Op.resume, Op.statistics, Op.freeze]);

export class NativeSandbox implements Sandbox {
  readonly id: string;
  /** The level reached; of one that goes on after a snapshot, or stands on files on disk, it may not be the launcher's. */
  isolation: string;
  readonly environment: EnvironmentSpec;
  readonly launcher: InitChannel;
  readonly network: NativeNetwork;
  readonly #owner: SandboxOwner;
  /** The launcher's name for it; another one after each snapshot. */
  #number: number;
  readonly #base: string;
  #layers: readonly Layer[];
  /** Variables that every program of it gets, as its image says. */
  readonly env: Readonly<Record<string, string>>;
  #gone: string | undefined;
  readonly #goneListeners: ((reason: string) => void)[] = [];
  #destroyed: Promise<void> | undefined;
  #paused = false;
  /** Requests under way. */
  #asked = 0;
  /** Until it goes on after a snapshot; all requests wait. Neither rejects: what fails is told by the next use. */
  #going: Promise<void> | undefined;
  /** The same, until its shell is there again; only commands wait. */
  reopening: Promise<void> | undefined;

  constructor(
    launcher: InitChannel,
    number: number,
    options: {
      readonly environment: EnvironmentSpec;
      readonly root: SandboxRoot;
      readonly owner: SandboxOwner;
      readonly network?: NetworkOptions | undefined;
    },
  ) {
    this.launcher = launcher;
    this.#number = number;
    this.#owner = options.owner;
    this.#base = options.root.base;
    this.#layers = options.root.layers;
    this.env = options.root.env;
    this.environment = options.environment;
    this.id = `s${number}`;
    this.isolation = launcher.isolation;
    this.network = this.#makeNetwork(options.network);
    for (const layer of this.#layers) layer.retain(true);
    this.#watch();
  }

  /** What its root file system is made of. */
  get root(): SandboxRoot {
    return { base: this.#base, layers: this.#layers, env: this.env };
  }

  /** What frozen sandboxes wrote that this one stands on, newest first. */
  get layers(): readonly Layer[] {
    return this.#layers;
  }

  #makeNetwork(options: NetworkOptions | undefined): NativeNetwork {
    const sandbox = this;
    return new NativeNetwork(
      {
        id: this.id,
        socketFolder: this.launcher.socketFolder,
        launcherFolder: SOCKETS,
        get alive() {
          return sandbox.alive;
        },
        request: (op, payload, what, timeoutMs) => sandbox.#send(op, payload, what, timeoutMs),
        upload: (folder, files) => sandbox.#import(folder, encodeFiles(files)),
      },
      options,
    );
  }

  #watch(): void {
    const number = this.#number;
    this.launcher.onGone(number, (reason) => {
      if (number === this.#number) this.#lose(reason);
    });
  }

  #lose(reason: string): void {
    if (this.#gone !== undefined || this.#destroyed !== undefined) return;
    this.#gone = reason;
    this.network.close().catch(() => {});
    for (const listener of this.#goneListeners) listener(reason);
  }

  /** Calls `listener` once when the sandbox ends by itself, as one does whose init was killed for want of memory. */
  onGone(listener: (reason: string) => void): void {
    if (this.#gone === undefined) this.#goneListeners.push(listener);
    else listener(this.#gone);
  }

  snapshot(): Promise<SandboxSnapshot> {
    return this.#owner.takeSnapshot(this, true);
  }

  /** As `snapshot`, for one whose shell was never used: none is started for its state, here or in forks. */
  snapshotFiles(): Promise<SandboxSnapshot> {
    return this.#owner.takeSnapshot(this, false);
  }

  /** Ends the sandbox in the launcher and keeps what it wrote as `layer`. Returns its bytes. */
  async freeze(layer: number): Promise<number> {
    const reply = await this.request(Op.freeze, encodeSettings([["layer", layer]]), "freezing the files", END_MS);
    this.launcher.forget(this.#number);
    return Number(new DataView(reply.payload.buffer, reply.payload.byteOffset, 8).getBigUint64(0, true));
  }

  /**
   * Goes on as the launcher's sandbox `number`, which stands on `layers`; they are retained for it already.
   * @throws AleError("sandbox") when it was destroyed meanwhile.
   */
  continueAs(number: number, layers: readonly Layer[]): void {
    this.#check();
    for (const layer of this.#layers) layer.release(true);
    this.#layers = layers;
    this.#number = number;
    this.#watch();
  }

  /**
   * Goes on by `make`, which calls `continueAs`, then has its shell brought back by `reopen`. The sandbox may be used at once:
   * what is asked of it waits.
   */
  goOnBy(make: () => Promise<void>, reopen: () => Promise<void>): void {
    this.#going = make()
      .catch((error: unknown) => this.#lose(`it could not go on after its snapshot was taken: ${errorMessage(error)}`))
      .finally(() => {
        this.#going = undefined;
      });
    this.reopening = this.#going
      .then(() => (this.alive ? reopen() : undefined))
      .catch((error: unknown) => this.#lose(`its shell could not be opened again: ${errorMessage(error)}`))
      .finally(() => {
        this.reopening = undefined;
      });
  }

  /** Whether somebody waits for it. */
  get busy(): boolean {
    return this.#asked > 0;
  }

  /** Whether it can still be used. */
  get alive(): boolean {
    return this.#gone === undefined && this.#destroyed === undefined;
  }

  #check(whilePaused = false): void {
    if (this.#destroyed !== undefined) throw new AleError("sandbox", `sandbox ${this.id} is destroyed`);
    if (this.#gone !== undefined) throw new AleError("sandbox", `sandbox ${this.id} is gone: ${this.#gone}`);
    if (this.#paused && !whilePaused)
      throw new AleError("sandbox", `sandbox ${this.id} is paused`, { hint: "resume it first" });
  }

  /** Stops every process until `resume`; time limits stand still. But for statistics, nothing can be asked of it meanwhile. */
  async pause(): Promise<void> {
    await this.reopening;
    await this.request(Op.pause, new Uint8Array(0), "pausing", PAUSE_MS);
    this.#paused = true;
    this.launcher.holdOff(this.#number);
  }

  async resume(): Promise<void> {
    try {
      await this.request(Op.resume, new Uint8Array(0), "resuming", PAUSE_MS);
    } finally {
      this.#paused = false;
      this.launcher.goOn(this.#number);
    }
  }

  async statistics(): Promise<SandboxStatistics> {
    const { payload } = await this.request(Op.statistics, new Uint8Array(0), "statistics", LIMITS_MS);
    return decodeStatistics(payload);
  }

  /** Its processes, for the guards. */
  async observe(): Promise<Observation> {
    const { payload } = await this.request(Op.observe, new Uint8Array(0), "looking at processes", LIMITS_MS);
    return decodeObservation(payload, performance.now());
  }

  /** Those of `paths` that this sandbox itself wrote to, or removed; not what it found there, or earlier snapshots hold. */
  writtenPaths(paths: readonly string[]): Promise<readonly string[]> {
    return findWritten(this, paths);
  }

  /** One request to this sandbox's init, in the words of `protocol.ts` and `requests.ts`. */
  async request(op: OpCode, payload: Uint8Array, what: string, timeoutMs: number): Promise<Reply> {
    if (this.#going !== undefined) await this.#going;
    return this.#send(op, payload, what, timeoutMs);
  }

  async #send(op: OpCode, payload: Uint8Array, what: string, timeoutMs: number): Promise<Reply> {
    this.#check(WHILE_PAUSED.has(op));
    return this.#counted(this.launcher.request(op, this.#number, payload, `${what} in sandbox ${this.id}`, timeoutMs));
  }

  async #counted(reply: Promise<Reply>): Promise<Reply> {
    this.#asked++;
    try {
      return await reply;
    } finally {
      this.#asked--;
    }
  }

  async upload(folder: string, files: readonly SandboxFile[]): Promise<void> {
    await this.importFolder(folder, encodeFiles(files));
  }

  /** Like `upload`, but what lies at `folder` is removed first, links and all. */
  async replaceFolder(folder: string, files: readonly SandboxFile[]): Promise<void> {
    checkPath(folder);
    await this.request(Op.import, encodeImport(folder, encodeFiles(files), true), `replacing ${folder}`, FILES_MS);
  }

  async run(command: string, options: CommandOptions): Promise<CommandResult> {
    await this.reopening;
    return this.runIn(0, command, options);
  }

  /** As `run`, in another of the sandbox's shells (`shells.ts`). */
  async runIn(
    shell: number,
    command: string,
    options: CommandOptions & { readonly interactive?: boolean },
  ): Promise<CommandResult & { readonly restarted: boolean }> {
    const text = encodeText("the command", command);
    const { timeoutMs, maxOutputBytes, interactive } = options;
    const payload = encodeCommand({ timeoutMs, maxOutputBytes, text, shell, interactive: interactive ?? false });
    const reply = await this.#command(Op.run, payload, "a command", options);
    if (reply.missing) throw new ShellMissing();
    const raw = decodeResult(reply.payload);
    return { ...toResult(raw), restarted: raw.restarted };
  }

  async exec(argv: readonly string[], options: ExecOptions): Promise<CommandResult> {
    return toResult(await this.#launch(argv, options, false));
  }

  /** As `exec`, with standard error apart. Each stream is capped at `maxOutputBytes`. */
  async execSeparate(argv: readonly string[], options: ExecOptions): Promise<SeparateResult> {
    const raw = await this.#launch(argv, options, true);
    return { ...toResult(raw), errorOutput: raw.errorOutput, errorOutputBytes: raw.errorOutputBytes };
  }

  async #launch(argv: readonly string[], options: ExecOptions, separate: boolean): Promise<RawResult> {
    const payload = encodeProgram(argv, { ...options, env: { ...this.env, ...options.env } }, separate);
    const reply = await this.#command(Op.exec, payload, argv[0] ?? "", options);
    if (reply.missing) throw new ProgramMissing(argv[0] ?? "");
    return decodeResult(reply.payload);
  }

  async #command(op: OpCode, payload: Uint8Array, what: string, options: CommandOptions): Promise<Reply> {
    if (this.#going !== undefined) await this.#going;
    this.#check();
    const { signal } = options;
    throwIfAborted(signal, what);
    const limitMs = options.timeoutMs + COMMAND_GRACE_MS;
    const [request, reply] = this.launcher.start(op, this.#number, payload, `${what} in sandbox ${this.id}`, limitMs);
    const abort = () => this.launcher.cancel(request, this.#number);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      const result = await this.#counted(reply);
      throwIfAborted(signal, what);
      return result;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  async readFile(path: string, maxBytes: number): Promise<Uint8Array | null> {
    checkPath(path);
    const reply = await this.request(Op.read, encodeRead({ path, maxBytes }), `reading ${path}`, FILES_MS);
    return reply.missing ? null : decodeRead(reply.payload).content;
  }

  async killAll(): Promise<void> {
    await this.endProcesses();
  }

  /** As `killAll`; returns how many processes there were, the shell included. */
  async endProcesses(): Promise<number> {
    const { payload } = await this.request(Op.killAll, new Uint8Array(0), "ending all processes", END_MS);
    return new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true);
  }

  async exportFolder(folder: string, maxBytes: number): Promise<SandboxArchive> {
    checkPath(folder);
    const reply = await this.request(Op.export, encodePath(maxBytes, folder), `exporting ${folder}`, FILES_MS);
    if (reply.missing) throw new AleError("sandbox", `there is no folder ${folder} in sandbox ${this.id}`);
    return reply.payload;
  }

  async importFolder(folder: string, archive: SandboxArchive): Promise<void> {
    if (this.#going !== undefined) await this.#going;
    await this.#import(folder, archive);
  }

  async #import(folder: string, archive: SandboxArchive): Promise<void> {
    checkPath(folder);
    await this.#send(Op.import, encodeImport(folder, archive, false), `placing files in ${folder}`, FILES_MS);
  }

  /** Also answers for a sandbox that ended by itself, as one does whose init was killed for want of memory. */
  async limitEvents(): Promise<LimitEvents> {
    if (this.#destroyed !== undefined) this.#check(true);
    if (this.#going !== undefined) await this.#going;
    const what = `the limits of sandbox ${this.id}`;
    const reply = await this.launcher.request(Op.limits, this.#number, new Uint8Array(0), what, LIMITS_MS);
    return decodeLimits(reply.payload);
  }

  destroy(): Promise<void> {
    this.#destroyed ??= this.#destroy();
    return this.#destroyed;
  }

  async #destroy(): Promise<void> {
    await this.#going;
    this.launcher.forget(this.#number);
    try {
      await this.network.close();
      await this.launcher.destroy(this.#number);
    } catch (error) {
      // With the launcher, all its sandboxes have ended.
      if (this.#gone === undefined && this.launcher.alive) throw error;
    } finally {
      for (const layer of this.#layers) layer.release(true);
      this.#layers = [];
      this.#owner.onDestroyed(this);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }
}
