/**
 * Tar files of any size, one entry after the other: ustar, pax and GNU, sparse files included (POSIX.1-2017 pax; GNU tar
 * manual, "Basic Tar Format" and "Storing Sparse Files"). Names are bytes and stay so.
 */

import { AleError } from "../core/errors.ts";
import { BLOCK, checkSum, field, nameOf, number } from "../sandbox/tar.ts";
import type { ByteSource } from "./byte-source.ts";

/** Names and records before an entry; more is no sensible archive. */
const MAX_RECORDS = 1 << 20;
const ZEROS = new Uint8Array(64 << 10);
const decoder = new TextDecoder();

export interface TarItem {
  readonly type: "file" | "folder" | "link" | "hard link" | "other";
  /** As it is written in the archive. */
  readonly path: Uint8Array;
  /** Where a link leads. */
  readonly target: Uint8Array;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970. */
  readonly modified: number;
  /** Bytes of content, holes included. */
  readonly size: number;
  /** Names of its extended attributes. */
  readonly attributes: readonly string[];
  /** The content, once. What is not read is skipped. */
  content(): AsyncGenerator<Uint8Array>;
}

/** A stretch of a sparse file that holds something. */
interface Extent {
  readonly offset: number;
  readonly length: number;
}

type Records = ReadonlyMap<string, Uint8Array>;

/** What the blocks before an entry say about it. */
interface Said {
  path?: Uint8Array | undefined;
  target?: Uint8Array | undefined;
  records: Records;
}

/** @throws AleError("usage") when it is no tar file, or one that is cut off. */
export async function* readTarItems(source: ByteSource): AsyncGenerator<TarItem> {
  let said: Said = { records: new Map() };
  let global: Records = new Map();
  for (;;) {
    const block = await source.exactly(BLOCK);
    if (block === undefined || block.every((byte) => byte === 0)) return;
    checkSum(block);
    const flag = String.fromCharCode(block[156] ?? 0);
    const size = number(block, 124, 12);
    if (flag === "x" || flag === "g" || flag === "L" || flag === "K") {
      const content = await readWhole(source, size);
      if (flag === "x") said.records = new Map([...said.records, ...parseRecords(content)]);
      else if (flag === "g") global = new Map([...global, ...parseRecords(content)]);
      else if (flag === "L") said.path = field(content, 0, content.length);
      else said.target = field(content, 0, content.length);
      continue;
    }
    const reader = await ItemReader.open(source, block, flag, {
      ...said,
      records: new Map([...global, ...said.records]),
    });
    yield reader.item;
    await reader.skipRest();
    said = { records: new Map() };
  }
}

async function readWhole(source: ByteSource, size: number): Promise<Uint8Array> {
  if (!(size <= MAX_RECORDS)) throw new AleError("usage", "the tar file has a name or a record that is too long");
  const padded = Math.ceil(size / BLOCK) * BLOCK;
  const bytes = padded === 0 ? new Uint8Array(0) : await source.exactly(padded);
  if (bytes === undefined) throw new AleError("usage", "the archive is cut off");
  return bytes.slice(0, size);
}

function parseRecords(content: Uint8Array): Map<string, Uint8Array> {
  const records = new Map<string, Uint8Array>();
  for (let at = 0; at < content.length; ) {
    const blank = content.indexOf(0x20, at);
    const length = Number(decoder.decode(content.subarray(at, blank)));
    const equals = content.indexOf(0x3d, blank);
    if (!(length > 0) || blank < 0 || equals < 0 || equals >= at + length || at + length > content.length)
      throw new AleError("usage", "the tar file has a pax record that is not right");
    records.set(decoder.decode(content.subarray(blank + 1, equals)), content.subarray(equals + 1, at + length - 1));
    at += length;
  }
  return records;
}

const TYPES: Readonly<Record<string, TarItem["type"]>> = {
  "0": "file",
  "\0": "file",
  "7": "file",
  S: "file",
  "1": "hard link",
  "2": "link",
  "5": "folder",
};

/** One entry and what is left of its content in the source. */
class ItemReader {
  readonly item: TarItem;
  readonly #source: ByteSource;
  /** Bytes of the entry in the source, its padding included. */
  #left: number;
  readonly #extents: readonly Extent[] | undefined;

