/** Payloads of the requests beyond those that an episode needs (`protocol.ts`): programs, terminals, files, statistics. */

import { AleError } from "../core/errors.ts";
import type { LimitEvents } from "../core/ports.ts";
import { clampU32, concat, encodeText } from "./protocol.ts";

/** As `launch_flags` in `launcher/init.h`. */
const Launch = { separate: 1, input: 2, console: 4 } as const;
const HEAD_BYTES = 32;
const NUL = new Uint8Array(1);

/** A program to start, or the shell or terminal it is to be. */
export interface LaunchRequest {
  /** Time limit, shell or rows; output cap or columns. */
  readonly first: number;
  readonly second: number;
  readonly cwd: string;
  /** Name or number; omitted: root. */
  readonly user?: string | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly argv: readonly string[];
  /** Errors apart from the output. */
  readonly separate?: boolean;
  /** Sent to standard input, which then ends; omitted: /dev/null. */
  readonly input?: Uint8Array | undefined;
  readonly console?: boolean;
  /** File in the sandbox that gets the whole output, up to `maxBytes`. */
  readonly log?: { readonly path: string; readonly maxBytes: number } | undefined;
}

/** @throws AleError("sandbox") for names and texts that cannot be passed. */
export function encodeLaunch(request: LaunchRequest): Uint8Array {
  const { first, second, cwd, user, env, argv, separate, input, console, log } = request;
  const variables = Object.entries(env ?? {}).map(([name, value]) => {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
      throw new AleError("sandbox", `${JSON.stringify(name)} is no name of an environment variable`, {
        hint: "letters, digits and _ only, and no digit first",
      });
    return `${name}=${value}`;
  });
  const strings = [cwd, user ?? "", log?.path ?? "", ...variables, ...argv];
  const head = new Uint8Array(HEAD_BYTES);
  const view = new DataView(head.buffer);
  view.setUint32(0, first, true);
  view.setUint32(4, second, true);
  const flags = (separate ? Launch.separate : 0) | (input ? Launch.input : 0) | (console ? Launch.console : 0);
  view.setUint32(8, flags, true);
  view.setUint32(12, variables.length, true);
  view.setUint32(16, input?.length ?? 0, true);
  view.setBigUint64(24, BigInt(log?.maxBytes ?? 0), true);
  const text = strings.flatMap((part) => [encodeText("an argument", part), NUL]);
  return concat([head, ...text, input ?? new Uint8Array(0)]);
}

/** A number, then bytes: the payloads of a shell's and a terminal's requests. */
export function encodeNumbered(number: number, ...rest: readonly Uint8Array[]): Uint8Array {
  const head = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, number, true);
  return concat([head, ...rest]);
}

export function encodeTerminalRead(terminal: number, waitMs: number): Uint8Array {
  return encodeNumbered(terminal, encodeNumbered(clampU32(waitMs)));
}

export function encodeTerminalSize(terminal: number, rows: number, columns: number): Uint8Array {
  const size = new Uint8Array(4);
  new DataView(size.buffer).setUint16(0, rows, true);
  new DataView(size.buffer).setUint16(2, columns, true);
  return encodeNumbered(terminal, size);
}

/** What a terminal showed since it was last read. */
export interface TerminalOutput {
  readonly output: Uint8Array;
  /** The program ended, and nothing more comes. */
  readonly ended: boolean;
  readonly exitCode: number | null;
}

export function decodeTerminalOutput(payload: Uint8Array): TerminalOutput {
  const ended = payload[0] !== 0;
  const code = new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getInt32(4, true);
  return { output: payload.subarray(8), ended, exitCode: ended ? code : null };
}

/** As `file_flags` in `launcher/init.h`. */
const FileFlag = { follow: 1, partial: 2, lines: 4, parents: 8, truncate: 16 } as const;

export interface ReadRequest {
  readonly path: string;
  readonly maxBytes: number;
  /** Links lead as far as the sandbox's own root; omitted: a path with links is refused. */
  readonly follow?: boolean;
  /** Cut at `maxBytes`, where more is an error otherwise. */
  readonly partial?: boolean;
  /** First byte. */
  readonly offset?: number | undefined;
  /** First line, from 1, and how many; without `count` to the end. */
  readonly lines?: { readonly first: number; readonly count?: number | undefined } | undefined;
}

