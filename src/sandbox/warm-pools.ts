/**
 * Sandboxes that are made before anybody wants one: a pool per environment, filled in the background, a few at a time. A
 * claim takes one that waits; where none does, whoever wants one makes it, and that is counted.
 */

import type { Sandbox, WarmPoolStatistics } from "../core/ports.ts";
import type { EnvironmentSpec } from "../core/types.ts";

/** How long after a claim the next sandbox is made, so that the one that was claimed gets its first command done before. */
const REFILL_DELAY_MS = 3;
/** After a failure a pool waits this long, doubled each time, before it tries again. */
const RETRY_MS = 200;
const MAX_RETRY_MS = 30_000;
/** Pools there are at most: tasks may bring ever new environments. The one that was asked for longest ago is given up. */
const MAX_POOLS = 16;

/** What can wait in a pool. */
type Waiting = Sandbox & { readonly alive: boolean };

interface Pool<T> {
  readonly environment: EnvironmentSpec;
  readonly shell: boolean;
  readonly ready: T[];
  target: number;
  making: number;
  claims: number;
  misses: number;
  failures: number;
  /** Failures since it was last filled. */
  failing: number;
  /** Not before this moment of `performance.now()`. */
  notBefore: number;
}

export interface WarmPoolsOptions<T> {
  readonly make: (environment: EnvironmentSpec, shell: boolean) => Promise<T>;
  /** Sandboxes being made at once, over all pools. */
  readonly concurrency: number;
}

export class WarmPools<T extends Waiting> {
  readonly #options: WarmPoolsOptions<T>;
  readonly #pools = new Map<string, Pool<T>>();
  #timer: Timer | undefined;
  #making = 0;
  #closed = false;

  constructor(options: WarmPoolsOptions<T>) {
    this.#options = options;
  }

  /** Keeps `count` sandboxes of this environment ready; 0 gives up those that wait. */
  keep(environment: EnvironmentSpec, count: number, shell: boolean): void {
    const key = keyOf(environment, shell);
    const pool: Pool<T> = this.#pools.get(key) ?? newPool(environment, shell);
    this.#pools.delete(key); // the order is that of their last mention
    this.#pools.set(key, pool);
    this.#aim(key, pool, count);
    const wanted = [...this.#pools].filter(([, { target }]) => target > 0);
    for (const [oldest, surplus] of wanted.slice(0, Math.max(0, wanted.length - MAX_POOLS)))
      this.#aim(oldest, surplus, 0);
    this.refill();
  }

  #aim(key: string, pool: Pool<T>, count: number): void {
    pool.target = count;
    for (const surplus of pool.ready.splice(count)) surplus.destroy().catch(() => {});
    if (count === 0 && pool.making === 0) this.#pools.delete(key);
  }

  /** One that is ready, or `undefined`. */
  claim(environment: EnvironmentSpec, shell: boolean): T | undefined {
    const pool = this.#pools.get(keyOf(environment, shell));
    if (pool === undefined || pool.target === 0) return undefined;
    this.#refillSoon();
    for (let sandbox = pool.ready.shift(); sandbox !== undefined; sandbox = pool.ready.shift()) {
      if (sandbox.alive) {
        pool.claims++;
        return sandbox;
      }
      sandbox.destroy().catch(() => {}); // it ended while it waited; what it held is given back
    }
    pool.misses++;
    return undefined;
  }

  /** Sandboxes that wait to be handed out. */
  get count(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.ready.length, 0);
  }

  get statistics(): readonly WarmPoolStatistics[] {
    return [...this.#pools.values()].map(
      ({ environment, shell, ready, target, making, claims, misses, failures }): WarmPoolStatistics => ({
        ...{ environment, shell, target, making, claims, misses, failures },
        ready: ready.length,
      }),
    );
  }

  /** Forgets what waited: it ended with its launcher. */
  drop(): void {
    for (const pool of this.#pools.values()) pool.ready.length = 0;
  }

  /** Makes no more. What waits ends with its launcher. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#pools.clear();
  }

  #refillSoon(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.refill();
    }, REFILL_DELAY_MS);
  }

  refill(): void {
    const now = performance.now();
    for (const pool of this.#pools.values()) {
      if (now < pool.notBefore) continue;
      while (
        !this.#closed &&
        this.#making < this.#options.concurrency &&
        pool.ready.length + pool.making < pool.target
      ) {
        pool.making++;
        this.#making++;
        this.#fill(pool);
      }
    }
  }

  async #fill(pool: Pool<T>): Promise<void> {
    try {
      const made = await this.#options.make(pool.environment, pool.shell);
      pool.failing = 0;
      if (!this.#closed && pool.ready.length < pool.target) pool.ready.push(made);
      else await made.destroy().catch(() => {});
    } catch {
      // Whoever asks for a sandbox meets the same error and tells it; the pool tries again later.
      const wait = Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** pool.failing++);
      pool.failures++;
      pool.notBefore = performance.now() + wait;
      setTimeout(() => this.refill(), wait + 1).unref();
    }
    pool.making--;
    this.#making--;
    if (pool.target === 0) this.#aim(keyOf(pool.environment, pool.shell), pool, 0);
    this.refill();
  }
}

function newPool<T>(environment: EnvironmentSpec, shell: boolean): Pool<T> {
  const counts = { target: 0, making: 0, claims: 0, misses: 0, failures: 0, failing: 0, notBefore: 0 };
  return { environment, shell, ready: [], ...counts };
}

/** Equal for environments that are equal in every field. */
function keyOf(environment: EnvironmentSpec, shell: boolean): string {
  return JSON.stringify([shell, ...Object.entries(environment).sort(([a], [b]) => (a < b ? -1 : 1))]);
}
