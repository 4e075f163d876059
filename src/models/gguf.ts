/**
 * The GGUF format: magic, version, typed metadata, tensor descriptions, then aligned data; little-endian.
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */

import { AleError } from "../core/errors.ts";
import type { ByteSource } from "./byte-source.ts";

export type GgufValue = number | bigint | boolean | string | readonly GgufValue[];

export interface GgufTensor {
  readonly name: string;
  /** Number of the element type, see `gguf-blocks.ts`. */
  readonly type: number;
  /** Row-major; the file lists the fastest dimension first. */
  readonly shape: readonly number[];
  /** First byte in the file. */
  readonly offset: number;
}

export interface GgufFile {
  readonly source: ByteSource;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

const MAGIC = 0x46554747; // "GGUF"
const VERSIONS = [2, 3];
const DEFAULT_ALIGNMENT = 32;

/** Types of metadata values, by their numbers. */
const ARRAY = 9;
const STRING = 8;
const READERS: Readonly<Record<number, (cursor: Cursor) => GgufValue>> = {
  0: (cursor) => cursor.view(1).getUint8(0),
  1: (cursor) => cursor.view(1).getInt8(0),
  2: (cursor) => cursor.view(2).getUint16(0, true),
  3: (cursor) => cursor.view(2).getInt16(0, true),
  4: (cursor) => cursor.uint32(),
  5: (cursor) => cursor.view(4).getInt32(0, true),
  6: (cursor) => cursor.view(4).getFloat32(0, true),
  7: (cursor) => cursor.view(1).getUint8(0) !== 0,
  [STRING]: (cursor) => cursor.string(),
  [ARRAY]: (cursor) => cursor.array(),
  10: (cursor) => cursor.view(8).getBigUint64(0, true),
  11: (cursor) => cursor.view(8).getBigInt64(0, true),
  12: (cursor) => cursor.view(8).getFloat64(0, true),
};

/**
 * Reads metadata and tensor descriptions; the data stays on disk.
 * @throws AleError("model") naming the file when it is not GGUF, damaged, or one part of several.
 */
export function openGguf(source: ByteSource): GgufFile {
  const cursor = new Cursor(source);
  if (source.size < 24 || cursor.uint32() !== MAGIC) throw damaged(source, "it does not begin with GGUF");
  const version = cursor.uint32();
  if (!VERSIONS.includes(version)) {
    throw damaged(
      source,
      `it has version ${version}; little-endian files of version ${VERSIONS.join(" and ")} are read`,
    );
  }
  const tensorCount = cursor.count();
  const metadataCount = cursor.count();
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < metadataCount; i++) {
    const key = cursor.string();
    metadata.set(key, cursor.value(cursor.uint32()));
  }
  if (Number(metadata.get("split.count") ?? 1) > 1) {
    throw new AleError("model", `${source.path} is one part of a model in several files`, {
      hint: "join the parts first, e.g. with llama.cpp's gguf-split --merge",
    });
  }
  const entries: GgufTensor[] = [];
  for (let i = 0; i < tensorCount; i++) {
    const name = cursor.string();
    const dimensions = cursor.uint32();
    if (dimensions > 4) throw damaged(source, `"${name}" has ${dimensions} dimensions`);
    const shape = Array.from({ length: dimensions }, () => cursor.count()).reverse();
    entries.push({ name, shape, type: cursor.uint32(), offset: cursor.count() });
  }
  const alignment = Number(metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT);
  const start = Math.ceil(cursor.position / alignment) * alignment;
  const tensors = new Map(entries.map((entry) => [entry.name, { ...entry, offset: start + entry.offset }]));
  return { source, metadata, tensors };
}

function damaged(source: ByteSource, why: string): AleError {
  return new AleError("model", `${source.path} is not a sound GGUF file: ${why}`, {
    hint: "copy or download the file again",
  });
}

const WINDOW = 1 << 16;

/** Reads forward through a source, a window at a time. */
class Cursor {
  position = 0;
  readonly #source: ByteSource;
  #window = new Uint8Array(0);
  #start = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  view(bytes: number): DataView {
    const taken = this.#take(bytes);
    return new DataView(taken.buffer, taken.byteOffset, bytes);
  }

  uint32(): number {
    return this.view(4).getUint32(0, true);
  }

  /** A u64 that counts things or bytes; none can be larger than the file. */
  count(): number {
    const value = this.view(8).getBigUint64(0, true);
    if (value > BigInt(this.#source.size)) throw damaged(this.#source, `it speaks of ${value} things or bytes`);
    return Number(value);
  }

  string(): string {
    return new TextDecoder().decode(this.#take(this.count()));
  }

  array(): GgufValue[] {
    const type = this.uint32();
    return Array.from({ length: this.count() }, () => this.value(type));
  }

  value(type: number): GgufValue {
    const read = READERS[type];
    if (read === undefined) throw damaged(this.#source, `it has a value of type ${type}`);
    return read(this);
  }

  #take(bytes: number): Uint8Array {
    const end = this.position + bytes;
    if (end > this.#source.size) throw damaged(this.#source, "it ends in the middle of its header");
    if (end > this.#start + this.#window.length) {
      this.#start = this.position;
      this.#window = new Uint8Array(Math.min(Math.max(WINDOW, bytes), this.#source.size - this.position));
      this.#source.read(this.#start, this.#window);
    }
    const taken = this.#window.subarray(this.position - this.#start, end - this.#start);
    this.position = end;
    return taken;
  }
}
