/** What an engine spends its time on. */

import { ENGINE_SPANS, type EngineSpan, SpanRecorder } from "../core/timeline.ts";
import { type ContextStats, zeroContextStats } from "../policy/generation/contexts.ts";
import type { WorkTimes } from "./pool-placement.ts";
import type { EngineStats } from "./protocol.ts";

/**
 * What an engine can be at; always one of them. `sync`: waiting for other engines in an update, with nothing to generate.
 * `other`: loading, publishing, saving, probing. `idle`: nobody wants anything.
 */
export type Activity = "train" | "generate" | "sync" | "other" | "idle";

export class EngineClock {
  /** When each micro-operation began and ended; none until somebody wants to know. */
  #spans: SpanRecorder<EngineSpan> | undefined;
  #ms: Record<Activity, number> = noTime();
  #activity: Activity = "other";
  /** When time was counted last. */
  #since = performance.now();
  /** `total` at the last `take`. */
  #taken: WorkTimes = { trainMs: 0, generateMs: 0 };
  /** Tokens at the last `take`. */
  #sampled = 0;
  #contexts = zeroContextStats();

  /** From now on `take` also tells what happened when. */
  recordSpans(): void {
    this.#spans ??= new SpanRecorder(ENGINE_SPANS);
  }

  /** From now on the engine is at this. Returns when that is (`performance.now()`). */
  enter(activity: Activity): number {
    const now = performance.now();
    this.#ms[this.#activity] += now - this.#since;
    this.#since = now;
    this.#activity = activity;
    return now;
  }

  /** What the engine was at since it entered it at `began` is over, and a span of the timeline. */
  leave(span: EngineSpan, began: number, tokens = 0): void {
    this.#add(span, began, this.enter("idle"), tokens);
  }

  /** A span of the timeline, from `began` until now: a part of what the engine is at, or one that contains several. */
  readonly record = (span: EngineSpan, began: number, tokens = 0): void => {
    this.#add(span, began, performance.now(), tokens);
  };

  #add(span: EngineSpan, began: number, ended: number, tokens: number): void {
    const { timeOrigin } = performance;
    this.#spans?.add(span, timeOrigin + began, timeOrigin + ended, tokens);
  }

  /** Time spent on training and on generation since the engine started. */
  total(): WorkTimes {
    this.enter(this.#activity);
    const { train, generate } = this.#ms;
    return { trainMs: this.#taken.trainMs + train, generateMs: this.#taken.generateMs + generate };
  }

  /** What happened since the last call. @param counts tokens and costs of contexts since the engine started. */
  take(counts: {
    readonly sampledTokens: number;
    readonly contexts: ContextStats;
  }): Omit<EngineStats, "peakBytes" | "predictedBytes"> {
    this.#taken = this.total();
    const { train, generate, sync, other, idle } = this.#ms;
    const stats = {
      wallMs: train + generate + sync + other + idle,
      trainMs: train,
      generateMs: generate,
      syncMs: sync,
      idleMs: idle,
      sampledTokens: counts.sampledTokens - this.#sampled,
      contexts: difference(counts.contexts, this.#contexts),
      ...(this.#spans === undefined ? {} : { spans: this.#spans.take() }),
    };
    this.#ms = noTime();
    this.#sampled = counts.sampledTokens;
    this.#contexts = { ...counts.contexts };
    return stats;
  }
}

function noTime(): Record<Activity, number> {
  return { train: 0, generate: 0, sync: 0, other: 0, idle: 0 };
}

function difference(now: ContextStats, before: ContextStats): ContextStats {
  const stats = zeroContextStats();
  for (const key of Object.keys(stats) as (keyof ContextStats)[]) stats[key] = now[key] - before[key];
  return stats;
}
