/** What becomes of sandboxes that nobody asks about: used no more they are stopped, then archived or deleted. */

import type { Clock } from "./clock.ts";
import type { ManagedSandbox } from "./managed-sandbox.ts";

/** After an archive could not be written, as with a full disk, it is tried again. */
const RETRY_MS = 60_000;

export interface Expiry {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly how: "idle" | "expired" | "kept long enough" | "archived";
}

export interface Ends {
  stop(id: string, reason: string): Promise<unknown>;
  archive(id: string, reason: string): Promise<unknown>;
  delete(id: string, reason: string): Promise<unknown>;
}

export class TimeLimits {
  readonly #clock: Clock;
  readonly #list: () => readonly ManagedSandbox[];
  readonly #ends: Ends;
  readonly #retries = new Map<string, number>();
  #cancelTimer: (() => void) | undefined;
  #closed = false;

  constructor(clock: Clock, list: () => readonly ManagedSandbox[], ends: Ends) {
    this.#clock = clock;
    this.#list = list;
    this.#ends = ends;
  }

  /** When the sandbox ends by itself, and how; `undefined`: not while things stay as they are. */
  expiryOf(sandbox: ManagedSandbox): Expiry | undefined {
    const { ttl } = sandbox.spec;
    const { state, startedAt = 0, stoppedAt = 0, archivedAt = 0 } = sandbox;
    if (state === "stopped" && sandbox.files !== undefined && Number.isFinite(ttl.archiveMs ?? Number.NaN))
      return finite(Math.max(stoppedAt + (ttl.archiveMs ?? 0), this.#retries.get(sandbox.id) ?? 0), "archived");
    if (state === "archived")
      return finite(archivedAt + (ttl.archivedMs ?? Number.POSITIVE_INFINITY), "kept long enough");
    if (state === "stopped" || state === "failed") return finite(stoppedAt + ttl.stoppedMs, "kept long enough");
    if (state !== "running" && state !== "paused") return undefined;
    const total = startedAt + ttl.totalMs;
    const idle = sandbox.idleAt;
    return idle < total ? finite(idle, "idle") : finite(total, "expired");
  }

  /** To be called when something has changed. */
  schedule(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    if (this.#closed) return;
    const next = Math.min(...this.#list().map((sandbox) => this.#nextLook(sandbox)));
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
    const due = this.#list().filter((sandbox) => (this.expiryOf(sandbox)?.at ?? Number.POSITIVE_INFINITY) <= now);
    await Promise.all(due.map((sandbox) => this.#end(sandbox.id, this.expiryOf(sandbox)?.how ?? "expired")));
    this.schedule();
  }

  async #end(id: string, how: Expiry["how"]): Promise<void> {
    if (how === "kept long enough") await this.#ends.delete(id, how).catch(() => {});
    else if (how === "archived") {
      this.#retries.delete(id);
      // What cannot be archived stays as it is: it is all there is of it.
      await this.#ends.archive(id, "idle").catch(() => this.#retries.set(id, this.#clock.now() + RETRY_MS));
    }
    // What cannot be stopped with its files kept, as on old kernels, is not kept.
    else await this.#ends.stop(id, how).catch(() => this.#ends.delete(id, how));
  }

  close(): void {
    this.#closed = true;
    this.#cancelTimer?.();
  }
}

function finite<How>(at: number, how: How): { readonly at: number; readonly how: How } | undefined {
  return Number.isFinite(at) ? { at, how } : undefined;
}
