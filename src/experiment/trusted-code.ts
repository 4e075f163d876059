/**
 * Code that an experiment names: it may come from anywhere, so it runs only when the experiment names the hash of what is in
 * the file, too. The hash says that somebody looked.
 */

import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { isBuiltin } from "node:module";
import { join } from "node:path";
import type { Experiment } from "../config/experiment.ts";
import { AleError, errorMessage } from "../core/errors.ts";

const MAX_SOURCE_BYTES = 1 << 20;

/** A file of code, and what its settings are called. */
export interface CodeSetting {
  readonly path: string;
  /** The hash that the experiment names. */
  readonly sha256: string | undefined;
  /** As `reward.function` and `reward.sha256`. */
  readonly key: string;
  readonly hashKey: string;
}

/** All code that an experiment names. */
export function codeOf({ reward, rollout }: Pick<Experiment, "reward" | "rollout">): CodeSetting[] {
  const { filter } = rollout;
  return [
    ...(reward?.function === undefined ? [] : [rewardCode({ function: reward.function, sha256: reward.sha256 })]),
    ...(filter?.module === undefined ? [] : [filterCode({ module: filter.module, sha256: filter.sha256 })]),
  ];
}

export function rewardCode(reward: { readonly function: string; readonly sha256?: string | undefined }): CodeSetting {
  return { path: reward.function, sha256: reward.sha256, key: "reward.function", hashKey: "reward.sha256" };
}

export function filterCode(filter: { readonly module: string; readonly sha256?: string | undefined }): CodeSetting {
  return { path: filter.module, sha256: filter.sha256, key: "rollout.filter.module", hashKey: "rollout.filter.sha256" };
}

/** Source and hash of a file. @throws AleError("config") when it cannot be read */
export function readCode({ path, key }: Pick<CodeSetting, "path" | "key">): {
  readonly source: string;
  readonly sha256: string;
} {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new AleError("config", `${key}: ${path} cannot be read: ${errorMessage(error)}`, {
      hint: "give the path of a TypeScript file",
      cause: error,
    });
  }
  if (bytes.length > MAX_SOURCE_BYTES) throw new AleError("config", `${key}: ${path} is larger than 1 MiB`);
  return { source: new TextDecoder().decode(bytes), sha256: createHash("sha256").update(bytes).digest("hex") };
}

/**
 * Checks that code may run, without running it: it is what the hash says, and all of it is in the one file.
 * @throws AleError("config") with what to do
 */
export function trustedSource(setting: CodeSetting): string {
  const { path, key, hashKey, sha256: known } = setting;
  const { source, sha256 } = readCode(setting);
  if (known === undefined) {
    throw new AleError("config", `${key}: ${path} is code that this experiment would run`, {
      hint: `read it; then set ${hashKey} = "${sha256}", or add --trust`,
    });
  }
  if (known !== sha256) {
    throw new AleError("config", `${key}: ${path} is not the file that ${hashKey} names`, {
      hint: `its hash is ${sha256}; look at what has changed`,
    });
  }
  const foreign = importsOf(source, setting).find((name) => !isBuiltin(name));
  if (foreign === undefined) return source;
  throw new AleError("config", `${key}: ${path} imports ${JSON.stringify(foreign)}, which the hash does not cover`, {
    hint: "put everything into the one file; node: modules may be imported",
  });
}

/**
 * Puts the code into the run's folder as `name`, from which it is to be loaded: what was hashed is what runs, whatever happens
 * to the file meanwhile. A run that is resumed runs what it ran before. Returns the copy's path.
 * @throws AleError("config") as `trustedSource`
 */
export function placeTrusted(setting: CodeSetting, folder: string, name: string): string {
  const copy = join(folder, name);
  const isKept = existsSync(copy) && readCode({ ...setting, path: copy }).sha256 === setting.sha256;
  if (!isKept) writeFileSync(copy, trustedSource(setting));
  return copy;
}

function importsOf(source: string, { path, key }: CodeSetting): string[] {
  try {
    return new Bun.Transpiler({ loader: "ts" }).scanImports(source).map((found) => found.path);
  } catch (error) {
    throw new AleError("config", `${key}: ${path}: ${errorMessage(error)}`, { hint: "correct the file" });
  }
}
