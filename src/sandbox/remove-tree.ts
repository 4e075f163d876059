/** Removes folders that hold what sandboxes wrote: names that are no text, folders that nobody may enter. */

import { chmodSync, existsSync, lstatSync, readdirSync, rmdirSync, unlinkSync } from "node:fs";
import { rm } from "node:fs/promises";

const SLASH = Buffer.from("/");

/** Removes a file, or a folder with everything in it. Links are never followed. What is not there is no error. */
export async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
    if (!existsSync(path)) return;
  } catch {
    // A folder without permissions, or a name that is no text: by hand then.
  }
  removeByHand(Buffer.from(path));
}

function removeByHand(path: Buffer): void {
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (status === undefined) return;
  if (!status.isDirectory()) {
    unlinkSync(path);
    return;
  }
  if ((status.mode & 0o700) !== 0o700) chmodSync(path, 0o700);
  for (const name of readdirSync(path, { encoding: "buffer" })) removeByHand(Buffer.concat([path, SLASH, name]));
  rmdirSync(path);
}
