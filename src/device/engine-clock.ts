/** What an engine spends its time on. */

import type { EngineStats } from "./protocol.ts";

/** `other`: loading, saving, probing. */
type Activity = "train" | "generate" | "other";

export class EngineClock {
  #ms: Record<Activity, number> = { train: 0, generate: 0, other: 0 };
  #since = performance.now();
  /** Tokens at the last `take`. */
  #sampled = 0;
  #prefilled = 0;

  async time<T>(activity: Activity, work: () => Promise<T>): Promise<T> {
    const started = performance.now();
    try {
      return await work();
    } finally {
      this.#ms[activity] += performance.now() - started;
    }
  }

  timeSync<T>(activity: Activity, work: () => T): T {
    const started = performance.now();
    try {
      return work();
    } finally {
      this.#ms[activity] += performance.now() - started;
    }
  }

  /**
   * What happened since the last call.
   * @param counts time waited within updates since the last call, and tokens since the engine started.
   */
  take(counts: {
    readonly syncMs: number;
    readonly sampledTokens: number;
    readonly prefillTokens: number;
  }): EngineStats {
    const now = performance.now();
    const wallMs = now - this.#since;
    const { train, generate, other } = this.#ms;
    const stats = {
      wallMs,
      trainMs: train - counts.syncMs,
      generateMs: generate,
      syncMs: counts.syncMs,
      idleMs: Math.max(0, wallMs - train - generate - other),
      sampledTokens: counts.sampledTokens - this.#sampled,
      prefillTokens: counts.prefillTokens - this.#prefilled,
    };
    this.#ms = { train: 0, generate: 0, other: 0 };
    this.#since = now;
    this.#sampled = counts.sampledTokens;
    this.#prefilled = counts.prefillTokens;
    return stats;
  }
}
