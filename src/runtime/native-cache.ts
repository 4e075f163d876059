/**
 * Native files on disk. The executable carries libraries and the sandbox launcher; the kernel can only map and execute
 * files, so each is written once to a cache, under the hash of its content, and checked at every start.
 *
 * A file is trusted when size, modification time, change time and inode are those noted when its hash was last computed:
 * the change time cannot be set by a program, so whoever alters the file alters the note's truth. Anything else is hashed,
 * and replaced when the hash is wrong.
 */

import {
  accessSync,
  type BigIntStats,
  chmodSync,
  constants,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { AleError } from "../core/errors.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** An embedded native file: what it must be, and how to get it. */
export interface NativeFile {
  readonly name: string;
  readonly size: number;
  /** SHA-256 of the content, hexadecimal. */
  readonly sha256: string;
  readonly read: () => Uint8Array;
}

/** Folders to try, best first: `ALE_CACHE_DIR`, `XDG_CACHE_HOME/ale`, `HOME/.cache/ale`, `<tmp>/ale-<uid>`. */
export function cacheBases(env: Environment = process.env): string[] {
  const bases = [
    env.ALE_CACHE_DIR,
    env.XDG_CACHE_HOME && join(env.XDG_CACHE_HOME, "ale"),
    env.HOME && join(env.HOME, ".cache", "ale"),
    join(tmpdir(), `ale-${process.getuid?.() ?? "user"}`, "cache"),
  ];
  return [...new Set(bases.filter((base) => base !== undefined && base !== "").map((base) => resolve(base as string)))];
}

/** Where `file` lies below a cache folder. */
export function cachedPath(base: string, file: NativeFile): string {
  return join(base, "natives", file.sha256.slice(0, 16), file.name);
}

/**
 * The path of a verified copy of `file` below `base` that may be mapped and executed; writes it when it is missing or was
 * altered. Safe against other processes doing the same at once.
 * @throws whatever makes `base` unfit: not writable, another user's, mounted noexec.
 */
export function cacheNative(base: string, file: NativeFile): string {
  const path = cachedPath(base, file);
  mkdirSync(base, { recursive: true, mode: 0o700 });
  refuseForeign(base);
  makePrivate(dirname(dirname(path)));
  makePrivate(dirname(path));
  if (!isIntact(path, file)) {
    replaceFile(path, file.read(), 0o700);
    noteVerified(path, file);
  }
  // Fails with EACCES on a noexec mount, for root too; mapping or executing the file would fail later and less clearly.
  accessSync(path, constants.R_OK | constants.X_OK);
  return path;
}

/** Another user who could exchange the folders below `base` could make this process load code of theirs. */
function refuseForeign(base: string): void {
  const { uid, mode } = statSync(base);
  const sticky = (mode & 0o1000) !== 0;
  if ((uid !== process.getuid?.() && uid !== 0) || ((mode & 0o002) !== 0 && !sticky)) {
    throw new AleError("engine", `other users may change ${base}`, {
      hint: "set ALE_CACHE_DIR to a folder of your own",
    });
  }
}

function makePrivate(folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { uid, mode } = lstatSync(folder);
  if (uid !== process.getuid?.()) {
    throw new AleError("engine", `${folder} belongs to user ${uid}`, {
      hint: "set ALE_CACHE_DIR to a folder of your own",
    });
  }
  if ((mode & 0o077) !== 0) chmodSync(folder, 0o700);
}

function isIntact(path: string, file: NativeFile): boolean {
  const status = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  if (status === undefined || !status.isFile() || status.size !== BigInt(file.size)) return false;
  if (status.uid !== BigInt(process.getuid?.() ?? 0) || (status.mode & 0o722n) !== 0o700n) return false;
  if (readNote(path) === describe(status, file)) return true;
  if (new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex") !== file.sha256) return false;
  noteVerified(path, file);
  return true;
}

function notePath(path: string): string {
  return `${path}.verified`;
}

function readNote(path: string): string | undefined {
  try {
    return readFileSync(notePath(path), "utf8");
  } catch {
    return undefined; // No note yet: the file is hashed.
  }
}

function noteVerified(path: string, file: NativeFile): void {
  try {
    replaceFile(notePath(path), describe(lstatSync(path, { bigint: true }), file), 0o600);
  } catch {
    // A cache filled by the operator and then made read-only works too; it is hashed at every start.
  }
}

function describe(status: BigIntStats, file: NativeFile): string {
  return [file.sha256, status.size, status.mtimeNs, status.ctimeNs, status.ino].join(" ");
}

/** Writes beside `path` and renames: nobody ever sees half a file, and a copy in use stays mapped. */
function replaceFile(path: string, content: Uint8Array | string, mode: number): void {
  const temporary = `${path}.${process.pid}.${crypto.randomUUID().slice(0, 8)}`;
  try {
    writeFileSync(temporary, content, { mode, flag: "wx" });
    chmodSync(temporary, mode); // The umask may have taken bits away.
    if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory()) rmSync(path, { recursive: true });
    renameSync(temporary, path);
  } finally {
    rmSync(temporary, { force: true });
  }
}
