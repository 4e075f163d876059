/** Weights and optimizer state as files: Hugging Face folders in, safetensors out. */

import { AleError } from "../core/errors.ts";
import type { ParameterStore, Slot } from "./parameter-store.ts";
import { type ParameterLayout, parameterView } from "./parameters.ts";
import type { PolicyFolder } from "./policy-folder.ts";
import {
  copyTensor,
  parseSafetensors,
  readSafetensors,
  type SafetensorsFile,
  writeSafetensors,
} from "./safetensors.ts";

/** Tensors some exporters add that a decoder recomputes or, with tied embeddings, does not have. */
const REDUNDANT = /(\.rotary_emb\.inv_freq|^lm_head\.weight)$/;

/**
 * The weights of a policy folder.
 * @throws AleError("model") when there are none, they are damaged or they are in shards.
 */
export function readFolderWeights(folder: PolicyFolder): SafetensorsFile {
  const name = "model.safetensors";
  if (!folder.has(name) && folder.has(`${name}.index.json`)) {
    throw new AleError("model", `${folder.location} holds weights in several files, which is not supported`, {
      hint: "save the model again as one model.safetensors",
    });
  }
  return parseSafetensors(folder.read(name), `${folder.location}/${name}`);
}

/**
 * Copies every parameter of `layout` from a safetensors file (float32, float16, bfloat16) into a flat array.
 * @throws AleError("model") for a missing, misshapen or unexpected tensor.
 */
export function readWeights(file: SafetensorsFile, layout: ParameterLayout, flat: Float32Array): void {
  for (const { name, shape } of layout.entries) copyTensor(file, name, shape, parameterView(layout, flat, name));
  for (const name of file.tensors.keys()) {
    if (layout.byName.has(name) || REDUNDANT.test(name)) continue;
    throw new AleError("model", `${file.path} has a tensor "${name}" that this architecture does not know`, {
      hint: "config.json and weights must be of the same model",
    });
  }
}

/** Writes parameters as one float32 safetensors file. @throws AleError("storage_full") when it cannot be written. */
export function writeWeights(
  path: string,
  layout: ParameterLayout,
  flat: Float32Array,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const tensors = layout.entries.map(({ name, shape }) => ({ name, shape, data: parameterView(layout, flat, name) }));
  writeSafetensors(path, tensors, metadata);
}

/** PyTorch's names for AdamW's moments. */
const FIRST_MOMENT = "exp_avg.";
const SECOND_MOMENT = "exp_avg_sq.";

/** Writes moments and step of a slot. @throws AleError("storage_full") when the file cannot be written. */
export function writeOptimizerState(path: string, store: ParameterStore, slot: Slot): void {
  const { layout } = store;
  const of = (prefix: string, flat: Float32Array) =>
    layout.entries.map((e) => ({ name: prefix + e.name, shape: e.shape, data: parameterView(layout, flat, e.name) }));
  const tensors = [...of(FIRST_MOMENT, store.firstMoment(slot)), ...of(SECOND_MOMENT, store.secondMoment(slot))];
  writeSafetensors(path, tensors, { step: String(store.step(slot)) });
}

/** Reads what `writeOptimizerState` wrote into an unpublished slot. @throws AleError("model") when it does not fit. */
export function readOptimizerState(path: string, store: ParameterStore, slot: Slot): void {
  store.assertWritable(slot);
  const file = readSafetensors(path);
  const step = Number(file.metadata.step);
  if (!Number.isInteger(step) || step < 0) {
    throw new AleError("model", `${path} does not say after which optimizer step it was written`);
  }
  const { layout } = store;
  for (const { name, shape } of layout.entries) {
    copyTensor(file, FIRST_MOMENT + name, shape, parameterView(layout, store.firstMoment(slot), name));
    copyTensor(file, SECOND_MOMENT + name, shape, parameterView(layout, store.secondMoment(slot), name));
  }
  store.setStep(slot, step);
}
