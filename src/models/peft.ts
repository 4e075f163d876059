/**
 * Adapters in the folder form of the PEFT library (0.21): `adapter_config.json` and `adapter_model.safetensors`.
 * https://huggingface.co/docs/peft/developer_guides/checkpoint
 */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { LORA_TARGETS } from "../config/lora.ts";
import { AleError } from "../core/errors.ts";
import { writeDurably } from "./durable-files.ts";
import type { Adapters, LoraConfig } from "./lora.ts";
import { parameterView } from "./parameters.ts";
import type { PolicyFolder } from "./policy-folder.ts";
import { parseSafetensors, writeSafetensors } from "./safetensors.ts";
import { copyTensor } from "./stored-tensor.ts";

export const ADAPTER_CONFIG_FILE = "adapter_config.json";
export const ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors";

const nothing = z.union([z.null(), z.literal(false), z.strictObject({}), z.array(z.never()).length(0)]).optional();

const PeftSchema = z.looseObject({
  peft_type: z.literal("LORA"),
  r: z.number().int().min(1),
  lora_alpha: z.number().positive(),
  target_modules: z.array(z.enum(LORA_TARGETS)).min(1),
  use_rslora: z.boolean().default(false),
  base_model_name_or_path: z.string().nullish(),
  bias: z.literal("none").default("none"),
  // What changes the arithmetic and is not done here must be switched off.
  use_dora: nothing,
  fan_in_fan_out: nothing,
  modules_to_save: nothing,
  layers_to_transform: nothing,
  rank_pattern: nothing,
  alpha_pattern: nothing,
});

export interface AdapterFolderConfig {
  readonly lora: LoraConfig;
  /** The model the adapters were trained on: a path, or a name on a hub. */
  readonly base: string | undefined;
}

/**
 * Reads `adapter_config.json`. Dropout is ignored: it has no part in what a trained adapter computes.
 * @throws AleError("model") naming the key when the adapter is of a kind that is not supported.
 */
export function readAdapterConfig(folder: PolicyFolder): AdapterFolderConfig {
  const source = `${folder.location}/${ADAPTER_CONFIG_FILE}`;
  const result = PeftSchema.safeParse(folder.readJson(ADAPTER_CONFIG_FILE));
  if (!result.success) {
    const issue = result.error.issues[0];
    throw new AleError("model", `${source}: ${issue?.path.join(".") ?? "content"}: ${issue?.message ?? "not valid"}`, {
      hint: "Ale reads LoRA adapters of one rank and alpha, without DoRA, biases or extra modules",
    });
  }
  const { r, lora_alpha, target_modules, use_rslora, base_model_name_or_path } = result.data;
  return {
    lora: { rank: r, alpha: lora_alpha, targets: target_modules, rslora: use_rslora },
    base: base_model_name_or_path ?? undefined,
  };
}

/** Copies the matrices of a folder into a flat array. @throws AleError("model") for a missing, misshapen or unexpected one. */
export function readAdapterWeights(folder: PolicyFolder, adapters: Adapters, flat: Float32Array): void {
  const file = parseSafetensors(folder.read(ADAPTER_WEIGHTS_FILE), `${folder.location}/${ADAPTER_WEIGHTS_FILE}`);
  const { layout } = adapters;
  for (const { name, shape } of layout.entries) copyTensor(file, name, shape, parameterView(layout, flat, name));
  for (const name of file.tensors.keys()) {
    if (!layout.byName.has(name)) {
      throw new AleError(
        "model",
        `${file.path} has a tensor "${name}" that ${ADAPTER_CONFIG_FILE} does not account for`,
      );
    }
  }
}

/**
 * Writes both files; PEFT reads them as they are.
 * @param base what `base_model_name_or_path` says. @throws AleError("storage_full") when they cannot be written.
 */
export function writeAdapterFolder(folder: string, adapters: Adapters, flat: Float32Array, base: string): void {
  mkdirSync(folder, { recursive: true });
  const { layout, config } = adapters;
  const tensors = layout.entries
    .map(({ name, shape }) => ({ name, shape, data: parameterView(layout, flat, name) }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  writeSafetensors(join(folder, ADAPTER_WEIGHTS_FILE), tensors, { format: "pt" });
  const json = {
    alpha_pattern: {},
    auto_mapping: null,
    base_model_name_or_path: base,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    lora_alpha: config.alpha,
    lora_dropout: 0,
    modules_to_save: null,
    peft_type: "LORA",
    r: config.rank,
    rank_pattern: {},
    revision: null,
    target_modules: config.targets,
    task_type: "CAUSAL_LM",
    use_dora: false,
    use_rslora: config.rslora,
  };
  writeDurably(join(folder, ADAPTER_CONFIG_FILE), [`${JSON.stringify(json, null, 2)}\n`]);
}
