/** The folder or repository that tasks are made from, as files for a sandbox. */

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import type { SandboxFile } from "../core/types.ts";

export interface SourceFolder {
  readonly name: string;
  /** Sorted by path. */
  readonly files: readonly SandboxFile[];
  readonly bytes: number;
  /** Sha256 (hex) of all paths, modes and contents. */
  readonly hash: string;
  /** SPDX id where one is found, or the file it should be looked up in. */
  readonly licence: string | undefined;
  /** Of a git repository: what HEAD points to. */
  readonly commit: string | undefined;
  /** Paths that were left out, with the reason. */
  readonly skipped: readonly { readonly path: string; readonly reason: string }[];
}

const MAX_FILES = 5000;
const MAX_BYTES = 64 << 20;
const MAX_FILE_BYTES = 2 << 20;
const MAX_SKIPPED = 100;
/** Folders that hold what tools made or fetched. */
const SKIPPED_FOLDERS: ReadonlySet<string> = new Set([
  ...[".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__", ".tox", ".mypy_cache"],
  ...[".pytest_cache", ".next", ".cache", "target", ".gradle", ".terraform"],
]);
/** Files that tend to hold secrets; what is in a sandbox may be read to a server elsewhere. */
const SECRET = /^(\.env(\..*)?|\.npmrc|\.netrc|\.pypirc|id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|key|p12|pfx|keystore))$/i;

/**
 * Reads a folder. Links are left out, and so is what was fetched, what is large and what looks like a secret. No program of
 * the folder's runs, nor git: a repository's own configuration could make it run something.
 *
 * @throws AleError("usage") when there is nothing to read, or more than a sandbox should hold
 */
export function readSourceFolder(path: string): SourceFolder {
  const root = resolve(path);
  if (!statSync(root, { throwIfNoEntry: false })?.isDirectory()) {
    throw new AleError("usage", `there is no folder ${path}`, {
      hint: "name a folder or a git repository on this disk",
    });
  }
  if (existsSync(join(root, "HEAD")) && existsSync(join(root, "objects")) && existsSync(join(root, "refs"))) {
    throw new AleError("usage", `${path} is a bare git repository`, { hint: `git clone ${path} work, and name work` });
  }
  const reader = new FolderReader(root);
  reader.visit("");
  const files = reader.files.sort((a, b) => (a.path < b.path ? -1 : 1));
  if (files.length === 0) throw new AleError("usage", `${path} holds no file to make tasks from`);
  return {
    name: basename(root),
    files,
    bytes: reader.bytes,
    hash: hashFiles(files),
    licence: findLicence(files),
    commit: readCommit(root),
    skipped: reader.skipped,
  };
}

class FolderReader {
  readonly files: SandboxFile[] = [];
  readonly skipped: { path: string; reason: string }[] = [];
  bytes = 0;
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  visit(folder: string): void {
    let entries: ReturnType<typeof this.list>;
    try {
      entries = this.list(folder);
    } catch (error) {
      throw new AleError("usage", `${join(this.#root, folder)} cannot be read: ${errorMessage(error)}`, {
        cause: error,
      });
    }
    for (const entry of entries) {
      const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
      if (entry.isDirectory()) {
        if (SKIPPED_FOLDERS.has(entry.name)) this.skip(path, "folder of a tool");
        else this.visit(path);
      } else if (!entry.isFile()) this.skip(path, "no plain file");
      else if (SECRET.test(entry.name)) this.skip(path, "may hold a secret");
      else this.read(path);
    }
  }

  list(folder: string) {
    return readdirSync(join(this.#root, folder), { withFileTypes: true });
  }

  read(path: string): void {
    const place = join(this.#root, path);
    const { size, mode } = statSync(place);
    if (size > MAX_FILE_BYTES) {
      this.skip(path, `more than ${MAX_FILE_BYTES} bytes`);
      return;
    }
    this.bytes += size;
    this.files.push({ path, content: new Uint8Array(readFileSync(place)), mode: (mode & 0o111) === 0 ? 0o644 : 0o755 });
    if (this.files.length > MAX_FILES || this.bytes > MAX_BYTES) {
      throw new AleError("usage", `${this.#root} holds more than ${MAX_FILES} files or ${MAX_BYTES >> 20} MiB`, {
        hint: "name a folder inside of it",
      });
    }
  }

  skip(path: string, reason: string): void {
    if (this.skipped.length < MAX_SKIPPED) this.skipped.push({ path, reason });
  }
}

/** Sha256 (hex) of paths, modes and contents, in the order given. */
export function hashFiles(files: readonly SandboxFile[]): string {
  const hash = createHash("sha256");
  for (const { path, mode, content } of files) hash.update(`${path}\0${mode}\0${content.length}\0`).update(content);
  return hash.digest("hex");
}

/** What HEAD of a work tree points to, read from its files. */
function readCommit(root: string): string | undefined {
  const read = (name: string) => {
    try {
      return readFileSync(join(root, ".git", name), "utf8").trim();
    } catch {
      return undefined;
    }
  };
  const head = read("HEAD");
  const reference = /^ref: (refs\/[\w./-]+)$/.exec(head ?? "")?.[1];
  if (reference === undefined || reference.includes("..")) return /^[0-9a-f]{40,64}$/.exec(head ?? "")?.[0];
  const packed = new RegExp(`^([0-9a-f]{40,64}) ${RegExp.escape(reference)}$`, "m");
  return read(reference) ?? packed.exec(read("packed-refs") ?? "")?.[1];
}

/** Sentences that occur in one licence only. */
const LICENCES: readonly (readonly [id: string, sentence: RegExp])[] = [
  ["Apache-2.0", /Apache License\s+Version 2\.0/],
  ["MIT", /Permission is hereby granted, free of charge, to any person obtaining a copy/],
  ["BSD-3-Clause", /Neither the name of .{0,200}may be used to endorse/s],
  ["BSD-2-Clause", /Redistributions in binary form must reproduce the above copyright/],
  ["MPL-2.0", /Mozilla Public License Version 2\.0/i],
  ["AGPL-3.0", /GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3/],
  ["LGPL-3.0", /GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3/],
  ["GPL-3.0", /GNU GENERAL PUBLIC LICENSE\s+Version 3/],
  ["GPL-2.0", /GNU GENERAL PUBLIC LICENSE\s+Version 2/],
  ["ISC", /Permission to use, copy, modify, and\/or distribute this software for any/],
  ["Unlicense", /This is free and unencumbered software released into the public domain/],
];

function findLicence(files: readonly SandboxFile[]): string | undefined {
  const file = files.find(({ path }) => /^(LICEN[CS]E|COPYING)(\.\w+)?$/i.test(path));
  if (file === undefined) return undefined;
  const text = new TextDecoder().decode(file.content.subarray(0, 64 << 10));
  return LICENCES.find(([, sentence]) => sentence.test(text))?.[0] ?? `see ${file.path}`;
}
