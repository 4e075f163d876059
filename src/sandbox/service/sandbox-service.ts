/**
 * Sandboxes with names that outlive a request: made when there is room, paused, stopped with their files kept, started again,
 * forked, and ended when nobody has used them for a while.
 */

import { randomBytes } from "node:crypto";
import type { Alert } from "../../core/alerts.ts";
import { AleError, errorMessage } from "../../core/errors.ts";
import type { SandboxSnapshot } from "../../core/ports.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import type { NativeSandbox } from "../native-sandbox.ts";
import type { NativeSandboxProvider } from "../supervisor.ts";
import { Admission, NO_RESOURCES, type Resources } from "./admission.ts";
import { type Clock, SYSTEM_CLOCK } from "./clock.ts";
import { joined, needOf } from "./grants.ts";
import { ManagedSandbox, type ShellRecord, type TimeToLive } from "./managed-sandbox.ts";
import { WarmEnvironments } from "./warm-environments.ts";

export interface SandboxServiceOptions {
  readonly provider: NativeSandboxProvider;
  readonly capacity: Resources;
  /** Of sandboxes that do not say. */
  readonly ttl?: TimeToLive;
  readonly clock?: Clock;
  /** Sandboxes kept ready of each environment that was asked for lately. Default 0. */
  readonly warm?: number;
  /** Called with whatever the guards raise. */
  readonly onAlert?: (alert: Alert, sandbox: ManagedSandbox) => void;
}

export interface CreateRequest {
  readonly environment: EnvironmentSpec;
  /** Omitted: a random one. Letters, digits, `.`, `_` and `-`. */
  readonly id?: string | undefined;
  readonly ttl?: Partial<TimeToLive> | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Whether its tests and rewards are ours, so that writing where they lie is an alert. Default false. */
  readonly isGraded?: boolean | undefined;
  /** The longest it waits for room. Default one minute. */
  readonly queueMs?: number | undefined;
  /** Done in a new sandbox before it is ready. */
  readonly prepare?: ((sandbox: NativeSandbox) => Promise<void>) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** 30 minutes without use, a day in all, an hour stopped. */
export const DEFAULT_TTL: TimeToLive = { idleMs: 1_800_000, totalMs: 86_400_000, stoppedMs: 3_600_000 };
const DEFAULT_QUEUE_MS = 60_000;
/** Sandboxes that are gone are remembered, the last of them. */
const MAX_REMEMBERED = 1000;
const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

/** A sandbox that was forked, and what the fork could not take along. */
export interface ForkResult {
  readonly sandbox: ManagedSandbox;
  /** Processes of the original, which ended there, too. */
  readonly lostProcesses: number;
  /** Shells that were running a command, and start afresh. */
  readonly freshShells: readonly string[];
}

export class SandboxService implements AsyncDisposable {
  readonly admission: Admission;
  readonly provider: NativeSandboxProvider;
  readonly #ttl: TimeToLive;
  readonly #clock: Clock;
  readonly #onAlert: SandboxServiceOptions["onAlert"];
  readonly #sandboxes = new Map<string, ManagedSandbox>();
  readonly #gone = new Map<string, ManagedSandbox>();
  readonly warm: WarmEnvironments;
  #cancelTimer: (() => void) | undefined;
  #closed = false;

