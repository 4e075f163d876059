/**
 * Files that come with Ale: task suites, sandbox profiles, models, experiments. In the executable the build embeds them
 * (`scripts/build/stage.ts`); in a checkout the same paths are read from the repository.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

/** Whether this code runs inside the executable made by `bun run build`. */
export const isCompiled: boolean = import.meta.dir.startsWith("/$bunfs/");

/** Folder of the embedded files inside the executable, and of what the build stages. */
export const EMBED_FOLDER = "embed";

/** Where shipped files lie: inside the executable, or the repository. */
export function shippedRoot(): string {
  return isCompiled ? join(import.meta.dir, EMBED_FOLDER) : resolve(import.meta.dir, "..", "..");
}

/**
 * The files below `folder`, by path from the root (`tasks/shell/echo/task.toml`), sorted; nothing is read before it is
 * asked for. Empty when nothing is shipped there.
 */
export function shippedFiles(folder: string): ReadonlyMap<string, () => Uint8Array> {
  const root = shippedRoot();
  const files = new Map<string, () => Uint8Array>();
  const visit = (path: string): void => {
    const entries = readdirSync(join(root, path), { withFileTypes: true });
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const child = `${path}/${entry.name}`;
      if (entry.isDirectory()) visit(child);
      else files.set(child, () => readFileSync(join(root, child)));
    }
  };
  try {
    visit(folder);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
  }
  return files;
}

/** As `shippedFiles`, with the UTF-8 text of each file; reads all of them. */
export function shippedTexts(folder: string): ReadonlyMap<string, string> {
  return new Map([...shippedFiles(folder)].map(([path, read]) => [path, new TextDecoder().decode(read())]));
}
