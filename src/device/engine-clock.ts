/** What an engine spends its time on. */

import { type ContextStats, zeroContextStats } from "../policy/generation/contexts.ts";
import type { EngineStats } from "./protocol.ts";

/** `other`: loading, saving, probing. */
type Activity = "train" | "generate" | "other";

export class EngineClock {
  #ms: Record<Activity, number> = { train: 0, generate: 0, other: 0 };
  #since = performance.now();
  /** Tokens at the last `take`. */
  #sampled = 0;
  #contexts = zeroContextStats();

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
   * @param counts time waited within updates since the last call; tokens and costs of contexts since the engine started.
   */
  take(counts: {
    readonly syncMs: number;
    readonly sampledTokens: number;
    readonly contexts: ContextStats;
  }): Omit<EngineStats, "peakBytes" | "predictedBytes"> {
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
      contexts: difference(counts.contexts, this.#contexts),
    };
    this.#ms = { train: 0, generate: 0, other: 0 };
    this.#since = now;
    this.#sampled = counts.sampledTokens;
    this.#contexts = { ...counts.contexts };
    return stats;
  }
}

function difference(now: ContextStats, before: ContextStats): ContextStats {
  const stats = zeroContextStats();
  for (const key of Object.keys(stats) as (keyof ContextStats)[]) stats[key] = now[key] - before[key];
  return stats;
}
