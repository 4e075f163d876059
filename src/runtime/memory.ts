/**
 * Memory that native code may hold on to. This file is the only one that calls bun:ffi's `ptr`.
 *
 * A small typed array made as `new Float32Array(n)` lives inside JavaScriptCore's heap object and *moves* when its
 * `.buffer` is first asked for (also by `.subarray()`); native code would go on using the old address without an error.
 * Memory made here has an explicit ArrayBuffer, which never moves while it is referenced.
 */

import { dlopen, type Pointer, ptr } from "bun:ffi";
import { closeSync, fstatSync, openSync, writeSync } from "node:fs";
import { AleError, errorMessage } from "../core/errors.ts";

export type NativeArray = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array | BigUint64Array;

/** A zeroed buffer of at least one cache line, so that even empty arrays have an address. */
function buffer(bytes: number): ArrayBuffer {
  return new ArrayBuffer(Math.max(64, bytes));
}

export function allocateFloat32(length: number): Float32Array<ArrayBuffer> {
  return new Float32Array(buffer(length * 4), 0, length);
}

export function allocateFloat64(length: number): Float64Array<ArrayBuffer> {
  return new Float64Array(buffer(length * 8), 0, length);
}

export function allocateInt32(length: number): Int32Array<ArrayBuffer> {
  return new Int32Array(buffer(length * 4), 0, length);
}

export function allocateInt64(length: number): BigInt64Array<ArrayBuffer> {
  return new BigInt64Array(buffer(length * 8), 0, length);
}

export function allocateBytes(length: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(buffer(length), 0, length);
}

/** What the processor translates addresses by at best. */
const LARGE_PAGE = 2 << 20;
const MADV_HUGEPAGE = 14;

/**
 * Zeroed memory for what is read from end to end again and again, in large pages where the system has them to give. Reading
 * 300 MB takes a fifth less that way.
 */
export function allocateLargePages(bytes: number): Uint8Array<ArrayBuffer> {
  const rounded = LARGE_PAGE * Math.ceil(bytes / LARGE_PAGE);
  const whole = buffer(rounded + LARGE_PAGE);
  const begin = Number(ptr(whole));
  const offset = LARGE_PAGE * Math.ceil(begin / LARGE_PAGE) - begin;
  const { symbols } = dlopen("libc.so.6", { madvise: { args: ["ptr", "usize", "i32"], returns: "i32" } });
  symbols.madvise((begin + offset) as Pointer, rounded, MADV_HUGEPAGE); // A wish: nothing is lost when it is not granted.
  return new Uint8Array(whole, offset, bytes);
}

/** As `allocateLargePages` where it is worth it, as `allocateBytes` where not. All of it should be going to be used. */
export function allocateDense(bytes: number): Uint8Array<ArrayBuffer> {
  return bytes < 4 * LARGE_PAGE ? allocateBytes(bytes) : allocateLargePages(bytes);
}

export function allocatePointers(length: number): BigUint64Array<ArrayBuffer> {
  return new BigUint64Array(buffer(length * 8), 0, length);
}

/** A NUL-terminated copy of `text`. */
export function allocateString(text: string): Uint8Array<ArrayBuffer> {
  const encoded = new TextEncoder().encode(text);
  const bytes = allocateBytes(encoded.length + 1);
  bytes.set(encoded);
  return bytes;
}

/**
 * Address of the first element. It stays valid as long as the array is referenced. Asking for the buffer first settles
 * an array that was made without one, so its address cannot change afterwards.
 */
export function addressOf(view: NativeArray): number {
  const settled = view.buffer;
  if (view.byteOffset >= settled.byteLength) throw new AleError("internal", "an empty view at the end has no address");
  return Number(ptr(settled)) + view.byteOffset;
}

/** Writes the zeros out instead of leaving a hole: a full disk then fails here, not as SIGBUS in the middle of a step. */
function growWithZeros(file: number, bytes: number): void {
  const zeros = new Uint8Array(4 << 20);
  for (let size = fstatSync(file).size; size < bytes; ) {
    size += writeSync(file, zeros, 0, Math.min(zeros.length, bytes - size));
  }
}

/**
 * Maps `bytes` bytes of a file, shared with every process that maps it; the file is created and grown as needed, never
 * shrunk. The mapping ends when the returned array is garbage collected.
 * @throws AleError("storage_full") when the file cannot be given that size, AleError("engine") when it cannot be mapped.
 */
export function mapSharedFile(path: string, bytes: number): Uint8Array<ArrayBuffer> {
  let file: number;
  try {
    file = openSync(path, "a+");
  } catch (error) {
    throw new AleError("engine", `cannot open ${path}: ${errorMessage(error)}`, { cause: error });
  }
  try {
    growWithZeros(file, bytes);
  } catch (error) {
    throw new AleError("storage_full", `cannot grow ${path} to ${bytes} bytes: ${errorMessage(error)}`, {
      hint: "free some space or choose another folder with --out",
      cause: error,
    });
  } finally {
    closeSync(file);
  }
  try {
    const mapped = Bun.mmap(path, { shared: true });
    return new Uint8Array(mapped.buffer as ArrayBuffer, mapped.byteOffset, bytes);
  } catch (error) {
    throw new AleError("engine", `cannot map ${path}: ${errorMessage(error)}`, { cause: error });
  }
}
