/** Sequences of a pool as their episodes see them. */

import { AleError } from "../core/errors.ts";
import type { PolicySession } from "../core/ports.ts";

type Generate = PolicySession["generate"];

/** A session that is opened when its first context is known. */
export class PlacedSession implements PolicySession {
  readonly #open: (context: Int32Array) => Promise<PolicySession>;
  #session: Promise<PolicySession> | undefined;
  #closed = false;

  constructor(open: (context: Int32Array) => Promise<PolicySession>) {
    this.#open = open;
  }

  async generate(...args: Parameters<Generate>): ReturnType<Generate> {
    if (this.#closed) throw new AleError("engine", "the sequence is closed");
    this.#session ??= this.#open(args[0]);
    return (await this.#session).generate(...args);
  }

  async close(): Promise<void> {
    this.#closed = true;
    // One that could not be opened has said so where it was asked for an answer.
    await this.#session?.then(
      (session) => session.close(),
      () => {},
    );
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A session that gives its place on an engine back when it is closed. */
export class ReleasingSession implements PolicySession {
  readonly #session: PolicySession;
  readonly #release: () => void;

  constructor(session: PolicySession, release: () => void) {
    this.#session = session;
    this.#release = release;
  }

  generate(...args: Parameters<Generate>): ReturnType<Generate> {
    return this.#session.generate(...args);
  }

  async close(): Promise<void> {
    await this.#session.close();
    this.#release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
