/** Shows a hub's events: live panel on a terminal, plain lines elsewhere, JSON lines for programs. */

import { createLogUpdate } from "log-update";
import type { EmittedEvent, EventHub } from "../core/events.ts";
import { renderPanel } from "./panel.ts";
import { applyEvent, type PanelState } from "./panel-state.ts";
import { PlainReporter } from "./plain.ts";
import { sanitizeLine } from "./sanitize.ts";
import type { Painter } from "./style.ts";

/** Milliseconds between two drawings at least, and between two without events. */
const REDRAW_INTERVAL = 200;
const IDLE_INTERVAL = 1000;

export type ViewMode = "panel" | "plain" | "json" | "quiet";

/** An output stream; a panel needs a real terminal. */
export interface ViewStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

export interface View extends Disposable {
  readonly state: PanelState;
  /** Says something to the person watching: in the panel's last line, or as a line of its own. */
  say(message: string): void;
  /** Ends the view: the last panel stays, the cursor is back. */
  close(): void;
}

/** Starts showing `hub` on `stream`; `state` is kept up to date in every mode. */
export function openView(
  hub: EventHub,
  state: PanelState,
  options: { readonly mode: ViewMode; readonly stream: ViewStream; readonly paint: Painter },
): View {
  const { mode, stream, paint } = options;
  if (mode === "panel" && isTerminal(stream)) return openPanel(hub, state, stream, paint);
  const reporter = new PlainReporter();
  const unsubscribe = hub.subscribe((emitted) => {
    applyEvent(state, emitted);
    const line = mode === "json" ? jsonLine(emitted) : mode === "quiet" ? undefined : reporter.line(state, emitted);
    if (line !== undefined) stream.write(`${line}\n`);
  });
  return {
    state,
    say: (message) => {
      if (mode !== "json" && mode !== "quiet") stream.write(`${sanitizeLine(message)}\n`);
    },
    close: unsubscribe,
    [Symbol.dispose]: unsubscribe,
  };
}

/** An event as one line of JSON; changes of phase are left out, there are thousands in a step. */
export function jsonLine({ seq, at, event }: EmittedEvent): string | undefined {
  return event.type === "episode.phase" ? undefined : JSON.stringify({ v: 1, seq, at, ...event });
}

export function isTerminal(stream: object): stream is NodeJS.WriteStream {
  return "isTTY" in stream && stream.isTTY === true;
}

function openPanel(hub: EventHub, state: PanelState, stream: NodeJS.WriteStream, paint: Painter): View {
  const log = createLogUpdate(stream);
  let drawnAt = 0;
  let dirty = true;
  let closed = false;
  const draw = (): void => {
    state.now = Date.now();
    drawnAt = state.now;
    dirty = false;
    log(renderPanel(state, stream.columns ?? 80, stream.rows ?? 24, paint).join("\n"));
  };
  const tick = (): void => {
    const age = Date.now() - drawnAt;
    if (age >= IDLE_INTERVAL || (dirty && age >= REDRAW_INTERVAL)) draw();
  };
  const unsubscribe = hub.subscribe((emitted) => {
    applyEvent(state, emitted);
    dirty = true;
    const { event } = emitted;
    if (event.type === "log" && (event.level === "warn" || event.level === "error")) {
      log.persist(
        paint("yellow", `${event.level === "warn" ? "warning" : "error"}: ${sanitizeLine(event.message, 500)}`),
      );
    }
  });
  const timer = setInterval(tick, REDRAW_INTERVAL / 2);
  const onResize = (): void => {
    log.clear();
    draw();
  };
  stream.on("resize", onResize);
  draw();
  const close = (): void => {
    if (closed) return;
    closed = true;
    clearInterval(timer);
    stream.off("resize", onResize);
    unsubscribe();
    state.message = undefined;
    draw();
    log.done();
  };
  return {
    state,
    say: (message) => {
      state.message = sanitizeLine(message, 200);
      draw();
    },
    close,
    [Symbol.dispose]: close,
  };
}