  private constructor(source: ByteSource, left: number, head: Omit<TarItem, "content">, extents?: readonly Extent[]) {
    this.#source = source;
    this.#left = left;
    this.#extents = extents;
    this.item = { ...head, content: () => this.#content(head.size) };
  }

  static async open(source: ByteSource, block: Uint8Array, flag: string, said: Said): Promise<ItemReader> {
    const { records } = said;
    const ofRecord = (key: string) => {
      const value = records.get(key);
      return value === undefined ? undefined : Number(decoder.decode(value));
    };
    const type = TYPES[flag] ?? "other";
    const stored = ofRecord("size") ?? number(block, 124, 12);
    if (!(Number.isSafeInteger(stored) && stored >= 0))
      throw new AleError("usage", "the tar file has a size that is not right");
    let path = records.get("GNU.sparse.name") ?? records.get("path") ?? said.path ?? nameOf(block);
    if (path.includes(0)) path = field(path, 0, path.length);
    let left = Math.ceil(stored / BLOCK) * BLOCK;
    let size = stored;
    let extents: Extent[] | undefined;
    if (flag === "S") {
      extents = await oldExtents(source, block);
      size = number(block, 483, 12);
    } else if (records.has("GNU.sparse.major")) {
      const found = await newExtents(source, stored);
      extents = found.extents;
      left -= found.bytes;
      size = ofRecord("GNU.sparse.realsize") ?? 0;
    } else if (records.has("GNU.sparse.map")) {
      const numbers = decoder.decode(records.get("GNU.sparse.map")).split(",").map(Number);
      extents = pairs(numbers);
      size = ofRecord("GNU.sparse.size") ?? 0;
    }
    if (extents !== undefined) checkExtents(extents, size);
    const folder = type === "file" && path.at(-1) === 0x2f; // as old archives write them
    const head = {
      ...{
        type: folder ? ("folder" as const) : type,
        path,
        target: records.get("linkpath") ?? said.target ?? field(block, 157, 100),
      },
      ...{ mode: number(block, 100, 8) & 0o7777, uid: ofRecord("uid") ?? number(block, 108, 8) },
      ...{ gid: ofRecord("gid") ?? number(block, 116, 8), modified: ofRecord("mtime") ?? number(block, 136, 12) },
      size: type === "file" && !folder ? size : 0,
      attributes: [...records.keys()].flatMap(
        (key) => /^(?:SCHILY\.xattr|LIBARCHIVE\.xattr)\.(.+)$/.exec(key)?.[1] ?? [],
      ),
    };
    return new ItemReader(source, left, head, extents);
  }

  async *#content(size: number): AsyncGenerator<Uint8Array> {
    let at = 0;
    for (const { offset, length } of this.#extents ?? [{ offset: 0, length: size }]) {
      yield* zeros(offset - at);
      for (let left = length; left > 0; ) {
        if (this.#left === 0) throw new AleError("usage", "the tar file has a sparse file that is not right");
        const part = await this.#source.some(Math.min(left, this.#left));
        if (part === undefined) throw new AleError("usage", "the archive is cut off");
        left -= part.length;
        this.#left -= part.length;
        yield part;
      }
      at = offset + length;
    }
    yield* zeros(size - at);
  }

  async skipRest(): Promise<void> {
    const left = this.#left;
    this.#left = 0;
    await this.#source.skip(left);
  }
}

function* zeros(count: number): Generator<Uint8Array> {
  for (let left = count; left > 0; left -= ZEROS.length) yield ZEROS.subarray(0, Math.min(left, ZEROS.length));
}

function pairs(numbers: readonly number[]): Extent[] {
  const extents: Extent[] = [];
  for (let i = 0; i + 1 < numbers.length; i += 2)
    extents.push({ offset: numbers[i] ?? 0, length: numbers[i + 1] ?? 0 });
  return extents;
}

function checkExtents(extents: readonly Extent[], size: number): void {
  let at = 0;
  for (const { offset, length } of extents) {
    if (
      !(
        Number.isSafeInteger(offset) &&
        Number.isSafeInteger(length) &&
        offset >= at &&
        length >= 0 &&
        offset + length <= size
      )
    )
      throw new AleError("usage", "the tar file has a sparse file that is not right");
    at = offset + length;
  }
}

/** GNU's old form: a table in the header and in blocks behind it. */
async function oldExtents(source: ByteSource, block: Uint8Array): Promise<Extent[]> {
  const numbers: number[] = [];
  const take = (from: Uint8Array, at: number, count: number) => {
    for (let i = 0; i < count; i++) {
      const [offset, length] = [number(from, at + 24 * i, 12), number(from, at + 24 * i + 12, 12)];
      if (offset > 0 || length > 0) numbers.push(offset, length);
    }
  };
  take(block, 386, 4);
  for (let more = block[482] !== 0; more; ) {
    const next = await source.exactly(BLOCK);
    if (next === undefined || numbers.length > MAX_RECORDS) throw new AleError("usage", "the archive is cut off");
    take(next, 0, 21);
    more = next[504] !== 0;
  }
  return pairs(numbers);
}

/** The form with a table of decimal numbers, one a line, before the content (GNU.sparse.major = 1). */
async function newExtents(source: ByteSource, stored: number): Promise<{ extents: Extent[]; bytes: number }> {
  let text = "";
  let bytes = 0;
  for (;;) {
    const lines = text.split("\n");
    const count = lines.length > 1 ? Number(lines[0]) : Number.NaN;
    if (lines.length > 1 && !(count >= 0 && count <= MAX_RECORDS)) break;
    if (lines.length > 1 + 2 * count) return { extents: pairs(lines.slice(1, 1 + 2 * count).map(Number)), bytes };
    if (bytes >= stored) break;
    const block = await source.exactly(BLOCK);
    if (block === undefined) break;
    bytes += BLOCK;
    text += decoder.decode(block);
  }
  throw new AleError("usage", "the tar file has a sparse file that is not right");
}
