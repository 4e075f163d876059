/**
 * A sandbox that only moves files: between layers, which it sees side by side, and one folder of the host, which it may
 * write to. It has no programs; its init does the work, confined like any other, so that what archives and agents made up
 * for names and links leads nowhere.
 */

import { resolve } from "node:path";
import { AleError } from "../core/errors.ts";
import type { NativeSandbox } from "./native-sandbox.ts";
import { encodeImport, encodeSettings, Op } from "./protocol.ts";

/** As `TARGET_NAME` in `launcher/launcher.h`. */
export const TARGET = "/.target";
/** Moving the largest of layers takes minutes on a slow disk. */
const MOVE_MS = 30 * 60_000;
const IMPORT_MS = 120_000;

export interface Copied {
  /** Written; holes are not. */
  readonly bytes: number;
  readonly entries: number;
  /** Fifos, sockets and the like, which stay behind. */
  readonly skipped: number;
}

export class Carrier implements AsyncDisposable {
  readonly #sandbox: NativeSandbox;

  constructor(sandbox: NativeSandbox) {
    this.#sandbox = sandbox;
  }

  /**
   * Copies a part of layer `index`, such as `root.up`, to `to` in the target. `sync`: returns when the disk has it.
   * @throws AleError("sandbox") naming the file and why, as when the disk is full; what was copied so far stays.
   */
  async copyLayer(index: number, part: string, to: string, sync: boolean): Promise<Copied> {
    const settings = encodeSettings([
      ["from", `/layers/${index}/${part}`],
      ["to", `${TARGET}/${to}`],
      ["sync", sync ? 1 : 0],
    ]);
    const { payload } = await this.#ask(Op.copy, settings, "copying a layer", MOVE_MS);
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    const at = (index: number) => Number(view.getBigUint64(8 * index, true));
    return { bytes: at(0), skipped: at(1), entries: at(2) };
  }

  /** Places entries (`protocol.ts`) below the target. */
  async place(entries: Uint8Array): Promise<void> {
    await this.#ask(Op.import, encodeImport(TARGET, entries, false), "unpacking", IMPORT_MS);
  }

  async #ask(op: typeof Op.copy | typeof Op.import, payload: Uint8Array, what: string, timeoutMs: number) {
    try {
      return await this.#sandbox.request(op, payload, what, timeoutMs);
    } catch (error) {
      throw explainFull(error);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#sandbox.destroy();
  }
}

/** An error of the launcher, with advice where the disk was full. */
export function explainFull(error: unknown): unknown {
  if (!(error instanceof Error) || !/No space left on device|Disk quota exceeded|EDQUOT/i.test(error.message))
    return error;
  return new AleError("sandbox", `the disk is full: ${error.message}`, {
    hint: "nothing was changed; free some space (df -h), or set ALE_HOME to a larger disk",
    cause: error,
  });
}

/** Has a sandbox write its whole root file system as entries (`protocol.ts`) into a new file of its target. */
export async function pack(sandbox: NativeSandbox, file: string, maxBytes: number): Promise<void> {
  const settings = encodeSettings([
    ["file", file],
    ["bytes", Math.min(Number.MAX_SAFE_INTEGER, maxBytes)],
  ]);
  try {
    await sandbox.request(Op.pack, settings, "packing the files", MOVE_MS);
  } catch (error) {
    throw explainFull(error);
  }
}

/** Settings for the launcher of a sandbox that may write to a folder of the host. */
export function targetSettings(target: {
  readonly folder: string;
  readonly store: boolean;
}): [string, string | number][] {
  return [
    ["target", resolve(target.folder)],
    ["store", target.store ? 1 : 0],
  ];
}
