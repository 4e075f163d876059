/**
 * Waiting for native threads: a POSIX semaphore. ONNX Runtime reports the end of a background run by calling a C function
 * with a pointer of ours as first argument; given `sem_post` and a semaphore, that wakes us without JavaScript ever running
 * on a foreign thread.
 */

import { dlopen, type Pointer } from "bun:ffi";
import { AleError } from "../core/errors.ts";
import { addressOf, allocateBytes, allocateString } from "./memory.ts";

const SEMAPHORE_BYTES = 32; // sizeof(sem_t) on 64-bit Linux
const TIMESPEC_BYTES = 16;
/** No graph takes this long; past it something is stuck. */
const DEADLINE_SECONDS = 600;

function openLibc() {
  return dlopen("libc.so.6", {
    dlsym: { returns: "ptr", args: ["ptr", "ptr"] },
    sem_init: { returns: "i32", args: ["ptr", "i32", "u32"] },
    sem_timedwait: { returns: "i32", args: ["ptr", "ptr"] },
  }).symbols;
}

let libc: ReturnType<typeof openLibc> | undefined;

export class Completion {
  readonly #semaphore = allocateBytes(SEMAPHORE_BYTES);
  readonly #deadline = allocateBytes(TIMESPEC_BYTES);
  /** Address of the function to call when the work is done, with `argument` as its first argument. */
  readonly callback: number;
  readonly argument: number;

  constructor() {
    libc ??= openLibc();
    const name = allocateString("sem_post");
    const address = libc.dlsym(null, addressOf(name) as Pointer);
    if (address === null) throw new AleError("engine", "the C library has no sem_post");
    this.callback = Number(address);
    this.argument = addressOf(this.#semaphore);
    libc.sem_init(this.argument as Pointer, 0, 0);
  }

  /** Blocks until the callback was called. @throws AleError("engine") naming `what` when that takes ten minutes. */
  wait(what: string): void {
    const seconds = Math.floor(Date.now() / 1000) + DEADLINE_SECONDS;
    new BigInt64Array(this.#deadline.buffer, 0, 2)[0] = BigInt(seconds);
    const deadline = addressOf(this.#deadline) as Pointer;
    // An interrupted wait (EINTR) is taken up again; only the deadline ends it.
    while (libc?.sem_timedwait(this.argument as Pointer, deadline) !== 0) {
      if (Date.now() / 1000 > seconds) throw new AleError("engine", `${what} did not end within ${DEADLINE_SECONDS} s`);
    }
  }
}