  constructor({ provider, capacity, ttl, clock, warm, onAlert }: SandboxServiceOptions) {
    this.provider = provider;
    this.warm = new WarmEnvironments(provider, warm ?? 0);
    this.#onAlert = onAlert;
    this.#clock = clock ?? SYSTEM_CLOCK;
    this.#ttl = ttl ?? DEFAULT_TTL;
    this.admission = new Admission(capacity, this.#clock);
  }

  // ---- finding

  /** Those there are, the oldest first. */
  list(): ManagedSandbox[] {
    return [...this.#sandboxes.values()];
  }

  /** @throws AleError("usage") when there is none of that name, or it is deleted. */
  get(id: string): ManagedSandbox {
    const sandbox = this.#sandboxes.get(id);
    if (sandbox !== undefined) return sandbox;
    throw new UnknownSandbox(id);
  }

  /** Also one that was deleted, as long as it is remembered. */
  find(id: string): ManagedSandbox | undefined {
    return this.#sandboxes.get(id) ?? this.#gone.get(id);
  }

  // ---- making

  /**
   * Makes a sandbox and waits until it can be used.
   * @throws NotAdmitted when there is no room; AleError("sandbox") when it cannot be made.
   */
  async create(request: CreateRequest): Promise<ManagedSandbox> {
    const { sandbox, ready } = this.start(request);
    await ready;
    return sandbox;
  }

  /** Begins to make a sandbox. `ready` rejects as `create` does; the sandbox is `failed` then. */
  start(request: CreateRequest): { readonly sandbox: ManagedSandbox; readonly ready: Promise<void> } {
    const sandbox = this.#register(request, { ...this.#ttl, ...defined(request.ttl) });
    const { environment } = request;
    const ready = this.#make(sandbox, request, (signal) => this.provider.createBare(environment, signal));
    ready.then(
      () => this.#closed || this.warm.note(environment),
      () => {}, // told by the state, too
    );
    return { sandbox, ready };
  }

  async #make(
    sandbox: ManagedSandbox,
    { queueMs, signal, prepare }: Pick<CreateRequest, "queueMs" | "signal" | "prepare">,
    bring: (signal: AbortSignal) => Promise<NativeSandbox>,
  ): Promise<void> {
    const ended = signal === undefined ? sandbox.making.signal : AbortSignal.any([signal, sandbox.making.signal]);
    let native: NativeSandbox | undefined;
    try {
      const deadlineMs = queueMs ?? DEFAULT_QUEUE_MS;
      const need = needOf(sandbox.spec.environment);
      sandbox.grant ??= await this.admission.request({ who: sandbox.id, need, deadlineMs, signal: ended });
      native = await bring(ended);
      await prepare?.(native);
      ended.throwIfAborted();
      this.#begin(sandbox, native);
    } catch (error) {
      await native?.destroy().catch(() => {});
      sandbox.grant?.release();
      sandbox.grant = undefined;
      if (sandbox.state === "pending") sandbox.move("fail", errorMessage(error));
      this.#schedule();
      throw error;
    }
  }

  #begin(sandbox: ManagedSandbox, native: NativeSandbox): void {
    sandbox.move("ready");
    sandbox.adopt(native);
    sandbox.startedAt = this.#clock.now();
    sandbox.stoppedAt = undefined;
    native.onGone((reason) => {
      if (sandbox.native !== native) return;
      if (sandbox.state === "running" || sandbox.state === "paused") sandbox.move("fail", reason);
      sandbox.stoppedAt = this.#clock.now();
      sandbox.discard().catch(() => {});
      this.#schedule();
    });
    this.#schedule();
  }

  // ---- changing state

