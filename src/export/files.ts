/** Result files appear complete or not at all. */

import { closeSync, existsSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs";
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
    if (existsSync(partial)) rmSync(partial, { force: true });
    throw describeFileError(error, path);
  }
}

export async function writeTextFile(path: string, text: string): Promise<void> {
  await writeAtomically(path, (partial) => writeFileSync(partial, text));
}

/** Writes lines as they come, holding about a megabyte. */
export async function writeLines(path: string, lines: AsyncIterable<string> | Iterable<string>): Promise<void> {
  await writeAtomically(path, async (partial) => {
    const file = openSync(partial, "w");
    try {
      let waiting = "";
      for await (const line of lines) {
        waiting += `${line}\n`;
        if (waiting.length < CHUNK) continue;
        writeAll(file, waiting);
        waiting = "";
      }
      writeAll(file, waiting);
    } finally {
      closeSync(file);
    }
  });
}

function writeAll(file: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let offset = 0; offset < bytes.length; ) offset += writeSync(file, bytes, offset);
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
