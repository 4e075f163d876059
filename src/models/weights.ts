/** Weights and optimizer state as files: Hugging Face folders in, safetensors out. */

import { AleError } from "../core/errors.ts";
import type { ParameterStore, Slot } from "./parameter-store.ts";
import { type ParameterLayout, parameterView } from "./parameters.ts";
import type { PolicyFolder } from "./policy-folder.ts";
import { readSafetensors, writeSafetensors } from "./safetensors.ts";
import { openShards } from "./shards.ts";
import { copyTensor, type StoredTensors } from "./stored-tensor.ts";

/** Tensors some exporters add: what a decoder recomputes, and the head that tied embeddings make up for. */
const REDUNDANT = /(\.rotary_emb\.inv_freq|^lm_head\.weight)$/;

/**
 * The weights of a policy folder, in one file, in shards or in a GGUF file.
 * @throws AleError("model") naming the file when there are none or they are damaged.
 */
export function readFolderWeights(folder: PolicyFolder): StoredTensors {
  return folder.gguf ?? openShards(folder);
}

/**
 * Copies every parameter of `layout` from files (float32, float16, bfloat16) into a flat array, one after another.
 * @throws AleError("model") for a missing, misshapen or unexpected tensor and for an element that is not finite, naming
 * file and tensor.
 */
export function readWeights(stored: StoredTensors, layout: ParameterLayout, flat: Float32Array): void {
  for (const { name, shape } of layout.entries) copyTensor(stored, name, shape, parameterView(layout, flat, name));
  assertKnown(stored, layout);
}

/** @throws AleError("model") naming a tensor that is not a parameter of `layout`. */
export function assertKnown(stored: StoredTensors, layout: ParameterLayout): void {
  for (const tensor of stored.tensors.values()) {
    if (layout.byName.has(tensor.name) || REDUNDANT.test(tensor.name)) continue;
    throw new AleError("model", `${tensor.path} has a tensor "${tensor.name}" that this architecture does not know`, {
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
