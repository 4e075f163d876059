/** Where Ale keeps things: its home, the store, run directories. */

import { accessSync, chmodSync, constants, lstatSync, mkdirSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** `ALE_HOME`, else `XDG_DATA_HOME/ale`, else `HOME/.local/share/ale`, else a folder of this user in the temporary one. */
export function aleHome(env: Environment = process.env): string {
  if (env.ALE_HOME) return resolve(env.ALE_HOME);
  if (env.XDG_DATA_HOME) return resolve(env.XDG_DATA_HOME, "ale");
  if (env.HOME) return resolve(env.HOME, ".local", "share", "ale");
  return temporaryHome();
}

/** Where sandboxes are recorded while they live, so that a later command finds what a killed one left. */
export function sandboxStateDir(env: Environment = process.env): string {
  return join(aleHome(env), "sandboxes");
}

function temporaryHome(): string {
  return join(tmpdir(), `ale-${process.getuid?.() ?? "user"}`);
}

/** Where a run says how its service is reached while it lasts. */
export function runServiceFile(runDir: string): string {
  return join(runDir, "state", "service.json");
}

/** The store of this user; many runs share it. */
export function defaultStorePath(env: Environment = process.env): string {
  return join(aleHome(env), "ale.db");
}

/** `runs/<name>-<yyyymmdd-hhmmss>` below `cwd`, with `-2`, `-3` … where that exists already. */
export function defaultRunDir(name: string, now: Date, cwd: string = process.cwd()): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const date = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`;
  const time = `${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
  const base = join(cwd, "runs", `${name}-${date}-${time}`);
  let candidate = base;
  for (let suffix = 2; lstatSync(candidate, { throwIfNoEntry: false }) !== undefined; suffix++) {
    candidate = `${base}-${suffix}`;
  }
  return candidate;
}

/**
 * Makes an empty run directory and returns its absolute path. Nothing that is there is ever overwritten.
 * @throws AleError("usage") when it holds something, is no folder, or cannot be written.
 */
export function prepareRunDir(path: string): string {
  return prepareEmptyFolder(path, `the run directory ${path}`, `continue that run with: ale resume ${path}   or `);
}

/**
 * Makes an empty folder and returns its absolute path. `ifRun` begins the advice where the folder holds a run.
 * @throws AleError("usage") as `prepareRunDir`.
 */
export function prepareEmptyFolder(path: string, what = `the folder ${path}`, ifRun = ""): string {
  const folder = resolve(path);
  const holds = listFolder(folder, path);
  if (holds.length > 0) {
    const isRun = ["config.toml", "metrics.jsonl", "recipe.json"].some((file) => holds.includes(file));
    const shown = `${holds.slice(0, 3).join(", ")}${holds.length > 3 ? ", …" : ""}`;
    throw new AleError("usage", `${path} is not empty (${shown})`, {
      hint: `${isRun ? ifRun : ""}give another folder: --out ${nextName(path)}`,
    });
  }
  return ensureFolder(folder, what, "give a folder you may write to: --out DIR");
}

/**
 * The absolute path of the store's file.
 * @throws AleError("store") when a folder is there, or the way there leads through a file or a closed folder.
 */
export function storeFile(path: string): string {
  const file = resolve(path);
  if (statusOf(file)?.isDirectory()) {
    throw new AleError("store", `${path} is a folder, not a database file`, {
      hint: `--store ${join(path, "ale.db")}`,
    });
  }
  return file;
}

/**
 * Makes the folder that holds the store and returns the store's absolute path.
 * @throws AleError("store") when the folder cannot be made or written.
 */
export function prepareStorePath(path: string): string {
  const home = dirname(resolve(path));
  const hint = "give another place with --store FILE, or set ALE_HOME to a folder you may write to";
  ensureFolder(home, `the folder of the store, ${home},`, hint, "store");
  if (home === temporaryHome()) takeOver(home);
  return storeFile(path);
}

function statusOf(file: string) {
  try {
    return lstatSync(file, { throwIfNoEntry: false });
  } catch (cause) {
    throw new AleError("store", `the store ${file} cannot be reached: ${errorMessage(cause)}`, {
      hint: "give another place with --store FILE, or set ALE_HOME to a folder you may write to",
      cause,
    });
  }
}

function listFolder(folder: string, shown: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    if (code === "ENOENT") return [];
    if (code === "ENOTDIR") {
      throw new AleError("usage", `${shown} is a file, not a folder`, {
        hint: "give another folder: --out DIR",
        cause,
      });
    }
    throw new AleError("usage", `cannot look into ${shown}: ${errorMessage(cause)}`, {
      hint: "give a folder you may write to: --out DIR",
      cause,
    });
  }
}

function ensureFolder(folder: string, what: string, hint: string, code: "usage" | "store" = "usage"): string {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK | constants.X_OK);
    return folder;
  } catch (cause) {
    throw new AleError(code, `${what} cannot be written: ${errorMessage(cause)}`, { hint, cause });
  }
}

/** The fallback home lies in a folder that all users share: another user could have made it first. */
function takeOver(folder: string): void {
  const status = lstatSync(folder);
  if (status.isSymbolicLink() || status.uid !== process.getuid?.()) {
    throw new AleError("store", `${folder} belongs to another user`, { hint: "set ALE_HOME to a folder of your own" });
  }
  chmodSync(folder, 0o700);
}

function nextName(path: string): string {
  const plain = path.replace(/\/+$/, "");
  const [, stem, number] = /^(.*?)-(\d{1,4})$/.exec(plain) ?? [];
  return stem === undefined ? `${plain}-2` : `${stem}-${Number(number) + 1}`;
}
