/**
 * Where task files come from: a folder on disk, or the files that were embedded into the executable.
 */

import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";

export interface TaskSourceFile {
  readonly content: Uint8Array;
  /** Whether the file's executable bit is set; embedded files have none. */
  readonly executable: boolean;
}

/** A tree of files. Paths are relative, with `/`, sorted. */
export interface TaskSource {
  /** How messages name the tree, e.g. `tasks/shell`. */
  readonly name: string;
  /** Names of the folders directly below `folder` (`""` is the root). */
  folders(folder: string): readonly string[];
  /** All files below `folder`, as paths relative to it. */
  files(folder: string): readonly string[];
  read(path: string): TaskSourceFile | undefined;
}

/** Largest file of a task folder. */
const MAX_FILE_BYTES = 64 << 20;

/** Files by path; content may be read when it is asked for. */
export type FileMap = ReadonlyMap<string, Uint8Array | (() => Uint8Array)>;

let embedded: FileMap = new Map();

/** Registers the task suites of the executable: path (`tasks/shell/cfg/task.toml`) to content. */
export function setEmbeddedTasks(files: FileMap): void {
  embedded = files;
}

/** Suites that come with the executable, e.g. `tasks/shell`. */
export function embeddedSuites(): readonly string[] {
  return [...new Set([...embedded.keys()].map((path) => path.split("/").slice(0, 2).join("/")))].sort();
}

/**
 * The tree at `path`: the folder on disk when there is one, otherwise the embedded suite of that name (`tasks/shell` or
 * `shell`).
 *
 * @throws `AleError("task")` when there is neither
 */
export function openTaskSource(path: string): TaskSource {
  const folder = resolve(path);
  const stat = readable(path, () => statSync(folder, { throwIfNoEntry: false }));
  if (stat?.isDirectory()) return diskSource(folder, path);
  if (stat !== undefined) {
    throw new AleError("task", `${path} is a file; a task or a suite is a folder`, {
      hint: "name the folder that holds task.toml, or the folder above it",
    });
  }
  const plain = path.replace(/^\.\//, "").replace(/\/+$/, "");
  for (const name of [plain, `tasks/${plain}`]) {
    const source = memorySource(embedded, name);
    if (source.files("").length > 0) return source;
  }
  const known = embeddedSuites();
  throw new AleError("task", `there is no task folder ${path}`, {
    hint: known.length === 0 ? "run `ale tasks ls` for the suites there are" : `included suites: ${known.join(", ")}`,
  });
}

/** A folder on disk. Symlinks and special files are refused: a task folder from elsewhere must not reach out of itself. */
export function diskSource(folder: string, name = basename(folder)): TaskSource {
  const list = (path: string): { name: string; kind: "file" | "folder" }[] =>
    readable(join(name, path), () => readdirSync(join(folder, path), { withFileTypes: true }))
      .filter((entry) => !entry.name.startsWith(".git"))
      .map((entry) => {
        const kind = entry.isFile() ? "file" : entry.isDirectory() ? "folder" : undefined;
        if (kind === undefined) {
          throw new AleError("task", `${join(name, path, entry.name)} is neither a file nor a folder`, {
            hint: "task folders may not hold links, sockets or devices",
          });
        }
        return { name: entry.name, kind } as const;
      })
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  const walk = (path: string): string[] =>
    list(path).flatMap((entry) => {
      const child = path === "" ? entry.name : `${path}/${entry.name}`;
      return entry.kind === "file" ? [child] : walk(child);
    });
  const status = (path: string) =>
    readable(`${name}/${path}`, () => statSync(join(folder, path), { throwIfNoEntry: false }));
  const exists = (path: string) => status(path)?.isDirectory() ?? false;
  return {
    name: name.replace(/\/+$/, ""),
    folders: (path) =>
      exists(path)
        ? list(path)
            .filter((entry) => entry.kind === "folder")
            .map((entry) => entry.name)
        : [],
    files: (path) =>
      exists(path)
        ? walk(path)
            .map((file) => (path === "" ? file : file.slice(path.length + 1)))
            .sort()
        : [],
    read: (path) => {
      const stat = status(path);
      if (stat === undefined || !stat.isFile()) return undefined;
      if (stat.size > MAX_FILE_BYTES) {
        throw new AleError("task", `${name}/${path} has ${stat.size} bytes; at most ${MAX_FILE_BYTES} are allowed`);
      }
      const content = readable(`${name}/${path}`, () => new Uint8Array(readFileSync(join(folder, path))));
      return { content, executable: (stat.mode & 0o111) !== 0 };
    },
  };
}

/** Permissions of somebody else's folder are nothing that Ale could have done better. */
function readable<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new AleError("task", `${path} cannot be read: ${errorMessage(cause)}`, {
      hint: "check its permissions",
      cause,
    });
  }
}

/** The part of a path-to-content map below `root`. */
export function memorySource(files: FileMap, root: string): TaskSource {
  const below = (folder: string) => {
    const prefix = [root, folder].filter((part) => part !== "").join("/");
    const start = prefix === "" ? "" : `${prefix}/`;
    return [...files.keys()]
      .filter((path) => path.startsWith(start))
      .map((path) => path.slice(start.length))
      .sort();
  };
  return {
    name: root,
    folders: (folder) => [
      ...new Set(
        below(folder)
          .filter((path) => path.includes("/"))
          .map((path) => path.slice(0, path.indexOf("/"))),
      ),
    ],
    files: below,
    read: (path) => {
      const content = files.get(root === "" ? path : `${root}/${path}`);
      if (content === undefined) return undefined;
      return { content: typeof content === "function" ? content() : content, executable: false };
    },
  };
}
