/**
 * Folders as tar files (POSIX ustar with pax records for long names) from and to the archives that sandboxes exchange. Only
 * files, folders and symbolic links; where an entry may go is checked by the sandbox that takes it. Names are bytes on both
 * sides and stay so; libraries for tar make text of them.
 */

import { AleError } from "../core/errors.ts";
import type { SandboxArchive } from "../core/ports.ts";
import { concat } from "./protocol.ts";

/** Bytes of a header; contents are padded to a multiple of it. */
export const BLOCK = 512;
const ENTRY_BYTES = 40;
export const Kind = { end: 0, file: 1, folder: 2, link: 3, hardLink: 4 } as const;
const FLAGS: Readonly<Record<number, string>> = {
  ...{ [Kind.file]: "0", [Kind.folder]: "5", [Kind.link]: "2", [Kind.hardLink]: "1" },
};
/** The largest size that a header can say. */
const MAX_SIZE = 0o77777777777;
/** Of a name in a header; what is longer goes into a record before it. */
const MAX_NAME = 100;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

interface Entry {
  readonly kind: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970. */
  readonly modified: number;
  readonly path: Uint8Array;
  /** Of a link: where it leads. */
  readonly content: Uint8Array;
}

/** The entries of an archive, as the sandbox sent them. */
export function* readArchive(archive: SandboxArchive): Generator<Entry> {
  const view = new DataView(archive.buffer, archive.byteOffset, archive.byteLength);
  for (let at = 0; at + ENTRY_BYTES <= archive.length; ) {
    const kind = view.getUint8(at);
    if (kind === Kind.end) return;
    const pathEnd = at + ENTRY_BYTES + view.getUint32(at + 24, true);
    const end = pathEnd + Number(view.getBigUint64(at + 32, true));
    yield {
      kind,
      mode: view.getUint32(at + 4, true),
      uid: view.getUint32(at + 8, true),
      gid: view.getUint32(at + 12, true),
      modified: Math.floor(Number(view.getBigInt64(at + 16, true)) / 1e9),
      path: archive.subarray(at + ENTRY_BYTES, pathEnd),
      content: archive.subarray(pathEnd, end),
    };
    at = end;
  }
}

function padded(content: Uint8Array): Uint8Array[] {
  const rest = content.length % BLOCK;
  return rest === 0 ? [content] : [content, new Uint8Array(BLOCK - rest)];
}

