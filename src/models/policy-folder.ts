/**
 * A policy on disk or inside the executable: `config.json`, `model.safetensors`, `tokenizer.json` in one folder. A path that
 * exists on disk wins; otherwise `models/<name>` or `<name>` is looked up among the embedded ones.
 */

import { existsSync, readFileSync, statSync } from "node:fs";
import { join, normalize } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import { type ByteSource, fileSource, memorySource } from "./byte-source.ts";

/** Embedded files by path, e.g. `models/shell-start/config.json`; set by the compiled executable. */
let embedded: ReadonlyMap<string, () => Uint8Array> = new Map();

export function setEmbeddedModels(files: ReadonlyMap<string, () => Uint8Array>): void {
  embedded = files;
}

export interface PolicyFolder {
  /** Where it is, for messages. */
  readonly location: string;
  has(name: string): boolean;
  /** Throws `AleError("model")` naming the file when it is missing or cannot be read. */
  read(name: string): Uint8Array;
  readJson(name: string): Record<string, unknown>;
  /** A file to be read piece by piece; throws as `read` does. */
  open(name: string): ByteSource;
}

/** Finds a policy folder. Throws `AleError("model")` listing what there is. */
export function openPolicyFolder(path: string): PolicyFolder {
  if (existsSync(path)) {
    if (!statSync(path).isDirectory()) {
      throw new AleError("model", `${path} is a file; a policy is a folder with config.json and model.safetensors`);
    }
    return folder(
      path,
      (name) => existsSync(join(path, name)),
      (name) => readFileSync(join(path, name)),
      (name) => fileSource(join(path, name)),
    );
  }
  const prefix = [normalize(path), `models/${path}`].find((candidate) => embedded.has(`${candidate}/config.json`));
  if (prefix !== undefined) {
    return folder(
      `${prefix} (embedded)`,
      (name) => embedded.has(`${prefix}/${name}`),
      (name) => (embedded.get(`${prefix}/${name}`) as () => Uint8Array)(),
    );
  }
  const known = [...embedded.keys()].filter((name) => name.endsWith("/config.json")).map((name) => name.slice(0, -12));
  throw new AleError("model", `there is no policy folder ${path}`, {
    hint: known.length > 0 ? `embedded policies: ${known.join(", ")}` : "give the path of a folder with config.json",
  });
}

function folder(
  location: string,
  has: (name: string) => boolean,
  bytes: (name: string) => Uint8Array,
  open = (name: string) => memorySource(`${location}/${name}`, bytes(name)),
): PolicyFolder {
  const assertHas = (name: string): void => {
    if (has(name)) return;
    throw new AleError("model", `${location} has no ${name}`, {
      hint: "a policy folder holds config.json, model.safetensors and tokenizer.json",
    });
  };
  const read = (name: string): Uint8Array => {
    assertHas(name);
    try {
      return bytes(name);
    } catch (error) {
      throw new AleError("model", `${location}/${name} cannot be read: ${errorMessage(error)}`, { cause: error });
    }
  };
  return {
    location,
    has,
    read,
    open: (name) => {
      assertHas(name);
      return open(name);
    },
    readJson: (name) => {
      const text = new TextDecoder().decode(read(name));
      try {
        return JSON.parse(text) as Record<string, unknown>;
      } catch (error) {
        throw new AleError("model", `${location}/${name} is not JSON: ${errorMessage(error)}`, { cause: error });
      }
    },
  };
}
