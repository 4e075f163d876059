/** What an engine spends its time on. */

import { ENGINE_SPANS, type EngineSpan, SpanRecorder } from "../core/timeline.ts";
import { type ContextStats, zeroContextStats } from "../policy/generation/contexts.ts";
import type { EngineStats } from "./protocol.ts";

/** `other`: loading, saving, probing. */
type Activity = "train" | "generate" | "other";

const ACTIVITIES: Partial<Record<EngineSpan, Activity>> = { prefill: "generate", decode: "generate", update: "train" };

export class EngineClock {
  /** When each micro-operation began and ended; none until somebody wants to know. */
  #spans: SpanRecorder<EngineSpan> | undefined;
  #ms: Record<Activity, number> = { train: 0, generate: 0, other: 0 };
  #since = performance.now();
  /** Tokens at the last `take`. */
  #sampled = 0;
  #contexts = zeroContextStats();

  /** From now on `take` also tells what happened when. */
  recordSpans(): void {
    this.#spans ??= new SpanRecorder(ENGINE_SPANS);
  }

  /** What the engine did from `began` (`performance.now()`) until now, which is no part of something else it did. */
  count(span: EngineSpan, began: number, tokens = 0): void {
    this.#ms[ACTIVITIES[span] ?? "other"] += this.record(span, began, tokens);
  }

  /** A part of what is counted as a whole. Returns its duration in ms. */
  readonly record = (span: EngineSpan, began: number, tokens = 0): number => {
    const ended = performance.now();
    const { timeOrigin } = performance;
    this.#spans?.add(span, timeOrigin + began, timeOrigin + ended, tokens);
    return ended - began;
  };

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
      ...(this.#spans === undefined ? {} : { spans: this.#spans.take() }),
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
