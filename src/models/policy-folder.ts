/**
 * A policy on disk or inside the executable: `config.json`, `model.safetensors`, `tokenizer.json` in one folder, or one GGUF
 * file, alone or in a folder, that stands for all of them. A path that exists on disk wins; otherwise `models/<name>` or
 * `<name>` is looked up among the embedded ones.
 */

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, normalize } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import { type ByteSource, fileSource, memorySource } from "./byte-source.ts";
import { openGgufContents } from "./gguf-folder.ts";
import type { StoredTensors } from "./stored-tensor.ts";

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
  /** The weights where they are in a GGUF file. */
  readonly gguf?: StoredTensors;
}

/** Finds a policy folder. Throws `AleError("model")` listing what there is. */
export function openPolicyFolder(path: string): PolicyFolder {
  if (existsSync(path)) return openOnDisk(path);
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

function openOnDisk(path: string): PolicyFolder {
  const isFolder = statSync(path).isDirectory();
  if (!isFolder && !path.endsWith(".gguf")) {
    throw new AleError("model", `${path} is neither a folder nor a GGUF file`, {
      hint: "a policy is a folder with config.json and model.safetensors, or a .gguf file",
    });
  }
  const file = isFolder ? onlyGguf(path) : path;
  const contents = file === undefined ? undefined : openGgufContents(file);
  // files of the folder win over what the GGUF file says
  const isThere = (name: string) => isFolder && existsSync(join(path, name));
  const made = (name: string) => contents?.files.get(name)?.();
  const opened = folder(
    path,
    (name) => isThere(name) || (contents?.files.has(name) ?? false),
    (name) => (isThere(name) ? undefined : made(name)) ?? readFileSync(join(path, name)),
    (name) =>
      isThere(name) ? fileSource(join(path, name)) : memorySource(`${path}/${name}`, made(name) as Uint8Array),
  );
  return contents === undefined ? opened : { ...opened, gguf: contents.weights };
}

/** The GGUF file of a folder that has no config of its own. */
function onlyGguf(path: string): string | undefined {
  if (existsSync(join(path, "config.json"))) return undefined;
  const names = list(path).filter((name) => name.endsWith(".gguf"));
  if (names.length > 1) {
    throw new AleError("model", `${path} holds several GGUF files: ${names.sort().join(", ")}`, {
      hint: "give the path of the file itself",
    });
  }
  return names[0] === undefined ? undefined : join(path, names[0]);
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (cause) {
    throw new AleError("model", `${path} cannot be read: ${errorMessage(cause)}`, {
      hint: "check its permissions",
      cause,
    });
  }
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
      hint: has("policy/config.json")
        ? `that is a run; its policy is ${location}/policy`
        : "a policy folder holds config.json, model.safetensors and tokenizer.json",
    });
  };
  const read = (name: string): Uint8Array => {
    assertHas(name);
    try {
      return bytes(name);
    } catch (error) {
      throw new AleError("model", `${location}/${name} cannot be read: ${errorMessage(error)}`, {
        hint: "check its permissions",
        cause: error,
      });
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
        throw new AleError("model", `${location}/${name} is not JSON: ${errorMessage(error)}`, {
          hint: "copy or download the file again",
          cause: error,
        });
      }
    },
  };
}
