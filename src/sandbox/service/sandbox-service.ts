/**
 * Sandboxes with names that outlive a request: made when there is room, paused, stopped with their files kept, started again,
 * forked, and ended when nobody has used them for a while.
 */

import { randomBytes } from "node:crypto";
import type { Alert } from "../../core/alerts.ts";
import { AleError, errorMessage } from "../../core/errors.ts";
import type { SandboxSnapshot } from "../../core/ports.ts";
import type { NativeSandbox } from "../native-sandbox.ts";
import { type NetworkCap, REQUEST } from "../network/network-cap.ts";
import { NO_NETWORK } from "../network/policy.ts";
import type { NativeSandboxProvider } from "../supervisor.ts";
import { Admission, NO_RESOURCES } from "./admission.ts";
import { Archiving } from "./archiving.ts";
import { type Clock, SYSTEM_CLOCK } from "./clock.ts";
import { freeze } from "./freeze.ts";
import { joined, needOf } from "./grants.ts";
import { ManagedSandbox, type TimeToLive } from "./managed-sandbox.ts";
import { forkWith, type NamedSnapshot, NamedSnapshots } from "./named-snapshots.ts";
import {
  type CreateRequest,
  DEFAULT_TTL,
  defined,
  type ForkResult,
  type SandboxServiceOptions,
  UnknownSandbox,
} from "./requests.ts";
import { type Expiry, TimeLimits } from "./time-limits.ts";
import { WarmEnvironments } from "./warm-environments.ts";

const DEFAULT_QUEUE_MS = 60_000;
/** Sandboxes that are gone are remembered, the last of them. */
const MAX_REMEMBERED = 1000;
const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

export class SandboxService implements AsyncDisposable {
  readonly admission: Admission;
  readonly provider: NativeSandboxProvider;
  readonly #ttl: TimeToLive;
  readonly #clock: Clock;
  readonly #onAlert: SandboxServiceOptions["onAlert"];
  readonly networkCap: NetworkCap | undefined;
  readonly #sandboxes = new Map<string, ManagedSandbox>();
  readonly #gone = new Map<string, ManagedSandbox>();
  readonly snapshots = new NamedSnapshots();
  readonly warm: WarmEnvironments;
  readonly #archives: Archiving | undefined;
  readonly #limits: TimeLimits;
  #closed = false;