  pause(id: string): Promise<ManagedSandbox> {
    return this.#change(id, "pause", async (sandbox) => {
      await sandbox.native?.pause();
      sandbox.move("pause");
    });
  }

  resume(id: string): Promise<ManagedSandbox> {
    return this.#change(id, "resume", async (sandbox) => {
      await sandbox.native?.resume();
      sandbox.move("resume");
      sandbox.touch();
    });
  }

  /** Ends every process and keeps the files, for `restart`. */
  stop(id: string, reason = "asked"): Promise<ManagedSandbox> {
    this.get(id).making.abort();
    return this.#change(id, "stop", async (sandbox) => {
      if (sandbox.state === "stopped") return;
      const native = sandbox.native;
      if (native === undefined) {
        sandbox.move("stop", reason);
        return this.#stopped(sandbox, undefined);
      }
      const files = await this.provider.retire(native);
      sandbox.move("stop", reason);
      sandbox.adopt(undefined);
      this.#stopped(sandbox, files);
    });
  }

  /** Only the disk stays in use: the files lie in memory. */
  #stopped(sandbox: ManagedSandbox, files: SandboxSnapshot | undefined): void {
    sandbox.files = files;
    sandbox.stoppedAt = this.#clock.now();
    const { diskBytes } = sandbox.spec.environment;
    if (files === undefined) {
      sandbox.grant?.release();
      sandbox.grant = undefined;
    } else sandbox.grant?.release({ ...NO_RESOURCES, diskBytes });
    this.#schedule();
  }

  /** Starts a stopped sandbox again, with its files and without its processes. */
  restart(id: string, options: Pick<CreateRequest, "queueMs" | "signal"> = {}): Promise<ManagedSandbox> {
    return this.#change(id, "restart", async (sandbox) => {
      const { files, grant } = sandbox;
      sandbox.move("restart");
      sandbox.making = new AbortController();
      const { environment } = sandbox.spec;
      // Queued like any other; the disk it holds is given back at the moment it gets all it needs.
      const deadlineMs = options.queueMs ?? DEFAULT_QUEUE_MS;
      const need = { ...needOf(environment), ...(grant === undefined ? {} : { diskBytes: 0 }) };
      try {
        const rest = await this.admission.request({ who: id, need, deadlineMs, signal: options.signal });
        sandbox.grant = joined(grant, rest);
      } catch (error) {
        sandbox.move("stop", errorMessage(error));
        throw error;
      }
      await this.#make(sandbox, options, (signal) =>
        files === undefined ? this.provider.createBare(environment, signal) : this.provider.fork(files, signal),
      );
      sandbox.files = undefined;
      await files?.[Symbol.asyncDispose]();
    });
  }

  /** Ends it for good. Of one that is gone already, nothing. */
  async delete(id: string, reason = "asked"): Promise<void> {
    const known = this.#sandboxes.get(id);
    if (known === undefined && this.#gone.has(id)) return;
    this.get(id).making.abort();
    await this.get(id).exclusively(async () => {
      const sandbox = this.#sandboxes.get(id);
      if (sandbox === undefined) return;
      sandbox.move("delete", reason);
      sandbox.stoppedAt ??= this.#clock.now();
      this.#sandboxes.delete(id);
      this.#remember(sandbox);
      await sandbox.discard();
    });
    this.#schedule();
  }

  #remember(sandbox: ManagedSandbox): void {
    this.#gone.set(sandbox.id, sandbox);
    const [oldest] = this.#gone.keys();
    if (this.#gone.size > MAX_REMEMBERED && oldest !== undefined) this.#gone.delete(oldest);
  }

  /**
   * A new sandbox with the files of a running one, and its shells with their folders and exported variables. The processes of
   * the original end; its own shells are opened again, too.
   */
  async fork(
    id: string,
    request: Pick<CreateRequest, "id" | "labels" | "queueMs" | "signal"> = {},
  ): Promise<ForkResult> {
    const parent = this.get(id);
    return parent.exclusively(async () => {
      const { environment, ttl, labels, isGraded } = parent.spec;
      const shells = await parent.describeShells();
      const snapshot = await parent.running.snapshotFiles();
      try {
        await parent.reopenShells(shells);
        const child = this.#register({ environment, labels, isGraded, ...defined(request) }, ttl);
        await this.#make(child, request, (signal) => this.provider.fork(snapshot, signal));
        await child.reopenShells(shells);
        return {
          sandbox: child,
          lostProcesses: Math.max(0, snapshot.lostProcesses - shells.length),
          freshShells: fresh(shells),
        };
      } finally {
        await snapshot[Symbol.asyncDispose](); // what stands on it keeps it
      }
    });
  }

  #register(request: CreateRequest, ttl: TimeToLive) {
    const { id = `sb-${randomBytes(6).toString("hex")}`, environment, labels = {}, isGraded = false } = request;
    if (this.#closed) throw new AleError("sandbox", "the sandbox service is closed");
    if (!ID.test(id))
      throw new AleError("usage", `${JSON.stringify(id)} cannot be the name of a sandbox`, {
        hint: "letters, digits, . _ and -, at most 128",
      });
    if (this.#sandboxes.has(id))
      throw new AleError("usage", `there is a sandbox ${id} already`, { hint: "take another name" });
    const sandbox: ManagedSandbox = new ManagedSandbox(
      { id, environment, labels, ttl, isGraded },
      this.#clock,
      (alert) => this.#alerted(sandbox, alert),
    );
    this.#sandboxes.set(id, sandbox);
    return sandbox;
  }

  #alerted(sandbox: ManagedSandbox, alert: Alert): void {
    this.#onAlert?.(alert, sandbox);
    if (alert.action !== "stop") return;
    const reason = `guard: ${alert.kind}`;
    this.stop(sandbox.id, reason).catch(() => this.delete(sandbox.id, reason).catch(() => {}));
  }

  async #change(
    id: string,
    event: "pause" | "resume" | "stop" | "restart",
    work: (sandbox: ManagedSandbox) => Promise<void>,
  ): Promise<ManagedSandbox> {
    const sandbox = this.get(id);
    await sandbox.exclusively(async () => {
      sandbox.checkMove(event);
      await work(sandbox);
    });
    this.#schedule();
    return sandbox;
  }

  // ---- time to live

  /** When the sandbox ends by itself, and how; `undefined`: not while things stay as they are. */
  expiryOf(
    sandbox: ManagedSandbox,
  ): { readonly at: number; readonly how: "idle" | "expired" | "kept long enough" } | undefined {
    const { ttl } = sandbox.spec;
    const { state, startedAt = 0, stoppedAt = 0 } = sandbox;
    if (state === "stopped" || state === "failed") return finite(stoppedAt + ttl.stoppedMs, "kept long enough");
    if (state !== "running" && state !== "paused") return undefined;
    const total = startedAt + ttl.totalMs;
    const idle = sandbox.idleAt;
    return idle < total ? finite(idle, "idle") : finite(total, "expired");
  }

  #schedule(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    if (this.#closed) return;
    const next = Math.min(...this.list().map((sandbox) => this.#nextLook(sandbox)));
    if (!Number.isFinite(next)) return;
    this.#cancelTimer = this.#clock.after(Math.max(0, next - this.#clock.now()), () => void this.#sweep());
  }

  /** Use puts the end off and is not announced; so a busy sandbox is looked at again after a whole idle time. */
  #nextLook(sandbox: ManagedSandbox): number {
    const at = this.expiryOf(sandbox)?.at ?? Number.POSITIVE_INFINITY;
    const live = sandbox.state === "running" || sandbox.state === "paused";
    return live ? Math.min(at, this.#clock.now() + sandbox.spec.ttl.idleMs) : at;
  }

  async #sweep(): Promise<void> {
    const now = this.#clock.now();
    const due = this.list().filter((sandbox) => (this.expiryOf(sandbox)?.at ?? Number.POSITIVE_INFINITY) <= now);
    await Promise.all(
      due.map(async (sandbox) => {
        const how = this.expiryOf(sandbox)?.how ?? "expired";
        if (how === "kept long enough") await this.delete(sandbox.id, how).catch(() => {});
        // What cannot be stopped with its files kept, as on old kernels, is not kept.
        else await this.stop(sandbox.id, how).catch(() => this.delete(sandbox.id, how));
      }),
    );
    this.#schedule();
  }

  /** Deletes all sandboxes. The provider stays open. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancelTimer?.();
    this.warm.clear();
    await Promise.all(this.list().map((sandbox) => this.delete(sandbox.id, "the service ended").catch(() => {})));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** There is no sandbox of that name. */
export class UnknownSandbox extends AleError {
  constructor(id: string) {
    super("usage", `there is no sandbox ${JSON.stringify(id)}`, { hint: "ale sandbox ps lists them" });
    this.name = "UnknownSandbox";
  }
}

function fresh(shells: readonly ShellRecord[]): string[] {
  return shells.filter((shell) => shell.state === undefined).map((shell) => shell.name);
}

function finite<How>(at: number, how: How): { readonly at: number; readonly how: How } | undefined {
  return Number.isFinite(at) ? { at, how } : undefined;
}

/** Without what is undefined, so that defaults stay. */
function defined<T extends object>(value: T | undefined): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(value ?? {}).filter(([, content]) => content !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> };
}
