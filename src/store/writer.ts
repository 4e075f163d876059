/** The main thread's side of the writer. */

import { AleError, deadline, type ErrorCode } from "../core/errors.ts";
import type { WriterSettings } from "./connection.ts";
import type { ErrorMessage, WriteOperation, WriteResults, WriterReply, WriterRequest } from "./operations.ts";

/** Bytes that may wait for the writer; more makes the callers wait. */
const WAITING_LIMIT = 64 << 20;
/**
 * Memory of written messages that is kept for the next ones. Fresh memory has to be cleared by the kernel, page by page, and
 * costs the main thread more than filling it.
 */
const SPARE_BYTES = 16 << 20;
/** Smaller memory is not worth keeping. */
const SPARE_LEAST = 256 << 10;
const REPLY_MS = 120_000;
const CLOSE_MS = 30_000;

/** Bun's workers, unlike a browser's, can be told not to keep the process alive. */
type UnrefWorker = Worker & { ref(): void; unref(): void };

interface Pending {
  readonly bytes: number;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

export class Writer {
  readonly #worker: UnrefWorker;
  readonly #path: string;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #waitingBytes = 0;
  #roomWaiters: (() => void)[] = [];
  readonly #spare: ArrayBuffer[] = [];
  #opened = Promise.withResolvers<void>();
  #closed = Promise.withResolvers<void>();
  #failure: AleError | undefined;

  private constructor(path: string) {
    this.#path = path;
    this.#worker = new Worker(new URL("./writer.worker.ts", import.meta.url).href) as UnrefWorker;
    this.#worker.onmessage = ({ data }: MessageEvent<WriterReply>) => this.#receive(data);
    this.#worker.onerror = (event) => this.#fail(event.message);
  }

  /** Starts the writer; it makes or migrates the file. Throws as `openWriter`. */
  static async open(path: string, settings: WriterSettings): Promise<Writer> {
    const writer = new Writer(path);
    writer.#post({ type: "open", path, ...settings });
    try {
      await deadline(`opening the store ${path}`, REPLY_MS, writer.#opened.promise, "store");
    } catch (error) {
      writer.#worker.terminate();
      throw error;
    }
    // An idle writer keeps no process alive; a waiting caller does.
    writer.#worker.unref();
    return writer;
  }

  /** Resolves when the operation is committed. `bytes` is about what it occupies while it waits; `move` is given away. */
  async write<O extends WriteOperation>(
    operation: O,
    bytes: number,
    move: ArrayBuffer[] = [],
  ): Promise<WriteResults[O["type"]]> {
    await this.#room(bytes);
    if (this.#failure !== undefined) throw this.#failure;
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { bytes, resolve, reject });
    this.#waitingBytes += bytes;
    this.#worker.ref();
    this.#post({ type: "write", id, operation }, move);
    const result = await deadline(`writing to the store ${this.#path} (${operation.type})`, REPLY_MS, promise, "store");
    return result as WriteResults[O["type"]];
  }

  /** At least so many bytes, with anything in them, to be moved to the writer. */
  buffer(bytes: number): ArrayBuffer {
    const fits = this.#spare.findIndex(({ byteLength }) => byteLength >= bytes && byteLength <= 2 * bytes);
    return this.#spare.splice(fits, fits < 0 ? 0 : 1)[0] ?? new ArrayBuffer(bytes);
  }

  #keep(memory: ArrayBuffer): void {
    this.#spare.push(memory);
    let kept = this.#spare.reduce((sum, { byteLength }) => sum + byteLength, 0);
    while (kept > SPARE_BYTES) kept -= this.#spare.shift()?.byteLength ?? 0;
  }

  /** Writes what waits, folds the log into the file and ends the thread. */
  async close(): Promise<void> {
    if (this.#failure !== undefined) return;
    this.#worker.ref();
    this.#post({ type: "close" });
    try {
      await deadline(`closing the store ${this.#path}`, CLOSE_MS, this.#closed.promise, "store");
    } finally {
      this.#fail("it was closed");
    }
  }

  #post(message: WriterRequest, move: ArrayBuffer[] = []): void {
    this.#worker.postMessage(message, move);
  }

  async #room(bytes: number): Promise<void> {
    while (this.#waitingBytes > 0 && this.#waitingBytes + bytes > WAITING_LIMIT) {
      await new Promise<void>((resolve) => this.#roomWaiters.push(resolve));
    }
  }

  #receive(message: WriterReply): void {
    switch (message.type) {
      case "opened":
        if (message.error === undefined) this.#opened.resolve();
        else this.#opened.reject(rebuild(message.error));
        break;
      case "closed":
        this.#closed.resolve();
        break;
      case "written": {
        if (message.memory !== undefined && message.memory.byteLength >= SPARE_LEAST) this.#keep(message.memory);
        const pending = this.#pending.get(message.id);
        if (pending === undefined) return;
        this.#settle(message.id, pending);
        if (message.error === undefined) pending.resolve(message.result);
        else pending.reject(rebuild(message.error));
        break;
      }
    }
  }

  #settle(id: number, pending: Pending): void {
    this.#pending.delete(id);
    this.#waitingBytes -= pending.bytes;
    if (this.#pending.size === 0) this.#worker.unref();
    const waiters = this.#roomWaiters;
    this.#roomWaiters = [];
    for (const wake of waiters) wake();
  }

  /** Ends everything: the thread is gone, and nobody may wait for it. */
  #fail(reason: string): void {
    this.#failure ??= new AleError("store", `the writer of ${this.#path} is gone: ${reason}`);
    this.#opened.reject(this.#failure);
    for (const [id, pending] of [...this.#pending]) {
      this.#settle(id, pending);
      pending.reject(this.#failure);
    }
    this.#worker.terminate();
  }
}

function rebuild({ code, message, hint }: ErrorMessage): AleError {
  return new AleError(code as ErrorCode, message, hint === undefined ? {} : { hint });
}
