/**
 * What happens in Ale, as one union of events. Whoever works emits; the terminal panel, the plain lines, the page and the
 * store are subscribers, so no layer prints by itself.
 */

import type { AlertAction, AlertKind } from "./alerts.ts";
import type { Split, StopReason } from "./types.ts";

/** Where an episode stands. */
export type EpisodePhase = "queued" | "reset" | "generate" | "tool" | "grade" | "finished";

/** Success on one split; `low` and `high` are the Wilson 95 % interval of `rate`. */
export interface EvaluationSummary {
  readonly step: number;
  readonly split: Split;
  readonly greedy: boolean;
  readonly rate: number;
  readonly n: number;
  readonly low: number;
  readonly high: number;
  readonly perFamily: Readonly<Record<string, { readonly rate: number; readonly n: number }>>;
}

export type RunStatus = "running" | "finished" | "interrupted" | "failed";

export type AleEvent =
  | {
      readonly type: "run.started";
      readonly runId: string;
      readonly name: string;
      readonly outDir: string;
      readonly seed: number;
      readonly algorithm: string;
      readonly isolation: string;
      /** Steps the run is to have at its end. */
      readonly steps: number;
      /** Last committed step of a resumed run. */
      readonly resumedFrom?: number;
    }
  | { readonly type: "service.listening"; readonly url: string }
  | { readonly type: "step.started"; readonly step: number; readonly episodes: number }
  | { readonly type: "step.finished"; readonly step: number; readonly metrics: Readonly<Record<string, number>> }
  | {
      readonly type: "evaluation.started";
      readonly step: number;
      readonly split: Split;
      readonly greedy: boolean;
      readonly episodes: number;
    }
  | ({ readonly type: "evaluation.finished" } & EvaluationSummary)
  | { readonly type: "episode.phase"; readonly episodeId: string; readonly phase: EpisodePhase }
  | {
      readonly type: "episode.finished";
      readonly episodeId: string;
      readonly step: number;
      readonly family: string;
      readonly split: Split;
      readonly reward: number;
      readonly stopReason: StopReason;
      readonly turns: number;
      readonly tokens: number;
      readonly ms: number;
    }
  /** Long work without training steps: recording demonstrations, supervised stages, task checks. */
  | {
      readonly type: "progress";
      readonly stage: string;
      readonly done: number;
      readonly total: number;
      readonly unit: string;
      readonly metrics?: Readonly<Record<string, number>>;
    }
  /** A guard raised an alert, in an episode or in a sandbox of the service, whose evidence is its owner's. */
  | {
      readonly type: "guard.alert";
      readonly kind: AlertKind;
      readonly action: AlertAction;
      readonly episodeId?: string;
      readonly step?: number;
      readonly turn?: number | null;
      readonly sandbox?: string;
      readonly evidence?: string;
    }
  | { readonly type: "engine.restarted"; readonly device: string; readonly reason: string; readonly restarts: number }
  /** The process that makes sandboxes has ended, or was ended as it did not answer, and another takes its place. */
  | { readonly type: "launcher.restarted"; readonly reason: string; readonly restarts: number }
  | { readonly type: "run.finished"; readonly runId: string; readonly status: RunStatus; readonly reason?: string }
  | { readonly type: "log"; readonly level: "debug" | "info" | "warn" | "error"; readonly message: string };

export type EventType = AleEvent["type"];
export type EventOf<T extends EventType> = Extract<AleEvent, { readonly type: T }>;

const LASTING: ReadonlySet<EventType> = new Set([
  "run.started",
  "step.finished",
  "evaluation.finished",
  "guard.alert",
  "engine.restarted",
  "launcher.restarted",
  "run.finished",
  "log",
]);

/** Events that belong to the history of a run, which the store keeps. The others are of the moment. */
export function isLasting(event: AleEvent): boolean {
  return LASTING.has(event.type);
}

/** Events about single episodes and progress: frequent, so a queue that is full drops them first. */
export function isTransient(event: AleEvent): boolean {
  return event.type === "episode.phase" || event.type === "episode.finished" || event.type === "progress";
}

/** An event with its place in the hub's order and its time in milliseconds since 1970. */
export interface EmittedEvent {
  readonly seq: number;
  readonly at: number;
  readonly event: AleEvent;
}

export type EventListener = (emitted: EmittedEvent) => void;

/** Events a slow reader may be behind before the hub drops some. */
const QUEUE_LIMIT = 4096;
/** Errors of listeners that are remembered. */
const ERROR_LIMIT = 16;

/** Hands every event to every subscriber. `emit` never throws and never waits. */
export class EventHub {
  readonly #listeners = new Set<EventListener>();
  #seq = 0;
  /** What listeners threw, oldest first. */
  readonly listenerErrors: unknown[] = [];

  emit(event: AleEvent): void {
    const emitted: EmittedEvent = { seq: ++this.#seq, at: Date.now(), event };
    for (const listener of [...this.#listeners]) {
      try {
        listener(emitted);
      } catch (error) {
        if (this.listenerErrors.length < ERROR_LIMIT) this.listenerErrors.push(error);
      }
    }
  }

  /** Calls `listener` with every event from now on, in order. Returns the function that ends it. */
  subscribe(listener: EventListener): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Calls `listener` with the events of one type. */
  on<T extends EventType>(type: T, listener: (event: EventOf<T>, at: number) => void): () => void {
    return this.subscribe(({ event, at }) => {
      if (event.type === type) listener(event as EventOf<T>, at);
    });
  }

  /** The events from now on, for a reader that may be slow: at most `limit` wait, transient ones are dropped first. */
  queue(limit = QUEUE_LIMIT): EventQueue {
    return new EventQueue(this, limit);
  }
}

/** A bounded queue between the hub and one asynchronous reader. */
export class EventQueue implements AsyncIterable<EmittedEvent> {
  readonly #limit: number;
  readonly #unsubscribe: () => void;
  #waiting: EmittedEvent[] = [];
  #wake: (() => void) | undefined;
  #closed = false;
  /** Events this reader lost because it was too slow. */
  dropped = 0;

  constructor(hub: EventHub, limit: number) {
    this.#limit = limit;
    this.#unsubscribe = hub.subscribe((emitted) => this.#push(emitted));
  }

  #push(emitted: EmittedEvent): void {
    if (this.#waiting.length >= this.#limit) this.#makeRoom();
    this.#waiting.push(emitted);
    this.#wake?.();
  }

  #makeRoom(): void {
    const before = this.#waiting.length;
    const lasting = this.#waiting.filter(({ event }) => !isTransient(event));
    this.#waiting = lasting.length < before ? lasting : this.#waiting.slice(Math.ceil(before / 2));
    this.dropped += before - this.#waiting.length;
  }

  /** Ends the iteration once the waiting events are read. */
  close(): void {
    this.#closed = true;
    this.#unsubscribe();
    this.#wake?.();
  }

  /** What waits, as soon as something does; nothing after `ms` milliseconds or when the queue is closed. One reader only. */
  async take(ms: number): Promise<readonly EmittedEvent[]> {
    if (this.#waiting.length === 0 && !this.#closed) {
      let timer: Timer | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (Number.isFinite(ms)) timer = setTimeout(resolve, ms);
      });
      clearTimeout(timer);
      this.#wake = undefined;
    }
    const taken = this.#waiting;
    this.#waiting = [];
    return taken;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<EmittedEvent> {
    try {
      while (true) {
        const taken = await this.take(Number.POSITIVE_INFINITY);
        if (taken.length === 0) return;
        yield* taken;
      }
    } finally {
      this.close();
    }
  }
}