  constructor({ provider, capacity, ttl, clock, archives, warm, networkCap, onAlert }: SandboxServiceOptions) {
    this.provider = provider;
    this.warm = new WarmEnvironments(provider, warm ?? 0);
    this.#onAlert = onAlert;
    this.networkCap = networkCap;
    this.#clock = clock ?? SYSTEM_CLOCK;
    this.#ttl = ttl ?? DEFAULT_TTL;
    this.admission = new Admission(capacity, this.#clock);
    this.#archives = archives === undefined ? undefined : new Archiving(provider, archives);
    this.#limits = new TimeLimits(this.#clock, () => this.list(), {
      stop: (id, reason) => this.stop(id, reason),
      archive: (id, reason) => this.archive(id, reason),
      delete: (id, reason) => this.delete(id, reason),
    });
  }

  /** When the sandbox ends by itself, and how; `undefined`: not while things stay as they are. */
  expiryOf(sandbox: ManagedSandbox): Expiry | undefined {
    return this.#limits.expiryOf(sandbox);
  }

  #schedule(): void {
    this.#limits.schedule();
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
    const from = request.snapshot === undefined ? undefined : this.snapshots.get(request.snapshot);
    // Whoever starts from a snapshot says anew what may be reached.
    const { network = NO_NETWORK } = request.environment;
    const environment = from === undefined ? request.environment : { ...from.environment, network };
    this.networkCap?.check(REQUEST, network);
    const sandbox = this.#register({ ...request, environment }, { ...this.#ttl, ...defined(request.ttl) });
    const ready =
      from === undefined
        ? this.#make(sandbox, request, (signal) => this.provider.createBare(environment, signal))
        : this.#make(sandbox, request, (signal) => forkWith(this.provider, from.files, network, signal)).then(() =>
            sandbox.reopenShells(from.shells),
          );
    ready.then(
      () => from !== undefined || this.#closed || this.warm.note(environment),
      () => {}, // told by the state, too
    );
    return { sandbox, ready };
  }

  async #make(
    sandbox: ManagedSandbox,
    { queueMs, signal, prepare }: Pick<CreateRequest, "queueMs" | "signal" | "prepare">,
    bring: (signal: AbortSignal) => Promise<NativeSandbox>,
    failure: "fail" | "restore_failed" = "fail",
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
      if (sandbox.state === "pending") sandbox.move(failure, errorMessage(error));
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
      if (!this.#closed) await this.#archives?.remove(sandbox);
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
      const { files, shells, lostProcesses, freshShells } = await freeze(parent, this.#clock.now());
      try {
        const child = this.#register({ environment, labels, isGraded, ...defined(request) }, ttl);
        await this.#make(child, request, (signal) => this.provider.fork(files, signal));
        await child.reopenShells(shells);
        return { sandbox: child, lostProcesses, freshShells };
      } finally {
        await files[Symbol.asyncDispose](); // what stands on it keeps it
      }
    });
  }

  /** Keeps the files and shells of a running or stopped sandbox under a name. @throws AleError("usage") when it is taken. */
  takeSnapshot(id: string, name: string): Promise<NamedSnapshot> {
    const sandbox = this.get(id);
    return this.snapshots.add(name, () => sandbox.exclusively(() => freeze(sandbox, this.#clock.now())));
  }

  /** Has `work` do something with the files of a running or stopped sandbox, as they are now. */
  withFiles<T>(id: string, work: (files: SandboxSnapshot) => Promise<T>): Promise<T> {
    const sandbox = this.get(id);
    return sandbox.exclusively(async () => {
      const { files } = await freeze(sandbox, this.#clock.now());
      try {
        return await work(files);
      } finally {
        await files[Symbol.asyncDispose]();
      }
    });
  }

  // ---- archives

  /** Brings in what earlier services archived. */
  async loadArchives(): Promise<void> {
    const onAlert = (alert: Alert, sandbox: ManagedSandbox) => this.#alerted(sandbox, alert);
    for (const sandbox of (await this.#archives?.load(this.#clock, onAlert)) ?? [])
      if (!this.#sandboxes.has(sandbox.id)) this.#sandboxes.set(sandbox.id, sandbox);
    this.#schedule();
  }

  /** Whether there is a place for archives. */
  get canArchive(): boolean {
    return this.#archives !== undefined;
  }

  get #archiving(): Archiving {
    if (this.#archives !== undefined) return this.#archives;
    throw new AleError("usage", "this service has no place for archives", { hint: "ale serve has one, in ALE_HOME" });
  }

  /** Writes a stopped sandbox to disk, where it outlives the service, and frees its memory. */
  archive(id: string, reason = "asked"): Promise<ManagedSandbox> {
    const archives = this.#archiving;
    return this.#change(id, "archive", (sandbox) => archives.archive(sandbox, reason, this.#clock));
  }

  /** Starts an archived sandbox. The archive stays as it is until the sandbox is archived again, or deleted. */
  restore(id: string, options: Pick<CreateRequest, "queueMs" | "signal"> = {}): Promise<ManagedSandbox> {
    const archives = this.#archiving;
    return this.#change(id, "restore", async (sandbox) => {
      this.networkCap?.check(REQUEST, sandbox.spec.environment.network ?? NO_NETWORK);
      sandbox.move("restore");
      sandbox.making = new AbortController();
      await this.#make(sandbox, options, (signal) => archives.bring(sandbox, signal), "restore_failed");
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
    event: "pause" | "resume" | "stop" | "restart" | "archive" | "restore",
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

  /** Deletes all sandboxes but archives. The provider stays open. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#limits.close();
    this.warm.clear();
    // What is archived stays, and is another service's from now on.
    const all = this.list();
    await Promise.all(all.map((sandbox) => this.delete(sandbox.id, "the service ended").catch(() => {})));
    await this.#archives?.release(all);
    await this.snapshots[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
