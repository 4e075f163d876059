/** How often a run's episodes found a sandbox ready. */

import type { SandboxProvider } from "../core/ports.ts";

export class WarmMeter {
  readonly #provider: SandboxProvider;
  #claims = 0;
  #misses = 0;

  constructor(provider: SandboxProvider) {
    this.#provider = provider;
  }

  /**
   * Since the last call: sandboxes that waited in a warm pool when they were wanted (`perf/sandbox/warm_claims`), and that had
   * to be made then (`perf/sandbox/warm_misses`). Empty where the provider keeps no pools.
   */
  read(): Record<string, number> {
    const pools = this.#provider.warmPools;
    if (pools === undefined) return {};
    const claims = pools.reduce((sum, pool) => sum + pool.claims, 0);
    const misses = pools.reduce((sum, pool) => sum + pool.misses, 0);
    // A pool that was given up took its counts with it.
    const since = (now: number, before: number) => Math.max(0, now - before);
    const metrics = {
      "perf/sandbox/warm_claims": since(claims, this.#claims),
      "perf/sandbox/warm_misses": since(misses, this.#misses),
    };
    this.#claims = claims;
    this.#misses = misses;
    return metrics;
  }
}
