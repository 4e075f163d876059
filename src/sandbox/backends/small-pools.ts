/**
 * Sandboxes that are made before anybody wants one: one at a time per environment, for a container takes a processor a while
 * and a remote service has better things to do.
 */

import type { Sandbox } from "../../core/ports.ts";
import type { EnvironmentSpec } from "../../core/types.ts";

/** After a failure a pool waits this long, doubled each time, before it tries again. */
const RETRY_MS = 1000;
const MAX_RETRY_MS = 60_000;

type Made = Sandbox & { readonly alive: boolean };

interface Pool<T> {
  readonly environment: EnvironmentSpec;
  readonly ready: T[];
  target: number;
  failures: number;
  filling: Promise<void> | undefined;
}

export class SmallPools<T extends Made> {
  readonly #make: (environment: EnvironmentSpec) => Promise<T>;
  readonly #pools = new Map<string, Pool<T>>();
  readonly #closing = new AbortController();

  constructor(make: (environment: EnvironmentSpec) => Promise<T>) {
    this.#make = make;
  }

  get count(): number {
    return [...this.#pools.values()].reduce((sum, { ready }) => sum + ready.length, 0);
  }

  /** Keeps `count` of this environment ready. */
  keep(environment: EnvironmentSpec, count: number): void {
    const key = keyOf(environment);
    const pool: Pool<T> = this.#pools.get(key) ?? {
      environment,
      ready: [],
      target: 0,
      failures: 0,
      filling: undefined,
    };
    pool.target = count;
    this.#pools.set(key, pool);
    for (const surplus of pool.ready.splice(count)) surplus.destroy().catch(() => {});
    pool.filling ??= this.#fill(pool);
  }

  /** One that is ready, or `undefined`. */
  claim(environment: EnvironmentSpec): T | undefined {
    const pool = this.#pools.get(keyOf(environment));
    if (pool === undefined) return undefined;
    let sandbox = pool.ready.shift();
    while (sandbox !== undefined && !sandbox.alive) sandbox = pool.ready.shift();
    pool.filling ??= this.#fill(pool);
    return sandbox;
  }

  async #fill(pool: Pool<T>): Promise<void> {
    while (!this.#closing.signal.aborted && pool.ready.length < pool.target) {
      try {
        pool.ready.push(await this.#make(pool.environment));
        pool.failures = 0;
      } catch {
        // Whoever asks for a sandbox meets the same error and tells it.
        await this.#pause(Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** pool.failures++));
      }
    }
    pool.filling = undefined;
  }

  async #pause(ms: number): Promise<void> {
    const { signal } = this.#closing;
    const waited = Promise.withResolvers<void>();
    const timer = setTimeout(waited.resolve, ms);
    signal.addEventListener("abort", () => waited.resolve(), { once: true });
    await waited.promise;
    clearTimeout(timer);
  }

  /** Ends what waits; resolves when none is being made any more. */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const { filling } of this.#pools.values()) await filling;
    const waiting = [...this.#pools.values()].flatMap(({ ready }) => ready.splice(0));
    await Promise.all(waiting.map((sandbox) => sandbox.destroy()));
  }
}

function keyOf(environment: EnvironmentSpec): string {
  return JSON.stringify(Object.entries(environment).sort(([a], [b]) => (a < b ? -1 : 1)));
}
