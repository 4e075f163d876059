/** The sandbox profiles there are, as TOML; apart from their schema, because the entry point registers them at every start. */

import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const FOLDER = resolve(import.meta.dir, "../../sandboxes");
let texts: ReadonlyMap<string, string> | undefined;

/**
 * Registers profiles by name, as TOML; from then on these are all there are, until it is called with `undefined`: then they
 * are those of the repository again. Called by the compiled executable.
 */
export function setProfileTexts(profiles: ReadonlyMap<string, string> | undefined): void {
  texts = profiles && new Map(profiles);
}

/** Names of the profiles there are, sorted. */
export function listProfiles(): string[] {
  if (texts !== undefined) return [...texts.keys()].sort();
  return readdirSync(FOLDER)
    .filter((name) => name.endsWith(".toml"))
    .map((name) => name.slice(0, -".toml".length))
    .sort();
}

/** TOML text of a profile, or `undefined` when there is none of that name. */
export function readProfileText(name: string): string | undefined {
  if (texts !== undefined) return texts.get(name);
  if (!listProfiles().includes(name)) return undefined;
  return readFileSync(join(FOLDER, `${name}.toml`), "utf8");
}
