/**
 * Frames between the control process and the launcher, and the archive format for folders.
 *
 * Frame: u32 payload length, u8 operation, u8 flags, u16 0, u32 request, u32 sandbox, payload; little endian.
 */

import { AleError } from "../core/errors.ts";
import type { SandboxFile } from "../core/types.ts";

/** Operations; the same numbers as in `launcher/launcher.h`. */
export const Op = {
  hello: 1,
  base: 2,
  create: 3,
  destroy: 4,
  limits: 5,
  freeze: 6,
  drop: 7,
  ping: 8,
  stored: 12,
  run: 16,
  exec: 17,
  cancel: 18,
  read: 19,
  killAll: 20,
  export: 21,
  import: 22,
  shellOpen: 23,
  shellClose: 24,
  interrupt: 25,
  terminalOpen: 26,
  terminalRead: 27,
  terminalWrite: 28,
  terminalResize: 29,
  terminalClose: 30,
  pause: 31,
  resume: 32,
  statistics: 33,
  write: 34,
  stat: 35,
  change: 36,
  listen: 48,
  forward: 49,
  unlisten: 50,
  variables: 52,
  observe: 60,
  written: 61,
  copy: 70,
  pack: 71,
  reply: 64,
  gone: 65,
} as const;
export type OpCode = (typeof Op)[keyof typeof Op];

export const Flag = { more: 1, error: 2, missing: 4 } as const;

const HEADER_BYTES = 16;
const MAX_FRAME_BYTES = 1 << 20;
/** Payload bytes per frame of a message that is sent in several. */
const CHUNK_BYTES = 256 << 10;

export interface Frame {
  readonly op: number;
  readonly flags: number;
  readonly request: number;
  readonly sandbox: number;
  readonly payload: Uint8Array;
}

/** One message as frames in one buffer. */
export function encodeMessage(op: OpCode, request: number, sandbox: number, payload: Uint8Array): Uint8Array {
  const frames = Math.max(1, Math.ceil(payload.length / CHUNK_BYTES));
  const bytes = new Uint8Array(frames * HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  for (let index = 0, at = 0; index < frames; index++) {
    const part = payload.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES);
    view.setUint32(at, part.length, true);
    view.setUint8(at + 4, op);
    view.setUint8(at + 5, index + 1 < frames ? Flag.more : 0);
    view.setUint32(at + 8, request, true);
    view.setUint32(at + 12, sandbox, true);
    bytes.set(part, at + HEADER_BYTES);
    at += HEADER_BYTES + part.length;
  }
  return bytes;
}

/** Cuts a byte stream into frames. */
export class FrameReader {
  #pending: Uint8Array = new Uint8Array(0);

  /** Frames completed by `chunk`. Payloads are copies and may be kept. */
  push(chunk: Uint8Array): Frame[] {
    const bytes = this.#pending.length === 0 ? chunk : concat([this.#pending, chunk]);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const frames: Frame[] = [];
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const length = view.getUint32(at, true);
      if (length > MAX_FRAME_BYTES) throw new AleError("sandbox", `the launcher sent a frame of ${length} bytes`);
      if (bytes.length - at < HEADER_BYTES + length) break;
      frames.push({
        op: view.getUint8(at + 4),
        flags: view.getUint8(at + 5),
        request: view.getUint32(at + 8, true),
        sandbox: view.getUint32(at + 12, true),
        payload: bytes.slice(at + HEADER_BYTES, at + HEADER_BYTES + length),
      });
      at += HEADER_BYTES + length;
    }
    this.#pending = bytes.slice(at);
    return frames;
  }
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1 && parts[0] !== undefined) return parts[0];
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const encoder = new TextEncoder();

/** A string for the launcher, whose strings end at the first NUL. */
export function encodeText(what: string, text: string): Uint8Array {
  if (text.includes("\0")) throw new AleError("sandbox", `${what} contains a NUL character`);
  return encoder.encode(text);
}

/** Settings as the launcher reads them: `key=value`, each ended by NUL. */
export function encodeSettings(settings: readonly (readonly [key: string, value: string | number])[]): Uint8Array {
  return concat(settings.map(([key, value]) => encoder.encode(`${checkSetting(key, String(value))}\0`)));
}

function checkSetting(key: string, value: string): string {
  if (value.includes("\0")) throw new AleError("sandbox", `setting ${key} contains a NUL character`);
  return `${key}=${value}`;
}

