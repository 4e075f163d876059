/** `ale sandbox cp`: files and folders into a sandbox and out of it. */

import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, join, resolve } from "node:path";
import { AleError } from "../../core/errors.ts";
import type { SandboxFile } from "../../core/types.ts";
import { encodeFiles } from "../../sandbox/protocol.ts";
import { archiveToTar, readTar } from "../../sandbox/tar.ts";
import type { ServiceClient } from "./client.ts";

/** `NAME:PATH`; a local path has no colon before its first slash. */
export function parsePlace(text: string): { readonly sandbox: string | undefined; readonly path: string } {
  const [, sandbox, path] = /^([A-Za-z0-9][A-Za-z0-9._-]*):(.+)$/.exec(text) ?? [];
  return sandbox === undefined || path === undefined ? { sandbox: undefined, path: text } : { sandbox, path };
}

const query = (path: string) => `path=${encodeURIComponent(path)}`;

export interface CopyResult {
  readonly files: number;
  readonly bytes: number;
  /** Links and the like, which are not copied out of a sandbox. */
  readonly skipped: number;
}

/** Files of a local folder; links are not followed, and not taken along. */
function readFolder(root: string): { files: SandboxFile[]; skipped: number } {
  const files: SandboxFile[] = [];
  let skipped = 0;
  const walk = (below: string) => {
    for (const entry of readdirSync(join(root, below), { withFileTypes: true })) {
      const path = below === "" ? entry.name : `${below}/${entry.name}`;
      if (entry.isDirectory()) walk(path);
      else if (!entry.isFile()) skipped++;
      else {
        const full = join(root, path);
        files.push({ path, mode: statSync(full).mode & 0o777, content: new Uint8Array(readFileSync(full)) });
      }
    }
  };
  walk("");
  return { files, skipped };
}

export async function copyIn(client: ServiceClient, from: string, sandbox: string, to: string): Promise<CopyResult> {
  const found = lstatSync(from, { throwIfNoEntry: false });
  if (found === undefined) throw new AleError("usage", `${from} does not exist`, { hint: "name a file or a folder" });
  if (found.isDirectory()) {
    const { files, skipped } = readFolder(from);
    const tar = archiveToTar(encodeFiles(files));
    await client.send("PUT", `/${sandbox}/folder?${query(to)}`, tar);
    return { files: files.length, bytes: files.reduce((sum, { content }) => sum + content.length, 0), skipped };
  }
  const content = new Uint8Array(readFileSync(from));
  const target = to.endsWith("/") ? `${to}${basename(from)}` : to;
  const mode = (statSync(from).mode & 0o777).toString(8).padStart(3, "0");
  await client.send("PUT", `/${sandbox}/files?${query(target)}&mode=${mode}`, content);
  return { files: 1, bytes: content.length, skipped: 0 };
}

export async function copyOut(client: ServiceClient, sandbox: string, from: string, to: string): Promise<CopyResult> {
  const { kind } = await client.json<{ kind: string }>("GET", `/${sandbox}/files/attributes?${query(from)}`);
  if (kind === "folder") return unpack(await client.bytes(`/${sandbox}/folder?${query(from)}`), to);
  const content = await client.bytes(`/${sandbox}/files?${query(from)}`);
  const intoFolder = statSync(to, { throwIfNoEntry: false })?.isDirectory() ?? false;
  writeFileSync(intoFolder ? join(to, basename(from)) : to, content);
  return { files: 1, bytes: content.length, skipped: 0 };
}

/**
 * Files and folders of a tar file that an agent had its hands on, into a folder that is made for them. Links are left out, so
 * nothing that is written can go through one.
 */
function unpack(tar: Uint8Array, to: string): CopyResult {
  if (existsSync(to)) throw new AleError("usage", `${to} exists already`, { hint: "name a folder that does not" });
  const root = resolve(to);
  mkdirSync(root, { recursive: true });
  let [files, bytes, skipped] = [0, 0, 0];
  for (const { kind, path, mode, content } of readTar(tar)) {
    const parts = path.split("/");
    if (kind === "link" || path.includes("\0") || parts.some((part) => part === "" || part === "." || part === "..")) {
      skipped++;
      continue;
    }
    const target = join(root, ...parts);
    mkdirSync(kind === "folder" ? target : join(target, ".."), { recursive: true });
    if (kind === "folder") continue;
    writeFileSync(target, content);
    chmodSync(target, mode & 0o755);
    files++;
    bytes += content.length;
  }
  return { files, bytes, skipped };
}
