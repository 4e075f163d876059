/** The beginning of what a client sends: read piece by piece until it can be understood, within one deadline. */

import type { Socket } from "node:net";

/** A client that left, was too slow, or sent what cannot be read. */
export class BadClient extends Error {}

export class Incoming {
  readonly #socket: Socket;
  #bytes: Buffer = Buffer.alloc(0);
  #changed = Promise.withResolvers<void>();
  #ended = false;
  readonly #onData = (chunk: Buffer) => {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    this.#socket.pause(); // whoever waits asks for more
    this.#changed.resolve();
  };
  readonly #onEnd = () => {
    this.#ended = true;
    this.#changed.resolve();
  };

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", this.#onData);
    for (const event of ["end", "close", "error"]) socket.on(event, this.#onEnd);
  }

  /**
   * Reads until `parse` has what it needs. The deadline is for all of it, so that a byte now and then does not help.
   * @throws BadClient
   */
  async read<T extends { readonly kind: string }>(
    what: string,
    ms: number,
    parse: (bytes: Uint8Array) => T | { readonly kind: "more" },
  ): Promise<T> {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#changed.resolve();
    }, ms);
    try {
      for (;;) {
        const parsed = parse(this.#bytes);
        if (parsed.kind !== "more") return parsed as T;
        if (late) throw new BadClient(`${what} took more than ${ms / 1000} s`);
        if (this.#ended) throw new BadClient(`the client left before ${what} was complete`);
        this.#changed = Promise.withResolvers<void>();
        this.#socket.resume();
        await this.#changed.promise;
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** What came and was not taken yet. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  take(count: number): Buffer {
    const taken = this.#bytes.subarray(0, count);
    this.#bytes = this.#bytes.subarray(count);
    return taken;
  }

  /** Lets go of the socket, which stays paused. */
  release(): Buffer {
    this.#socket.off("data", this.#onData);
    for (const event of ["end", "close", "error"]) this.#socket.off(event, this.#onEnd);
    return this.take(this.#bytes.length);
  }

  get ended(): boolean {
    return this.#ended;
  }
}
