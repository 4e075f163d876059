/** Weights in several safetensors files, listed in `model.safetensors.index.json`. */

import { z } from "zod";
import { AleError } from "../core/errors.ts";
import type { PolicyFolder } from "./policy-folder.ts";
import { openSafetensors, type SafetensorsFile } from "./safetensors.ts";
import type { StoredTensor, StoredTensors } from "./stored-tensor.ts";

export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

/** The weights of a folder and the files they lie in; a single file is a list of one. */
export interface ShardedTensors extends StoredTensors {
  readonly files: readonly SafetensorsFile[];
}

const IndexSchema = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

/**
 * Opens the safetensors files of a policy folder; an index wins over a single file, as in other tools.
 * @throws AleError("model") naming the file for a missing or damaged one and for an index that does not fit its shards.
 */
export function openShards(folder: PolicyFolder): ShardedTensors {
  if (!folder.has(INDEX_FILE)) {
    const file = openSafetensors(folder.open(SINGLE_FILE));
    return { path: file.path, tensors: file.tensors, files: [file] };
  }
  const path = `${folder.location}/${INDEX_FILE}`;
  const parsed = IndexSchema.safeParse(folder.readJson(INDEX_FILE));
  const weightMap = parsed.data?.weight_map ?? wrong(path, "it has no weight_map of tensor names to file names");
  const files = new Map<string, SafetensorsFile>();
  for (const name of new Set(Object.values(weightMap))) files.set(name, openShard(folder, name, path));
  const tensors = new Map<string, StoredTensor>();
  for (const [name, fileName] of Object.entries(weightMap)) {
    const tensor = files.get(fileName)?.tensors.get(name);
    tensors.set(name, tensor ?? wrong(path, `it places "${name}" in ${fileName}, which does not hold it`));
  }
  for (const [fileName, file] of files) {
    const unlisted = [...file.tensors.keys()].find((name) => weightMap[name] !== fileName);
    if (unlisted !== undefined) wrong(path, `it does not place "${unlisted}" in ${fileName}, which holds it`);
  }
  return { path, tensors, files: [...files.values()] };
}

function openShard(folder: PolicyFolder, name: string, index: string): SafetensorsFile {
  if (name.includes("/") || name.includes("\\") || name === "..") wrong(index, `"${name}" is not the name of a file`);
  if (!folder.has(name)) {
    throw new AleError("model", `${folder.location} has no ${name}, which ${index} lists`, {
      hint: "copy or download the missing file",
    });
  }
  return openSafetensors(folder.open(name));
}

function wrong(path: string, why: string): never {
  throw new AleError("model", `${path} does not fit its files: ${why}`, {
    hint: "copy or download the model again",
  });
}
