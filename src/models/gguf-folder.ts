/** A GGUF file as if it were a policy folder: config and tokenizer come out of its metadata. */

import { fileSource } from "./byte-source.ts";
import { configFromHuggingFace, configToHuggingFace } from "./config.ts";
import { openGguf } from "./gguf.ts";
import { configFromGguf } from "./gguf-config.ts";
import { openGgufWeights } from "./gguf-tensors.ts";
import { textFromGguf } from "./gguf-tokenizer.ts";
import type { StoredTensors } from "./stored-tensor.ts";

/** Files by name that a GGUF file stands for, made when they are first asked for, and its weights. */
export interface GgufContents {
  readonly files: ReadonlyMap<string, () => Uint8Array>;
  readonly weights: StoredTensors;
}

/** @throws AleError("model") when the file is damaged or holds an architecture that is not known. */
export function openGgufContents(path: string): GgufContents {
  const file = openGguf(fileSource(path));
  const config = configToHuggingFace(configFromHuggingFace(configFromGguf(file), path));
  const contents = new Map([["config.json", () => config], ...textFromGguf(file)]);
  const json = (value: unknown) => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
  return {
    files: new Map([...contents].map(([name, make]) => [name, () => json(make())])),
    weights: openGgufWeights(file),
  };
}
