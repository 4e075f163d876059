/**
 * A sandbox that has a process of ours to itself, on whose standard input and output its init speaks: a container, or one
 * without namespaces.
 */

import type { InitChannel } from "../init-channel.ts";
import type { Connection, Reply } from "../launcher-client.ts";
import { Op, type OpCode } from "../protocol.ts";

/** As `struct statistics` in `launcher/launcher.h`, nothing known: the init looks itself. */
const NOTHING_KNOWN = new Uint8Array(9 * 8).fill(0xff);
const NO_COUNTS = new Uint8Array(8);
const STOP_PROCESSES = new Uint8Array([1]);

export class SoloChannel implements InitChannel {
  readonly isolation: string;
  readonly socketFolder = undefined;
  readonly #connection: Connection;
  readonly #end: () => Promise<void>;
  #ended: Promise<void> | undefined;

  /** `end`: ends the sandbox and removes what it leaves. */
  constructor(connection: Connection, isolation: string, end: () => Promise<void>) {
    this.#connection = connection;
    this.isolation = isolation;
    this.#end = end;
  }

  get alive(): boolean {
    return this.#connection.alive;
  }

  request(op: OpCode, sandbox: number, payload: Uint8Array, what: string, timeoutMs: number): Promise<Reply> {
    return this.#connection.request(op, sandbox, inOwnWords(op, payload), what, timeoutMs);
  }

  start(op: OpCode, sandbox: number, payload: Uint8Array, what: string, timeoutMs: number): [number, Promise<Reply>] {
    return this.#connection.start(op, sandbox, payload, what, timeoutMs);
  }

  cancel(request: number, sandbox: number): void {
    this.#connection.cancel(request, sandbox);
  }

  onGone(sandbox: number, listener: (reason: string) => void): void {
    this.#connection.gone.set(sandbox, listener);
  }

  forget(sandbox: number): void {
    this.#connection.abandon(sandbox, `sandbox s${sandbox} was destroyed`);
  }

  destroy(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  holdOff(sandbox: number): void {
    this.#connection.holdOff(sandbox);
  }

  goOn(sandbox: number): void {
    this.#connection.goOn(sandbox);
  }
}

/** What the launcher's broker would add, such an init finds out by itself. */
function inOwnWords(op: OpCode, payload: Uint8Array): Uint8Array {
  if (op === Op.limits) return NO_COUNTS;
  if (op === Op.statistics) return NOTHING_KNOWN;
  return op === Op.pause ? STOP_PROCESSES : payload;
}
