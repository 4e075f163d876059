import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readSafetensors } from "../../src/models/safetensors.ts";
import { deepenPolicy } from "./deep-policy.ts";

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
