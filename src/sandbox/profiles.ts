/** Sandbox profiles: what a sandbox's root file system is made of. Files in `sandboxes/`, or embedded in the executable. */

import { readdirSync, readFileSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { parse } from "smol-toml";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";

const absolute = z.string().refine(isAbsolute, "must be an absolute path");

const ProfileSchema = z.discriminatedUnion("kind", [
  z.strictObject({
    name: z.string(),
    /** `host`: a private view of this machine's /usr; everything else is made. */
    kind: z.literal("host"),
    description: z.string(),
    /** Host paths shown read-only where they exist. */
    binds: z.array(absolute).default([]),
    /** Paths hidden in the sandbox. */
    masks: z.array(absolute).default([]),
  }),
  z.strictObject({
    name: z.string(),
    /** `directory`: a private copy-on-write view of a folder that holds a root file system. */
    kind: z.literal("directory"),
    description: z.string(),
    root: absolute,
    binds: z.array(absolute).default([]),
    masks: z.array(absolute).default([]),
  }),
]);

export type SandboxProfile = z.infer<typeof ProfileSchema>;

const FOLDER = resolve(import.meta.dir, "../../sandboxes");
let texts: ReadonlyMap<string, string> | undefined;

/** Registers profiles by name, as TOML; from then on these are all there are. Called by the compiled executable. */
export function setProfileTexts(profiles: ReadonlyMap<string, string>): void {
  texts = new Map(profiles);
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

/**
 * Reads a profile.
 * @throws AleError("sandbox") when the name is not known or the file is not right.
 */
export function loadProfile(name: string): SandboxProfile {
  const text = readProfileText(name);
  if (text === undefined)
    throw new AleError("sandbox", `there is no sandbox profile "${name}"; known: ${listProfiles().join(", ")}`, {
      hint: 'set environment.profile in task.toml to one of these, e.g. profile = "host"',
    });
  try {
    const profile = ProfileSchema.parse(parse(text));
    if (profile.name !== name) throw new Error(`name = "${profile.name}" differs from the file's name`);
    return profile;
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : errorMessage(error);
    throw new AleError("sandbox", `sandbox profile "${name}" is not right: ${why}`, {
      hint: `correct sandboxes/${name}.toml`,
      cause: error,
    });
  }
}
