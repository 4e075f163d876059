/** Result files appear complete or not at all. */

import { closeSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { AleError, errorMessage } from "../core/errors.ts";

/** Bytes collected before they go to the file. */
const CHUNK = 1 << 20;

/** Makes a folder and its parents. @throws AleError("usage") when it cannot be made. */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw describeFileError(error, path);
  }
}

/** Calls `write` with a temporary name and moves the file into place when it succeeds. */
export async function writeAtomically(path: string, write: (partial: string) => Promise<void> | void): Promise<void> {
  const partial = `${path}.partial`;
  try {
    await write(partial);
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw describeFileError(error, path);
  }
}

export async function writeTextFile(path: string, text: string): Promise<void> {
  await writeAtomically(path, (partial) => writeFileSync(partial, text));
}

/** A file of lines that come one by one; holds about a megabyte of them. */
export class LineWriter {
  readonly #file: number;
  #waiting = "";

  constructor(path: string) {
    this.#file = openSync(path, "w");
  }

  write(line: string): void {
    this.#waiting += `${line}\n`;
    if (this.#waiting.length >= CHUNK) this.#flush();
  }

  finish(): void {
    this.#flush();
  }

  close(): void {
    closeSync(this.#file);
  }

  #flush(): void {
    const bytes = Buffer.from(this.#waiting);
    this.#waiting = "";
    for (let offset = 0; offset < bytes.length; ) offset += writeSync(this.#file, bytes, offset);
  }
}

function describeFileError(error: unknown, path: string): unknown {
  if (error instanceof AleError || !(error instanceof Error) || !("code" in error)) return error;
  if (error.code === "ENOSPC" || error.code === "EDQUOT") {
    return new AleError("storage_full", `writing ${path}: no space left`, {
      hint: "the store holds everything; make room, then write the files again with: ale export RUN",
      cause: error,
    });
  }
  return new AleError("usage", `writing ${path}: ${errorMessage(error)}`, {
    hint: "give a folder you may write to with --out DIR",
    cause: error,
  });
}
