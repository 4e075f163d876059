/** What went wrong with the database, in words, with the next step. */

import { statfsSync } from "node:fs";
import { dirname } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";

/** SQLite's name of the error (`SQLITE_BUSY`), whoever wrapped it; drizzle keeps the original as `cause`. */
export function databaseCode(error: unknown): string | undefined {
  for (let current = error; current instanceof Error; current = current.cause) {
    if ("code" in current && typeof current.code === "string" && current.code.startsWith("SQLITE_"))
      return current.code;
    // The driver reports a failed open as text that ends with SQLite's number.
    const open = /Unable to open connection to local database .*: (\d+)"?\)?$/s.exec(current.message);
    if (open !== null) return OPEN_CODES.get(Number(open[1])) ?? "SQLITE_CANTOPEN";
  }
  return undefined;
}

const OPEN_CODES: ReadonlyMap<number, string> = new Map([
  [8, "SQLITE_READONLY"],
  [11, "SQLITE_CORRUPT"],
  [13, "SQLITE_FULL"],
  [14, "SQLITE_CANTOPEN"],
  [26, "SQLITE_NOTADB"],
]);

/** Turns an error of the driver into an `AleError` that names the file. `what` is the work that failed. */
export function describeDatabaseError(error: unknown, path: string, what: string): AleError {
  if (error instanceof AleError) return error;
  switch (databaseCode(error)) {
    case "SQLITE_FULL":
      return storageFull(path, what, error);
    case "SQLITE_IOERR":
      if (freeBytes(path) < 1 << 20) return storageFull(path, what, error);
      return storeError(`${what}: input/output error in ${path}`, "check the disk (dmesg), then try again", error);
    case "SQLITE_BUSY":
    case "SQLITE_LOCKED":
      return storeError(
        `${what}: ${path} is locked by another process`,
        `wait for it, find it with: fuser ${path}   or use another store with --store FILE`,
        error,
      );
    case "SQLITE_NOTADB":
      return storeError(
        `${path} is not a database`,
        "it was left as it is; give another file with --store FILE, or move this one away",
        error,
      );
    case "SQLITE_CORRUPT":
      return storeError(
        `${path} is damaged (${originalMessage(error)})`,
        `move it and its -wal and -shm files away, restore a copy, or save what can be read: sqlite3 ${path} .recover`,
        error,
      );
    case "SQLITE_READONLY":
    case "SQLITE_CANTOPEN":
    case "SQLITE_PERM":
    case "SQLITE_AUTH":
      return storeError(
        `${what}: ${path} cannot be opened for writing`,
        `check the permissions of ${dirname(path)}, or give another place with --store FILE`,
        error,
      );
    default:
      return storeError(`${what}: ${originalMessage(error)} (${path})`, undefined, error);
  }
}

/** What the driver said; drizzle's own message is the whole query. */
function originalMessage(error: unknown): string {
  let current = error;
  while (current instanceof Error && current.cause instanceof Error) current = current.cause;
  return errorMessage(current);
}

function storeError(message: string, hint: string | undefined, cause: unknown): AleError {
  return new AleError("store", message, hint === undefined ? { cause } : { hint, cause });
}

function storageFull(path: string, what: string, cause: unknown): AleError {
  const free = freeBytes(path);
  return new AleError(
    "storage_full",
    `${what}: no space left for ${path} (${(free / 2 ** 20).toFixed(1)} MiB free in ${dirname(path)})`,
    {
      hint: "every committed step is safe; make room (at least 64 MiB), then go on with: ale resume RUN",
      cause,
    },
  );
}

/** Bytes an ordinary user may still write to the file system of `path`; infinity where it cannot be asked. */
function freeBytes(path: string): number {
  try {
    const { bavail, bsize } = statfsSync(dirname(path));
    return bavail * bsize;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
