/** The control process's end of the channel to one engine process. */

import { getPriority, setPriority } from "node:os";
import { AleError, type ErrorCode } from "../core/errors.ts";
import type { FromEngine, ToEngine } from "./protocol.ts";

/** Steps of niceness that an engine is below control. */
const NICER = 5;

/** Who waits for the reply to a request. */
export interface Pending {
  resolve(body: unknown): void;
  reject(error: Error): void;
  onToken?(id: number, logprob: number): void;
}

export interface EngineProcess {
  readonly process: Bun.Subprocess;
  readonly pending: Map<number, Pending>;
}

/** Hands a message of the engine to whoever waits for it. */
export function deliver(pending: Map<number, Pending>, message: FromEngine): void {
  const request = pending.get(message.id);
  if (request === undefined) return;
  if (message.type === "token") {
    request.onToken?.(message.token, message.logprob);
    return;
  }
  pending.delete(message.id);
  if (message.type === "reply") {
    request.resolve(message.body);
  } else {
    const hint = message.hint === undefined ? {} : { hint: message.hint };
    request.reject(new AleError(message.code as ErrorCode, message.message, hint));
  }
}

/** Posting to a process that just ended must not throw: its requests are rejected when the exit is seen. */
export function post(engine: EngineProcess, message: ToEngine): void {
  try {
    engine.process.send(message);
  } catch {
    // the exit handler rejects what is pending
  }
}

/** Lets control go first on a busy processor: it routes for a moment, while an engine computes for long. */
export function giveWay(pid: number): void {
  try {
    setPriority(pid, Math.min(19, getPriority() + NICER));
  } catch {
    // it ended already, which its exit tells
  }
}
