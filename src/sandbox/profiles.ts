/** Sandbox profiles: what a sandbox's root file system is made of. Files in `sandboxes/`, or embedded in the executable. */

import { isAbsolute } from "node:path";
import { parse } from "smol-toml";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";
import { DEFAULT_GUARDS, type GuardSettings, GuardsSchema } from "./guards/settings.ts";
import { listProfiles, readProfileText } from "./profile-texts.ts";

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
    guards: GuardsSchema.prefault({}),
  }),
  z.strictObject({
    name: z.string(),
    /** `directory`: a private copy-on-write view of a folder that holds a root file system. */
    kind: z.literal("directory"),
    description: z.string(),
    root: absolute,
    binds: z.array(absolute).default([]),
    masks: z.array(absolute).default([]),
    guards: GuardsSchema.prefault({}),
  }),
  z.strictObject({
    name: z.string(),
    /** `image`: an image that was imported or committed (`docs/images.md`). */
    kind: z.literal("image"),
    description: z.string(),
    image: z.string().min(1),
    /** Paths hidden in the sandbox: none, for an image holds nothing of this machine. */
    binds: z.array(absolute).length(0).default([]),
    masks: z.array(absolute).length(0).default([]),
    guards: GuardsSchema.prefault({}),
  }),
]);

export type SandboxProfile = z.infer<typeof ProfileSchema>;

const guardsByText = new Map<string, GuardSettings>();

/** What guards of sandboxes of that profile look for; the usual where this backend has profiles of its own. */
export function guardsOf(name: string): GuardSettings {
  const text = readProfileText(name);
  if (text === undefined) return DEFAULT_GUARDS;
  const known = guardsByText.get(text);
  if (known !== undefined) return known;
  const { guards } = loadProfile(name);
  guardsByText.set(text, guards);
  return guards;
}

/**
 * Reads a profile.
 * @throws AleError("sandbox") when the name is not known or the file is not right.
 */
export function loadProfile(name: string): SandboxProfile {
  const text = readProfileText(name);
  if (text === undefined)
    throw new AleError("sandbox", `there is no sandbox profile "${name}"; known: ${listProfiles().join(", ")}`, {
      hint: "name one of these, or write sandboxes/NAME.toml in the folder that ale runs in (docs/sandbox.md)",
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
