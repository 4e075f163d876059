/**
 * A policy whose answers are those of a small one and whose work is that of a large one: the comparison of schedules is about
 * devices, so their work has to outweigh what sandboxes and control take from the same cores.
 */

import { cpSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { type OutputTensor, readSafetensors, writeSafetensors } from "../../src/models/safetensors.ts";

/** What a layer adds to the residual stream goes through these. */
const OUTPUTS = /\.(self_attn\.o_proj|mlp\.down_proj)\.weight$/;
const LAYER = /^model\.layers\.(\d+)\./;

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
