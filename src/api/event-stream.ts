/**
 * Server-sent events. What lasts comes from the store, with its id, so that a reader who was cut off goes on after
 * `Last-Event-ID` and misses nothing, whichever process made the events. What is only of the moment (such as phases of episodes)
 * comes from this process's hub, without an id.
 *
 * Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */

import { type EmittedEvent, type EventHub, type EventQueue, isLasting } from "../core/events.ts";
import type { EventRecord } from "../store/records.ts";
import type { Store } from "../store/store.ts";

export interface EventStreamOptions {
  readonly store: Store;
  /** Events of runs in this process. */
  readonly hub?: EventHub;
  /** Only events of this run. */
  readonly runId?: string;
  /** Only events after this one. */
  readonly sinceId: number;
  readonly signal: AbortSignal;
  /** Called once when the stream ends or its reader leaves. */
  readonly onEnd?: () => void;
  readonly pollMs?: number;
  readonly heartbeatMs?: number;
}

const POLL_MS = 400;
/** Shorter than any idle limit on the way. */
const HEARTBEAT_MS = 10_000;
/** Events of the moment that a slow reader may be behind. */
const QUEUE = 1024;

export function eventStream(options: EventStreamOptions): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const messages = generate({ ...options, signal });
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await messages.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      } catch (error) {
        controller.error(error);
      }
    },
    cancel() {
      stop.abort();
    },
  });
}

async function* generate(options: EventStreamOptions): AsyncGenerator<string> {
  const { store, hub, runId, signal, pollMs = POLL_MS, heartbeatMs = HEARTBEAT_MS } = options;
  const queue = hub?.queue(QUEUE);
  const wake = () => queue?.close();
  signal.addEventListener("abort", wake);
  let last = options.sinceId;
  let spokeAt = performance.now();
  try {
    yield "retry: 1000\n: events of ale\n\n";
    while (!signal.aborted) {
      const lasting = await store.readEvents({ sinceId: last, ...(runId === undefined ? {} : { runId }) });
      last = lasting.at(-1)?.id ?? last;
      const text = lasting.length > 0 ? lasting.map(formatRecord).join("") : await momentary(queue, pollMs, signal);
      if (text !== "") {
        yield text;
        spokeAt = performance.now();
      } else if (performance.now() - spokeAt >= heartbeatMs) {
        yield ": heartbeat\n\n";
        spokeAt = performance.now();
      }
    }
  } finally {
    signal.removeEventListener("abort", wake);
    queue?.close();
    options.onEnd?.();
  }
}

/** Events of the moment, as soon as there are some; nothing after `ms`, or when something lasting was emitted. */
async function momentary(queue: EventQueue | undefined, ms: number, signal: AbortSignal): Promise<string> {
  if (queue === undefined) {
    await sleep(ms, signal);
    return "";
  }
  const taken = await queue.take(ms);
  return taken
    .filter(({ event }) => !isLasting(event))
    .map(formatEmitted)
    .join("");
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    signal.addEventListener("abort", finish);
  });
}

function formatRecord({ id, type, at, runId, body }: EventRecord): string {
  return `id: ${id}\nevent: ${type}\ndata: ${JSON.stringify({ ...body, type, at, runId })}\n\n`;
}

function formatEmitted({ at, event }: EmittedEvent): string {
  return `event: ${event.type}\ndata: ${JSON.stringify({ ...event, at })}\n\n`;
}
