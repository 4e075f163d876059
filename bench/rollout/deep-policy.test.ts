import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readSafetensors, writeSafetensors } from "../../src/models/safetensors.ts";
import { deepenPolicy, plainAdapter } from "./deep-policy.ts";

const SHIPPED = join(import.meta.dir, "../../models/shell-start");
const folder = mkdtempSync(join(tmpdir(), "ale-deep-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("added layers add nothing to the residual stream; the others stay as they are", async () => {
  await deepenPolicy(SHIPPED, folder, 6);
  expect((await Bun.file(join(folder, "config.json")).json()).num_hidden_layers).toBe(6);
  const values = (path: string, name: string) => {
    const tensor = readSafetensors(join(path, "model.safetensors")).tensors.get(name);
    const data = new Float32Array((tensor?.shape ?? []).reduce((product, size) => product * size, 1));
    tensor?.readElements(0, data);
    return data;
  };
  for (const part of ["self_attn.o_proj", "mlp.down_proj"]) {
    const own = `model.layers.3.${part}.weight`;
    expect(values(folder, own)).toEqual(values(SHIPPED, own));
    expect(values(folder, own).some((value) => value !== 0)).toBeTrue();
    for (const layer of [4, 5]) {
      const added = values(folder, `model.layers.${layer}.${part}.weight`);
      expect(added).toEqual(new Float32Array(values(SHIPPED, own).length));
    }
  }
});

test("an adapter of the deepened policy is, without the added layers, one of the plain policy; outputs must stay zero", async () => {
  const name = (layer: number, module: string) => `base_model.model.model.layers.${layer}.${module}.lora_A.weight`;
  const write = async (folder: string, names: readonly string[]) => {
    mkdirSync(folder);
    const tensors = names.map((one, i) => ({ name: one, shape: [2], data: new Float32Array([i, 7]) }));
    writeSafetensors(join(folder, "adapter_model.safetensors"), tensors);
    await Bun.write(join(folder, "adapter_config.json"), '{"r": 4, "base_model_name_or_path": "deep"}');
  };
  const [deep, plain] = [join(folder, "deep"), join(folder, "plain")];
  await write(deep, [name(0, "self_attn.o_proj"), name(3, "mlp.up_proj"), name(4, "mlp.up_proj")]);
  await plainAdapter(deep, plain, "shipped", 4);
  const { tensors } = readSafetensors(join(plain, "adapter_model.safetensors"));
  expect([...tensors.keys()].sort()).toEqual([name(0, "self_attn.o_proj"), name(3, "mlp.up_proj")]);
  const values = new Float32Array(2);
  tensors.get(name(3, "mlp.up_proj"))?.readElements(0, values);
  expect([...values]).toEqual([1, 7]);
  const config = await Bun.file(join(plain, "adapter_config.json")).json();
  expect(config).toEqual({ r: 4, base_model_name_or_path: "shipped" });
  const wrong = join(folder, "wrong");
  await write(wrong, [name(4, "mlp.down_proj")]);
  expect(plainAdapter(wrong, plain, "shipped", 4)).rejects.toThrow("an added layer an output");
});
