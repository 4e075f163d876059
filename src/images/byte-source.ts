/** Bytes of archives: from files or parts of them, compressed or not. */

import { createReadStream } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { pipeline, type Readable } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { AleError, errorMessage } from "../core/errors.ts";

export type Compression = "none" | "gzip" | "zstd";

/** Reads a stream piece by piece, of exactly the sizes that are asked for. */
export class ByteSource {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #seen: ((chunk: Uint8Array) => void) | undefined;
  #rest: Uint8Array = new Uint8Array(0);

  /** `seen` gets every byte once, in order. */
  constructor(stream: AsyncIterable<Uint8Array>, seen?: (chunk: Uint8Array) => void) {
    this.#chunks = stream[Symbol.asyncIterator]();
    this.#seen = seen;
  }

  /** At most `most` bytes, at least one; `undefined` at the end. */
  async some(most: number): Promise<Uint8Array | undefined> {
    while (this.#rest.length === 0) {
      const next = await this.#chunks.next().catch((error: unknown) => {
        throw new AleError("usage", `the archive cannot be read: ${errorMessage(error)}`, { cause: error });
      });
      if (next.done) return undefined;
      this.#seen?.(next.value);
      this.#rest = next.value;
    }
    const part = this.#rest.subarray(0, most);
    this.#rest = this.#rest.subarray(part.length);
    return part;
  }

  /** Exactly `length` bytes; `undefined` at the end. @throws AleError("usage") when it ends in between. */
  async exactly(length: number): Promise<Uint8Array | undefined> {
    const first = await this.some(length);
    if (first === undefined || first.length === length) return first;
    const bytes = new Uint8Array(length);
    bytes.set(first);
    for (let at = first.length; at < length; ) {
      const part = await this.some(length - at);
      if (part === undefined) throw new AleError("usage", "the archive is cut off");
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  async skip(length: number): Promise<void> {
    for (let left = length; left > 0; ) {
      const part = await this.some(left);
      if (part === undefined) throw new AleError("usage", "the archive is cut off");
      left -= part.length;
    }
  }

  /** To the end. */
  async drain(): Promise<void> {
    while ((await this.some(1 << 20)) !== undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#chunks.return?.();
  }
}

/** A stretch of a file. */
export interface FilePart {
  readonly path: string;
  readonly start: number;
  readonly length: number;
}

/** How a stretch is compressed. @throws AleError("usage") for ways that are not known. */
export async function compressionOf({ path, start, length }: FilePart): Promise<Compression> {
  await using file = await open(path, "r");
  const head = Buffer.alloc(Math.min(6, length));
  await file.read(head, 0, head.length, start);
  const begins = (...bytes: readonly number[]) => bytes.every((byte, index) => head[index] === byte);
  if (begins(0x1f, 0x8b)) return "gzip";
  if (begins(0x28, 0xb5, 0x2f, 0xfd)) return "zstd";
  const other = begins(0xfd, 0x37, 0x7a) ? "xz" : begins(0x42, 0x5a, 0x68) ? "bzip2" : undefined;
  if (other === undefined) return "none";
  throw new AleError("usage", `${path} is compressed with ${other}, which cannot be read here`, {
    hint: `unpack it first: ${other} -d ${path}`,
  });
}

/** The stretch, uncompressed. */
export async function openPart(part: FilePart): Promise<AsyncIterable<Uint8Array>> {
  const compression = await compressionOf(part);
  if (part.length === 0) return (async function* () {})();
  const { path, start, length } = part;
  const raw = createReadStream(path, { start, end: start + length - 1, highWaterMark: 256 << 10 });
  if (compression === "none") return raw;
  const unpack = compression === "gzip" ? createGunzip() : createZstdDecompress();
  // Errors of the file end the reader of what is unpacked.
  return pipeline(raw, unpack, () => {}) as unknown as Readable;
}

/** Reads `length` bytes at `at`, or fewer at the end of the file. */
export async function readAt(file: FileHandle, at: number, length: number): Promise<Uint8Array> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await file.read(bytes, 0, length, at);
  return bytes.subarray(0, bytesRead);
}
