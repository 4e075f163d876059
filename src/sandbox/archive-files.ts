/** Files that somebody left in a sandbox, as values. Whoever wrote them is not to be trusted. */

import { AleError } from "../core/errors.ts";
import type { Sandbox, SandboxArchive } from "../core/ports.ts";
import type { SandboxFile } from "../core/types.ts";
import { Kind, readArchive } from "./tar.ts";

export interface FolderLimits {
  readonly maxFiles: number;
  readonly maxBytes: number;
}

const MAX_PATH = 200;

/**
 * The regular files below `folder`, sorted by path; none where there is no such folder. The listing comes from the sandbox's
 * init, so no program of the agent's has a say in it.
 *
 * @throws AleError("task") for links, for names that are not plain text, and beyond the limits.
 */
export async function readFolder(sandbox: Sandbox, folder: string, limits: FolderLimits): Promise<SandboxFile[]> {
  let archive: SandboxArchive;
  try {
    // What else an archive holds is small beside the files.
    archive = await sandbox.exportFolder(folder, limits.maxBytes * 2 + (1 << 20));
  } catch (error) {
    if (error instanceof AleError && error.message.startsWith("there is no folder")) return [];
    if (error instanceof AleError && error.code === "interrupted") throw error;
    throw new AleError("task", `${folder} cannot be taken out: ${(error as Error).message}`, { cause: error });
  }
  return archiveFiles(archive, folder, limits);
}

/** As `readFolder`, of an archive. */
export function archiveFiles(archive: SandboxArchive, folder: string, limits: FolderLimits): SandboxFile[] {
  const files: SandboxFile[] = [];
  let bytes = 0;
  for (const { kind, mode, path, content } of readArchive(archive)) {
    if (kind === Kind.folder) continue;
    const name = plainPath(path, folder);
    if (kind !== Kind.file) throw new AleError("task", `${folder}/${name} is a link; only plain files are taken`);
    bytes += content.length;
    files.push({ path: name, content: content.slice(), mode: (mode & 0o111) === 0 ? 0o644 : 0o755 });
    if (files.length > limits.maxFiles)
      throw new AleError("task", `${folder} holds more than ${limits.maxFiles} files`);
    if (bytes > limits.maxBytes) throw new AleError("task", `${folder} holds more than ${limits.maxBytes} bytes`);
  }
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function plainPath(bytes: Uint8Array, folder: string): string {
  const refuse = (why: string) => new AleError("task", `${folder} holds a file whose name ${why}`);
  let path: string;
  try {
    path = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw refuse("is not UTF-8");
  }
  if (path.length > MAX_PATH) throw refuse(`has more than ${MAX_PATH} characters`);
  if (!/^[^\p{C}\\]+$/u.test(path)) throw refuse("has characters that cannot be shown");
  if (path.startsWith("/") || path.split("/").some((part) => part === "" || part === "." || part === "..")) {
    throw refuse("leads out of it");
  }
  return path;
}
