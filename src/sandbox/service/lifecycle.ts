/** The life of a sandbox as a state machine: what may follow what, and what did. Pure. */

import { AleError } from "../../core/errors.ts";

export const SANDBOX_STATES = [
  ...(["pending", "running", "paused", "stopped", "archiving", "archived", "failed", "deleted"] as const),
] as const;
export type SandboxState = (typeof SANDBOX_STATES)[number];

/** `archive_done` and others happen (`HAPPENINGS`); the others are asked for. */
export const SANDBOX_EVENTS = [
  ...(["ready", "fail", "pause", "resume", "stop", "restart", "delete"] as const),
  ...(["archive", "archive_done", "archive_failed", "restore", "restore_failed"] as const),
] as const;
export type SandboxEvent = (typeof SANDBOX_EVENTS)[number];

/** Events that nobody asks for. */
export const HAPPENINGS: ReadonlySet<SandboxEvent> = new Set([
  ...(["ready", "fail", "archive_done", "archive_failed", "restore_failed"] as const),
]);

/** Where each event leads from each state; what is not listed is refused. */
const MOVES: Readonly<Record<SandboxEvent, Partial<Readonly<Record<SandboxState, SandboxState>>>>> = {
  ready: { pending: "running" },
  fail: { pending: "failed", running: "failed", paused: "failed" },
  pause: { running: "paused" },
  resume: { paused: "running" },
  stop: { pending: "stopped", running: "stopped", paused: "stopped" },
  restart: { stopped: "pending" },
  delete: {
    ...{ pending: "deleted", running: "deleted", paused: "deleted", stopped: "deleted", failed: "deleted" },
    archived: "deleted",
  },
  archive: { stopped: "archiving" },
  archive_done: { archiving: "archived" },
  archive_failed: { archiving: "stopped" },
  restore: { archived: "pending" },
  restore_failed: { pending: "archived" },
};

/** Asked for again, they are done already. */
const IDEMPOTENT: Partial<Readonly<Record<SandboxEvent, SandboxState>>> = { stop: "stopped", delete: "deleted" };

/** Moves that are remembered; older ones are forgotten. */
export const MAX_HISTORY = 100;

export interface Transition {
  readonly from: SandboxState;
  readonly to: SandboxState;
  readonly event: SandboxEvent;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Who or what caused it: `asked`, `idle`, `expired`, or an error's message. */
  readonly reason: string;
}

export interface Lifecycle {
  readonly state: SandboxState;
  readonly history: readonly Transition[];
}

export const BORN: Lifecycle = { state: "pending", history: [] };

/** The events that are possible now. */
export function possibleEvents(state: SandboxState): SandboxEvent[] {
  return (Object.keys(MOVES) as SandboxEvent[]).filter((event) => MOVES[event][state] !== undefined);
}

const PARTICIPLES: Readonly<Record<SandboxEvent, string>> = {
  ready: "made ready",
  fail: "failed",
  pause: "paused",
  resume: "resumed",
  stop: "stopped",
  restart: "restarted",
  delete: "deleted",
  archive: "archived",
  archive_done: "archived",
  archive_failed: "archived",
  restore: "restored",
  restore_failed: "restored",
};

/** Refused because of the state a sandbox is in. */
export class IllegalTransition extends AleError {
  readonly state: SandboxState;

  constructor(name: string, event: SandboxEvent, state: SandboxState) {
    const possible = possibleEvents(state).filter((other) => !HAPPENINGS.has(other));
    super("usage", `sandbox ${name} cannot be ${PARTICIPLES[event]}: it is ${state}`, {
      hint:
        possible.length === 0
          ? state === "archiving"
            ? "wait until it is archived"
            : "make a new one"
          : `from here it can be ${possible.map((e) => PARTICIPLES[e]).join(", ")}`,
    });
    this.name = "IllegalTransition";
    this.state = state;
  }
}

/**
 * The life after an event. The same object when the event has happened already and does not matter again.
 * @throws IllegalTransition when the event cannot follow.
 */
export function transition(
  name: string,
  life: Lifecycle,
  event: SandboxEvent,
  at: number,
  reason = "asked",
): Lifecycle {
  if (IDEMPOTENT[event] === life.state) return life;
  const to = MOVES[event][life.state];
  if (to === undefined) throw new IllegalTransition(name, event, life.state);
  const step: Transition = { from: life.state, to, event, at, reason };
  return { state: to, history: [...life.history, step].slice(-MAX_HISTORY) };
}
