/** What is known of an image: `images/NAME.json` in Ale's home. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { AleError } from "../core/errors.ts";

export const ImageManifest = z.object({
  name: z.string(),
  /** What its layers stand on (`sandbox/roots.ts`): nothing, a folder of this machine, or the programs of this machine. */
  base: z.string(),
  /** Names of folders in `layers/`, newest first. */
  layers: z.array(z.string()),
  env: z.record(z.string(), z.string()),
  /** Where commands begin, when nobody says. */
  workdir: z.string().nullable(),
  /** Of all layers. */
  bytes: z.number(),
  entries: z.number(),
  /** Milliseconds since 1970. */
  createdAt: z.number(),
  /** Where it came from: a path, or the sandbox it was committed from. */
  source: z.string(),
  /** Who unpacked it: as an ordinary user, all files belong to that user. */
  level: z.enum(["root", "user"]),
});
export type ImageManifest = z.infer<typeof ImageManifest>;

/** What is known of a layer: `layers/NAME/layer.json`. */
export const LayerRecord = z.object({ bytes: z.number(), entries: z.number(), level: z.enum(["root", "user"]) });
export type LayerRecord = z.infer<typeof LayerRecord>;

const NAME = /^[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,254}$/;

/** @throws AleError("usage") for what cannot be the name of an image. */
export function checkImageName(name: string): string {
  if (NAME.test(name)) return name;
  throw new AleError("usage", `${JSON.stringify(name)} cannot be the name of an image`, {
    hint: "letters, digits and . _ / : @ + -, beginning with a letter or digit, at most 255; such as python:3.11",
  });
}

export function manifestFile(name: string): string {
  return `${encodeURIComponent(checkImageName(name))}.json`;
}

/** Whether there is an image of that name below Ale's home. */
export function hasImage(home: string, name: string): boolean {
  return NAME.test(name) && existsSync(join(home, "images", manifestFile(name)));
}
