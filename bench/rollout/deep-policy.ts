/**
 * A policy whose answers are those of a small one and whose work is that of a large one: the comparison of schedules is about
 * devices, so their work has to outweigh what sandboxes and control take from the same cores.
 */

import { cpSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { type OutputTensor, readSafetensors, writeSafetensors } from "../../src/models/safetensors.ts";

/** What a layer adds to the residual stream goes through these. */
const OUTPUTS = /\.(self_attn\.o_proj|mlp\.down_proj)\.weight$/;
const LAYER = /(?:^|\.)model\.layers\.(\d+)\./;

const ADAPTER = "adapter_model.safetensors";

/**
 * Copies the Hugging Face folder `from` to `to` with `layers` layers: those that it has, then copies of its last one whose
 * outputs are zero. They add nothing to the residual stream, so logits are the same to the bit until they are trained
 * (the identity initialisation of Net2Net, https://arxiv.org/abs/1511.05641).
 */
export async function deepenPolicy(from: string, to: string, layers: number): Promise<void> {
  mkdirSync(to, { recursive: true });
  cpSync(from, to, { recursive: true });
  const config = await Bun.file(join(from, "config.json")).json();
  const own: number = config.num_hidden_layers;
  const file = readSafetensors(join(from, "model.safetensors"));
  const tensors = [...file.tensors.values()].map((tensor): OutputTensor => {
    const { name, shape } = tensor;
    const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
    tensor.readElements(0, data);
    return { name, shape, data };
  });
  const last = tensors.filter(({ name }) => Number(LAYER.exec(name)?.[1]) === own - 1);
  const added = Array.from({ length: layers - own }, (_, i) =>
    last.map(({ name, shape, data }) => ({
      name: name.replace(LAYER, `model.layers.${own + i}.`),
      shape,
      data: OUTPUTS.test(name) ? new Float32Array(data.length) : data,
    })),
  );
  writeSafetensors(join(to, "model.safetensors"), [...tensors, ...added.flat()]);
  await Bun.write(join(to, "config.json"), JSON.stringify({ ...config, num_hidden_layers: layers }, null, 2));
}

/**
 * Writes to `to` what an adapter of a deepened policy, in the PEFT folder `from`, is to the policy of `layers` layers that it
 * was made of. Added layers add nothing whatever is adapted in front of their outputs, so both answer the same.
 * @throws Error when an output of an added layer is adapted.
 */
export async function plainAdapter(from: string, to: string, base: string, layers: number): Promise<void> {
  mkdirSync(to, { recursive: true });
  const { tensors } = readSafetensors(join(from, ADAPTER));
  const kept: OutputTensor[] = [];
  for (const tensor of tensors.values()) {
    const { name, shape } = tensor;
    if (Number(LAYER.exec(name)?.[1]) >= layers) {
      if (/\.(o_proj|down_proj)\./.test(name)) throw new Error(`${name} gives an added layer an output`);
      continue;
    }
    const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
    tensor.readElements(0, data);
    kept.push({ name, shape, data });
  }
  writeSafetensors(join(to, ADAPTER), kept, { format: "pt" });
  const config = await Bun.file(join(from, "adapter_config.json")).json();
  await Bun.write(
    join(to, "adapter_config.json"),
    JSON.stringify({ ...config, base_model_name_or_path: base }, null, 2),
  );
}