/** Payload of a read. */
export function encodeRead({ path, maxBytes, follow, partial, offset, lines }: ReadRequest): Uint8Array {
  const head = new Uint8Array(32);
  const view = new DataView(head.buffer);
  view.setBigUint64(0, BigInt(Math.max(0, Math.floor(maxBytes))), true);
  view.setBigUint64(8, BigInt(lines?.first ?? offset ?? 0), true);
  view.setBigUint64(16, BigInt(lines?.count ?? 0), true);
  const flags = (follow ? FileFlag.follow : 0) | (partial ? FileFlag.partial : 0) | (lines ? FileFlag.lines : 0);
  view.setUint32(24, flags, true);
  return concat([head, encodeText("the path", path)]);
}

/** Size of the whole file, and what was asked for. */
export function decodeRead(payload: Uint8Array): { readonly size: number; readonly content: Uint8Array } {
  const size = Number(new DataView(payload.buffer, payload.byteOffset, 8).getBigUint64(0, true));
  return { size, content: payload.subarray(8) };
}

export interface WriteRequest {
  readonly path: string;
  readonly content: Uint8Array;
  readonly offset: number;
  /** Whether what follows the content goes. */
  readonly truncate: boolean;
  readonly mode?: number | undefined;
}

/** Payload of a write, through links, with the folders above it made. */
export function encodeWrite({ path, content, offset, truncate, mode }: WriteRequest): Uint8Array {
  const name = encodeText("the path", path);
  const head = new Uint8Array(24);
  const view = new DataView(head.buffer);
  view.setBigUint64(0, BigInt(offset), true);
  view.setUint32(8, mode ?? 0xffffffff, true);
  view.setUint32(12, FileFlag.follow | FileFlag.parents | (truncate ? FileFlag.truncate : 0), true);
  view.setUint32(16, name.length, true);
  return concat([head, name, content]);
}

export function encodeStat(path: string, follow: boolean): Uint8Array {
  return encodeNumbered(follow ? FileFlag.follow : 0, encodeText("the path", path));
}

export interface FileAttributes {
  readonly kind: "file" | "folder" | "link" | "other";
  /** Permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  /** Milliseconds since 1970. */
  readonly modifiedMs: number;
}

const KINDS: Readonly<Record<string, FileAttributes["kind"]>> = { f: "file", d: "folder", l: "link" };

export function decodeStat(payload: Uint8Array): FileAttributes {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  return {
    kind: KINDS[String.fromCharCode(view.getUint32(0, true))] ?? "other",
    mode: view.getUint32(4, true),
    uid: view.getUint32(8, true),
    gid: view.getUint32(12, true),
    size: Number(view.getBigUint64(16, true)),
    modifiedMs: Number(view.getBigInt64(24, true)) / 1e6,
  };
}

export interface ChangeRequest {
  readonly path: string;
  readonly mode?: number | undefined;
  /** `user`, `user:group` or `:group`, by name or number. */
  readonly owner?: string | undefined;
  readonly recursive?: boolean | undefined;
}

export function encodeChange({ path, mode, owner, recursive }: ChangeRequest): Uint8Array {
  const head = new Uint8Array(8);
  const view = new DataView(head.buffer);
  view.setUint32(0, (mode === undefined ? 0 : 1) | (owner === undefined ? 0 : 2) | (recursive ? 4 : 0), true);
  view.setUint32(4, mode ?? 0, true);
  return concat([head, encodeText("the owner", owner ?? ""), NUL, encodeText("the path", path)]);
}

/** What a sandbox has used; `null` where this machine does not tell. */
export interface SandboxStatistics {
  readonly cpuSeconds: number | null;
  /** Files count as memory, which they lie in. */
  readonly memoryBytes: number | null;
  readonly memoryPeakBytes: number | null;
  readonly memoryKills: number | null;
  readonly processes: number | null;
  readonly diskBytes: number | null;
  readonly diskLimitBytes: number | null;
  readonly inodes: number | null;
  readonly inodeLimit: number | null;
}

export function decodeStatistics(payload: Uint8Array): SandboxStatistics {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const at = (index: number): number | null => {
    const value = view.getBigUint64(index * 8, true);
    return value === 0xffffffffffffffffn ? null : Number(value);
  };
  const cpuUs = at(0);
  return {
    cpuSeconds: cpuUs === null ? null : cpuUs / 1e6,
    memoryBytes: at(1),
    memoryPeakBytes: at(2),
    memoryKills: at(3),
    processes: at(4),
    diskBytes: at(5),
    diskLimitBytes: at(6),
    inodes: at(7),
    inodeLimit: at(8),
  };
}

/** How often a limit was met since the sandbox began. */
export function decodeLimits(payload: Uint8Array): LimitEvents {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  return { memory: view.getUint32(0, true), pids: view.getUint32(4, true), disk: view.getUint32(8, true) };
}
