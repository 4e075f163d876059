/** Files that survive a power failure once the call that writes them has returned. */

import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { AleError, errorMessage, isDiskFull } from "../core/errors.ts";

/**
 * Writes `parts` one after another; the file appears under its name only when it is complete and on disk.
 * @throws AleError("storage_full") when there is no room, AleError("usage") when it cannot be written for another reason.
 */
export function writeDurably(path: string, parts: Iterable<Uint8Array | string>): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const file = openSync(temporary, "w");
    try {
      for (const part of parts) writeAll(file, typeof part === "string" ? new TextEncoder().encode(part) : part);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
    syncFolder(dirname(path));
  } catch (error) {
    rmSync(temporary, { force: true });
    if (error instanceof AleError) throw error;
    const code = isDiskFull(error) ? "storage_full" : "usage";
    throw new AleError(code, `cannot write ${path}: ${errorMessage(error)}`, {
      hint: `make room in ${dirname(path)}, or correct its permissions; a run goes on with: ale resume`,
      cause: error,
    });
  }
}

/** Puts the names in a folder on disk: what was created, renamed or removed in it. */
export function syncFolder(path: string): void {
  const folder = openSync(path, "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
}
