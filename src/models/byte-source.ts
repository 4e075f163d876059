/** Bytes that are read piece by piece: a file on disk, or one inside the executable. */

import { closeSync, openSync, readSync, statSync } from "node:fs";
import { AleError, errorMessage } from "../core/errors.ts";

export interface ByteSource {
  /** For messages. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /**
   * Fills `target` with the bytes from `offset` on.
   * @throws AleError("model") naming the file when it cannot be read or is too short.
   */
  read(offset: number, target: Uint8Array): void;
}

/** The file `path`; held open only while it is read. @throws AleError("model") when it cannot be opened. */
export function fileSource(path: string): ByteSource {
  const unreadable = (error: unknown): never => {
    throw new AleError("model", `cannot read ${path}: ${errorMessage(error)}`, {
      hint: "check its permissions and the disk it lies on",
      cause: error,
    });
  };
  const open = (): number => {
    try {
      return openSync(path, "r");
    } catch (error) {
      return unreadable(error);
    }
  };
  closeSync(open());
  const { size } = statSync(path);
  return {
    path,
    size,
    read: (offset, target) => {
      const file = open();
      try {
        for (let filled = 0; filled < target.length; ) {
          const count = readSync(file, target, filled, target.length - filled, offset + filled);
          if (count === 0) throw cutShort(path, offset + target.length, offset + filled);
          filled += count;
        }
      } catch (error) {
        if (error instanceof AleError) throw error;
        unreadable(error);
      } finally {
        closeSync(file);
      }
    },
  };
}

/** Bytes in memory; `path` is for messages. */
export function memorySource(path: string, bytes: Uint8Array): ByteSource {
  return {
    path,
    size: bytes.length,
    read: (offset, target) => {
      if (offset + target.length > bytes.length) throw cutShort(path, offset + target.length, bytes.length);
      target.set(bytes.subarray(offset, offset + target.length));
    },
  };
}

function cutShort(path: string, needed: number, found: number): AleError {
  return new AleError("model", `${path} is cut short: ${needed} bytes are needed, it has ${found}`, {
    hint: "copy or download the file again",
  });
}
