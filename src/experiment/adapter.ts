/** Finding the two halves of an adapted policy: the PEFT folder and the model it belongs to. */

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { AleError } from "../core/errors.ts";
import type { LoraStart } from "../device/protocol.ts";
import { ADAPTER_CONFIG_FILE, readAdapterConfig } from "../models/peft.ts";
import { openPolicyFolder, type PolicyFolder } from "../models/policy-folder.ts";

export interface AdaptedPath {
  /** Folder of the model itself. */
  readonly model: string;
  readonly lora?: LoraStart;
}

/**
 * A model's folder as it is, with the adapters of `adapter`, or, where the folder itself holds adapters, the model they name.
 * @throws AleError("model") naming the file that is missing or does not say what it belongs to.
 */
export function findAdapter(path: string, adapter?: string): AdaptedPath {
  const folder = openPolicyFolder(path);
  if (adapter !== undefined) return adapted(path, adapter);
  return folder.has(ADAPTER_CONFIG_FILE) ? adapted(baseOf(folder, path), path) : { model: path };
}

function adapted(model: string, adapter: string): AdaptedPath {
  const { lora } = readAdapterConfig(openPolicyFolder(adapter));
  return { model, lora: { config: lora, seed: 0, base: placeOf(model), adapter } };
}

/** Where the model of a PEFT folder is: a path as it stands, beside the folder, or an embedded policy. */
function baseOf(folder: PolicyFolder, path: string): string {
  const { base } = readAdapterConfig(folder);
  if (base === undefined) {
    throw new AleError("model", `${folder.location}/${ADAPTER_CONFIG_FILE} does not say which model it belongs to`, {
      hint: "give the model's folder as the model and this one with --adapter",
    });
  }
  const beside = join(path, base);
  return !existsSync(base) && existsSync(beside) ? beside : base;
}

/** Absolute for a folder on disk, so that what is saved can be read from anywhere. */
export function placeOf(path: string): string {
  return existsSync(path) ? resolve(path) : path;
}
