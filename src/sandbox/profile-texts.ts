/** The sandbox profiles there are, as TOML; apart from their schema, because the entry point registers them at every start. */

import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { AleError } from "../core/errors.ts";

const FOLDER = resolve(import.meta.dir, "../../sandboxes");
let texts: ReadonlyMap<string, string> | undefined;
let folder = FOLDER;

/**
 * Registers profiles by name, as TOML; from then on these are all there are, and those of `ownFolder`, until it is called with
 * `undefined`: then they are those of the repository again. Called by the compiled executable.
 */
export function setProfileTexts(profiles: ReadonlyMap<string, string> | undefined, ownFolder = ""): void {
  texts = profiles && new Map(profiles);
  folder = profiles === undefined ? FOLDER : ownFolder;
}

/** Names of the profiles there are, sorted. A folder that is not there, or cannot be read, holds none. */
export function listProfiles(): string[] {
  return [...new Set([...(texts?.keys() ?? []), ...profilesIn(folder)])].sort();
}

/**
 * TOML text of a profile, or `undefined` when there is none of that name.
 * @throws AleError("sandbox") for a file that takes the name of a registered one: where Ale runs must not change what its profiles mean.
 */
export function readProfileText(name: string): string | undefined {
  const registered = texts?.get(name);
  if (!profilesIn(folder).includes(name)) return registered;
  const path = join(folder, `${name}.toml`);
  const text = readFileSync(path, "utf8");
  if (registered === undefined || registered === text) return text;
  throw new AleError("sandbox", `${path} has the name of a profile that comes with Ale`, {
    hint: "give the file and the profile in it another name",
  });
}

function profilesIn(path: string): string[] {
  if (path === "") return [];
  try {
    const names = readdirSync(path).filter((name) => name.endsWith(".toml"));
    return names.map((name) => name.slice(0, -".toml".length));
  } catch {
    return [];
  }
}