function header(
  flag: string,
  name: Uint8Array,
  size: number,
  entry: Omit<Entry, "path" | "content">,
  link: Uint8Array,
): Uint8Array {
  const block = new Uint8Array(BLOCK);
  const octal = (at: number, digits: number, value: number) =>
    block.set(encoder.encode(value.toString(8).padStart(digits, "0")), at);
  block.set(name.subarray(0, MAX_NAME), 0);
  octal(100, 7, entry.mode & 0o7777);
  octal(108, 7, Math.min(entry.uid, 0o7777777));
  octal(116, 7, Math.min(entry.gid, 0o7777777));
  octal(124, 11, size);
  octal(136, 11, Math.max(0, entry.modified));
  block.set(encoder.encode("        "), 148); // the sum counts its own field as blanks
  block.set(encoder.encode(flag), 156);
  block.set(link.subarray(0, MAX_NAME), 157);
  block.set(encoder.encode("ustar\x0000"), 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  octal(148, 6, sum);
  block[154] = 0;
  return block;
}

/** A pax record: its length in digits, which count themselves, then `key=value`. */
function record(key: string, value: Uint8Array): Uint8Array {
  const rest = concat([encoder.encode(` ${key}=`), value, encoder.encode("\n")]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return concat([encoder.encode(String(length)), rest]);
}

/** Headers of an entry: its own, and before it a record of what does not fit into that. */
export function tarHead(entry: Omit<Entry, "content">, size: number, target: Uint8Array): Uint8Array {
  const flag = FLAGS[entry.kind];
  if (flag === undefined) throw new AleError("sandbox", "the sandbox sent an archive that is not right");
  const none = new Uint8Array(0);
  const parts: Uint8Array[] = [];
  const path = entry.kind === Kind.folder ? concat([entry.path, encoder.encode("/")]) : entry.path;
  const records: Uint8Array[] = [];
  if (path.length > MAX_NAME) records.push(record("path", path));
  if (target.length > MAX_NAME) records.push(record("linkpath", target));
  if (size > MAX_SIZE) records.push(record("size", encoder.encode(String(size))));
  if (records.length > 0) {
    const pax = concat(records);
    parts.push(header("x", encoder.encode("pax"), pax.length, { ...entry, mode: 0o644 }, none), ...padded(pax));
  }
  parts.push(header(flag, path, size > MAX_SIZE ? 0 : size, entry, target));
  return concat(parts);
}

/** An archive of a sandbox as a tar file. */
export function archiveToTar(archive: SandboxArchive): Uint8Array {
  const none = new Uint8Array(0);
  const parts: Uint8Array[] = [];
  for (const entry of readArchive(archive)) {
    const size = entry.kind === Kind.file ? entry.content.length : 0;
    parts.push(tarHead(entry, size, entry.kind === Kind.link ? entry.content : none));
    if (size > 0) parts.push(...padded(entry.content));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return concat(parts);
}

/** A text of a header, up to its NUL. */
export function field(block: Uint8Array, at: number, length: number): Uint8Array {
  const bytes = block.subarray(at, at + length);
  const end = bytes.indexOf(0);
  return end < 0 ? bytes : bytes.subarray(0, end);
}

/** A number of a header: octal digits, or, with the first bit set, binary. */
export function number(block: Uint8Array, at: number, length: number): number {
  if ((block[at] ?? 0) & 0x80) return block.subarray(at + 1, at + length).reduce((sum, byte) => sum * 256 + byte, 0);
  const text = decoder.decode(field(block, at, length)).trim();
  const value = text === "" ? 0 : /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : Number.NaN;
  if (Number.isSafeInteger(value)) return value;
  throw new AleError("usage", "the tar file has a number that is not right", { hint: "make it with tar --format=pax" });
}

function encodeEntry(entry: Entry): Uint8Array[] {
  const head = new Uint8Array(ENTRY_BYTES);
  const view = new DataView(head.buffer);
  view.setUint8(0, entry.kind);
  view.setUint32(4, entry.mode & 0o7777, true);
  view.setUint32(8, entry.uid, true);
  view.setUint32(12, entry.gid, true);
  view.setBigInt64(16, BigInt(entry.modified) * 1_000_000_000n, true);
  view.setUint32(24, entry.path.length, true);
  view.setBigUint64(32, BigInt(entry.content.length), true);
  return [head, entry.path, entry.content];
}

/** What the records before an entry say about it. */
interface Said {
  path?: Uint8Array;
  linkpath?: Uint8Array;
}

function readRecords(content: Uint8Array, said: Said): void {
  for (let at = 0; at < content.length; ) {
    const blank = content.indexOf(0x20, at);
    const length = Number(decoder.decode(content.subarray(at, blank)));
    const equals = content.indexOf(0x3d, blank);
    if (!(length > 0) || blank < 0 || equals < 0 || at + length > content.length)
      throw new AleError("usage", "the tar file has a pax record that is not right");
    const key = decoder.decode(content.subarray(blank + 1, equals));
    if (key === "path" || key === "linkpath") said[key] = content.subarray(equals + 1, at + length - 1);
    at += length;
  }
}

/** Path without `./` before it and `/` behind it. */
function tidy(path: Uint8Array): Uint8Array {
  return encoder.encode(
    decoder
      .decode(path)
      .replace(/^(\.\/+)+/, "")
      .replace(/\/+$/, ""),
  );
}

/** The name in a header, prefix included. */
export function nameOf(block: Uint8Array): Uint8Array {
  const isUstar = decoder.decode(field(block, 257, 6)).startsWith("ustar");
  const prefix = isUstar ? field(block, 345, 155) : new Uint8Array(0);
  return prefix.length === 0 ? field(block, 0, 100) : concat([prefix, encoder.encode("/"), field(block, 0, 100)]);
}

/**
 * A tar file as an archive for a sandbox. Devices, fifos and hard links are left out.
 * @throws AleError("usage") when it is no tar file, or one that is cut off.
 */
export function tarToArchive(tar: Uint8Array): SandboxArchive {
  if (tar.length < BLOCK) throw notTar();
  const parts: Uint8Array[] = [];
  let said: Said = {};
  for (let at = 0; at + BLOCK <= tar.length; ) {
    const block = tar.subarray(at, at + BLOCK);
    if (block.every((byte) => byte === 0)) break;
    checkSum(block);
    const size = number(block, 124, 12);
    const content = tar.subarray(at + BLOCK, at + BLOCK + size);
    if (content.length < size) throw new AleError("usage", "the tar file is cut off");
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
    const flag = String.fromCharCode(block[156] ?? 0);
    if (flag === "x") readRecords(content, said);
    else if (flag === "L") said.path = field(content, 0, content.length);
    else if (flag === "K") said.linkpath = field(content, 0, content.length);
    else {
      parts.push(...toEntry(block, flag, content, said));
      said = {};
    }
  }
  return concat([...parts, new Uint8Array(ENTRY_BYTES)]);
}

/** An entry of a tar file, in plain words. */
export interface TarEntry {
  readonly kind: "file" | "folder" | "link";
  readonly path: string;
  readonly mode: number;
  readonly content: Uint8Array;
}

const KIND_NAMES = { [Kind.file]: "file", [Kind.folder]: "folder", [Kind.link]: "link" } as const;

/** What a tar file holds. Paths are as they are written there: whoever unpacks it has to look at them. */
export function* readTar(tar: Uint8Array): Generator<TarEntry> {
  for (const { kind, path, mode, content } of readArchive(tarToArchive(tar))) {
    const name = KIND_NAMES[kind as keyof typeof KIND_NAMES];
    yield { kind: name, path: decoder.decode(path), mode, content };
  }
}

function toEntry(block: Uint8Array, flag: string, content: Uint8Array, said: Said): Uint8Array[] {
  const kind =
    flag === "0" || flag === "\0" ? Kind.file : flag === "5" ? Kind.folder : flag === "2" ? Kind.link : undefined;
  const path = tidy(said.path ?? nameOf(block));
  if (kind === undefined || path.length === 0 || decoder.decode(path) === ".") return [];
  return encodeEntry({
    kind,
    path,
    mode: number(block, 100, 8),
    uid: number(block, 108, 8),
    gid: number(block, 116, 8),
    modified: number(block, 136, 12),
    content:
      kind === Kind.link ? (said.linkpath ?? field(block, 157, 100)) : kind === Kind.file ? content : new Uint8Array(0),
  });
}

/** @throws AleError("usage") when the block is no header. */
export function checkSum(block: Uint8Array): void {
  const sum = block.reduce((total, byte, index) => total + (index >= 148 && index < 156 ? 32 : byte), 0);
  if (Number.parseInt(decoder.decode(field(block, 148, 8)), 8) !== sum) throw notTar();
}

function notTar(): AleError {
  return new AleError("usage", "that is no tar file", { hint: "compressed ones have to be unpacked first: gzip -d" });
}

/** The archive without the entries that `keep` refuses, by their paths. */
export function filterArchive(archive: SandboxArchive, keep: (path: string) => boolean): SandboxArchive {
  const parts: Uint8Array[] = [];
  for (const entry of readArchive(archive)) if (keep(decoder.decode(entry.path))) parts.push(...encodeEntry(entry));
  return concat([...parts, new Uint8Array(ENTRY_BYTES)]);
}

/** A tar file of `entries`, owned by root; a link's content is where it leads. */
export function writeTar(entries: Iterable<TarEntry>): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  for (const { kind, path, mode, content } of entries) {
    const entry = { kind: Kind[kind], path: encoder.encode(path), mode, uid: 0, gid: 0, modified: 0, content };
    parts.push(...encodeEntry(entry));
  }
  return new Uint8Array(archiveToTar(concat([...parts, new Uint8Array(ENTRY_BYTES)])));
}
