/** Files of a sandbox, read and written by its init: whatever a path leads through, it ends inside. */

import { posix } from "node:path";
import { AleError } from "../core/errors.ts";
import type { NativeSandbox } from "./native-sandbox.ts";
import { encodeSettings, Op } from "./protocol.ts";
import {
  type ChangeRequest,
  decodeRead,
  decodeStat,
  encodeChange,
  encodeRead,
  encodeStat,
  encodeWrite,
  type FileAttributes,
} from "./requests.ts";

const REQUEST_MS = 30_000;
/** The launcher takes messages in memory of the sandbox, which may be small. */
const WRITE_BYTES = 256 << 10;
const READ_BYTES = 1 << 20;

/** Largest file that is read or written as a whole. */
export const MAX_FILE_BYTES = 256 << 20;

export class FileMissing extends AleError {
  constructor(path: string) {
    super("usage", `${path} does not exist in the sandbox`, { hint: "look with ls what is there" });
    this.name = "FileMissing";
  }
}

export class SandboxFiles {
  readonly #sandbox: NativeSandbox;

  constructor(sandbox: NativeSandbox) {
    this.#sandbox = sandbox;
  }

  /** Relative paths begin in the working directory. */
  resolve(path: string): string {
    return posix.resolve(this.#sandbox.environment.workdir, path);
  }

  /**
   * Content of a regular file.
   * @throws FileMissing; AleError("sandbox") for what is no regular file, or larger than `maxBytes`.
   */
  async read(path: string, maxBytes = MAX_FILE_BYTES): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for (let offset = 0; ; ) {
      const { content } = await this.readPart(path, offset, READ_BYTES);
      parts.push(content);
      offset += content.length;
      if (offset > maxBytes) throw tooLarge(this.resolve(path), maxBytes);
      if (content.length < READ_BYTES)
        return parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
    }
  }

  /** At most `bytes` from `offset` on, and the size of the whole. */
  async readPart(path: string, offset: number, bytes: number): Promise<{ size: number; content: Uint8Array }> {
    const target = this.resolve(path);
    const payload = encodeRead({ path: target, maxBytes: bytes, follow: true, partial: true, offset });
    const reply = await this.#ask(Op.read, payload, `reading ${target}`, target);
    return decodeRead(reply);
  }

  /** Lines from `first` (1 is the first) to `last`, which is included and may lie beyond the end. */
  async readLines(path: string, first: number, last: number | undefined, maxBytes: number): Promise<Uint8Array> {
    if (!(Number.isInteger(first) && first >= 1))
      throw new AleError("usage", `the first line is ${first}; lines count from 1`);
    if (last !== undefined && !(Number.isInteger(last) && last >= first))
      throw new AleError("usage", `the last line, ${last}, lies before the first, ${first}`);
    const target = this.resolve(path);
    const lines = { first, count: last === undefined ? undefined : last - first + 1 };
    const payload = encodeRead({ path: target, maxBytes, follow: true, lines });
    return decodeRead(await this.#ask(Op.read, payload, `reading ${target}`, target)).content;
  }

  /** Writes a file as a whole, through links; folders above it are made. Without `mode` it keeps its own, or gets 0644. */
  async write(path: string, content: Uint8Array, mode?: number): Promise<void> {
    const target = this.resolve(path);
    if (content.length > MAX_FILE_BYTES) throw tooLarge(target, MAX_FILE_BYTES);
    for (let offset = 0; offset === 0 || offset < content.length; offset += WRITE_BYTES) {
      const part = content.subarray(offset, offset + WRITE_BYTES);
      const payload = encodeWrite({ path: target, content: part, offset, truncate: offset === 0, mode });
      await this.#ask(Op.write, payload, `writing ${target}`, target);
    }
  }

  /** `follow`: of what a link leads to. */
  async stat(path: string, follow = true): Promise<FileAttributes> {
    const target = this.resolve(path);
    return decodeStat(await this.#ask(Op.stat, encodeStat(target, follow), `looking at ${target}`, target));
  }

  /** Mode, owner or both; below folders only where `recursive`. Links are never followed there. */
  async change(request: ChangeRequest): Promise<void> {
    const path = this.resolve(request.path);
    await this.#ask(Op.change, encodeChange({ ...request, path }), `changing ${path}`, path);
  }

  async #ask(
    op: typeof Op.read | typeof Op.write | typeof Op.stat | typeof Op.change,
    payload: Uint8Array,
    what: string,
    path: string,
  ): Promise<Uint8Array> {
    const reply = await this.#sandbox.request(op, payload, what, REQUEST_MS);
    if (reply.missing) throw new FileMissing(path);
    return reply.payload;
  }
}

function tooLarge(path: string, maxBytes: number): AleError {
  return new AleError("usage", `${path} is larger than ${maxBytes} bytes`, { hint: "read it in parts" });
}

/** Of `paths`, those that the sandbox itself wrote to, or removed. */
export async function findWritten(sandbox: NativeSandbox, paths: readonly string[]): Promise<readonly string[]> {
  const settings = encodeSettings(paths.map((path) => ["path", path]));
  const { payload, missing } = await sandbox.request(Op.written, settings, "looking for writes", REQUEST_MS);
  if (!missing) return new TextDecoder().decode(payload).split("\0").slice(0, -1);
  // A kernel that cannot hand a sandbox's file system over: what is there now counts.
  const found = await Promise.all(
    paths.map((path) => sandbox.request(Op.stat, encodeStat(path, false), path, REQUEST_MS)),
  );
  return paths.filter((_, i) => found[i]?.missing === false);
}