const ENTRY_BYTES = 40;
const ENTRY_END = 0;
const ENTRY_FILE = 1;

function encodeEntry(type: number, mode: number, path: Uint8Array, size: number): Uint8Array {
  const bytes = new Uint8Array(ENTRY_BYTES + path.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, type);
  view.setUint32(4, mode, true);
  view.setBigInt64(16, -1n, true); // modification time: now
  view.setUint32(24, path.length, true);
  view.setBigUint64(32, BigInt(size), true);
  bytes.set(path, ENTRY_BYTES);
  return bytes;
}

/** Files as an archive. Paths are checked by the receiver, which never leaves the target folder. */
export function encodeFiles(files: readonly SandboxFile[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const file of files) {
    const path = encodeText("a file name", file.path);
    parts.push(encodeEntry(ENTRY_FILE, file.mode, path, file.content.length), file.content);
  }
  parts.push(encodeEntry(ENTRY_END, 0, new Uint8Array(0), 0));
  return concat(parts);
}

/** Payload of an import. With `replace`, whatever lies at `folder` is removed first. */
export function encodeImport(folder: string, archive: Uint8Array, replace: boolean): Uint8Array {
  const path = encodeText("the folder", folder);
  const head = new Uint8Array(4 + path.length);
  new DataView(head.buffer).setUint16(2, path.length, true);
  head[0] = replace ? 1 : 0;
  head.set(path, 4);
  return concat([head, archive]);
}

/** A command for a shell; `shell` 0 is the one every sandbox has. */
export interface ShellCommand {
  readonly timeoutMs: number;
  readonly maxOutputBytes: number;
  readonly text: Uint8Array;
  readonly shell?: number;
  /** Runs on the shell's console, where it can be written to. */
  readonly interactive?: boolean;
}

/** Payload of a run. */
export function encodeCommand({ timeoutMs, maxOutputBytes, text, shell, interactive }: ShellCommand): Uint8Array {
  const bytes = new Uint8Array(12 + text.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, clampU32(timeoutMs), true);
  view.setUint32(4, clampU32(maxOutputBytes), true);
  view.setUint16(8, shell ?? 0, true);
  view.setUint16(10, interactive ? 1 : 0, true);
  bytes.set(text, 12);
  return bytes;
}

/** Whole and from 1 to the largest number of 32 bits, which stands for no limit. */
export function clampU32(value: number): number {
  return Math.min(0xffffffff, Math.max(1, Math.ceil(value)));
}

/** Payload of an export: most bytes, then the path. */
export function encodePath(maxBytes: number, path: string): Uint8Array {
  const text = encodeText("the path", path);
  const bytes = new Uint8Array(8 + text.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(Math.max(0, Math.floor(maxBytes))), true);
  bytes.set(text, 8);
  return bytes;
}

/** What the launcher tells about a finished command. */
export interface RawResult {
  readonly status: "exited" | "timeout" | "output_limit" | "shell_died";
  readonly truncated: boolean;
  readonly restarted: boolean;
  readonly code: number;
  readonly outputBytes: number;
  readonly ms: number;
  /** What was written to standard output, or, where they are not separate, to both. */
  readonly output: Uint8Array;
  readonly errorOutput: Uint8Array;
  readonly errorOutputBytes: number;
}

const STATUSES = ["exited", "timeout", "output_limit", "shell_died"] as const;
const RESULT_BYTES = 40;

export function decodeResult(payload: Uint8Array): RawResult {
  if (payload.length < RESULT_BYTES) throw new AleError("sandbox", "the launcher sent a short result");
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const status = STATUSES[view.getUint8(0)];
  if (status === undefined) throw new AleError("sandbox", "the launcher sent an unknown status");
  return {
    status,
    truncated: view.getUint8(1) !== 0,
    restarted: view.getUint8(2) !== 0,
    code: view.getInt32(4, true),
    outputBytes: Number(view.getBigUint64(8, true)),
    ms: Number(view.getBigUint64(16, true)) / 1000,
    errorOutputBytes: Number(view.getBigUint64(24, true)),
    output: payload.subarray(RESULT_BYTES, RESULT_BYTES + view.getUint32(32, true)),
    errorOutput: payload.subarray(RESULT_BYTES + view.getUint32(32, true)),
  };
}
