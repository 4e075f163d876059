/** Keeps the hub's lasting events in the store, where readers in other processes follow them. */

import { type AleEvent, type EventHub, isLasting } from "../core/events.ts";
import type { NewEvent } from "./operations.ts";
import type { Store } from "./store.ts";

/** Events that may wait while the store is busy; what comes beyond is lost to readers in other processes. */
const WAITING_LIMIT = 10_000;

/** The store records these itself, in the transaction of what they tell. */
const RECORDED_BY_STORE: ReadonlySet<AleEvent["type"]> = new Set([
  "run.started",
  "step.finished",
  "evaluation.finished",
  "run.finished",
]);

export interface EventRecorder {
  /** Stops listening and resolves when everything heard is written. Rejects with the first write error. */
  stop(): Promise<void>;
}

/** Records the events of one run from now on. Writing never holds up the emitter; a write error is reported by `stop`. */
export function recordEvents(hub: EventHub, store: Store, runId: string): EventRecorder {
  let waiting: NewEvent[] = [];
  let writing: Promise<void> | undefined;
  let failure: unknown;

  const flush = async (): Promise<void> => {
    while (waiting.length > 0 && failure === undefined) {
      const some = waiting;
      waiting = [];
      try {
        await store.appendEvents(some);
      } catch (error) {
        failure = error;
      }
    }
    writing = undefined;
  };
  const unsubscribe = hub.subscribe(({ event, at }) => {
    if (!isLasting(event) || RECORDED_BY_STORE.has(event.type) || waiting.length >= WAITING_LIMIT) return;
    waiting.push({ runId, at, event });
    writing ??= Promise.resolve().then(flush);
  });
  return {
    async stop() {
      unsubscribe();
      await writing;
      if (failure !== undefined) throw failure;
    },
  };
}
