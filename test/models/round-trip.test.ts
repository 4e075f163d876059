/** Hugging Face → Ale → Hugging Face: what training left alone comes out byte by byte as it was. */

import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ModelExport, writeHuggingFaceFolder } from "../../src/export/hugging-face.ts";
import { configFromHuggingFace } from "../../src/models/config.ts";
import { type FloatType, narrow, widen } from "../../src/models/float-types.ts";
import { parameterLayout, parameterView } from "../../src/models/parameters.ts";
import { openPolicyFolder } from "../../src/models/policy-folder.ts";
import { encodeHeader, readSafetensors, type SafetensorsFile } from "../../src/models/safetensors.ts";
import { openShards } from "../../src/models/shards.ts";
import { readFolderWeights, readWeights, writeWeights } from "../../src/models/weights.ts";

const root = join(import.meta.dir, "../golden");
const scratch = mkdtempSync(join(tmpdir(), "ale-round-trip-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
let counter = 0;
const fresh = () => join(scratch, String(counter++));

const FOLDERS = [
  "gguf/llama",
  "gguf/qwen2",
  "gguf/qwen3",
  "gguf/qwen3moe",
  "models/qwen3-moe-tiny",
  "models/llama-tiny",
];
const WEIGHTS_OR_CONFIG =
  /^(config\.json|generation_config\.json|model.*\.safetensors|model\.safetensors\.index\.json)$/;

function exported(options: ModelExport): string {
  const target = fresh();
  writeHuggingFaceFolder(target, options);
  return target;
}

/** A checkpoint as a run writes it: everything in float32 in one file. `train` may change the weights. */
function checkpointOf(folder: string, train: (view: (name: string) => Float32Array) => void = () => undefined): string {
  const source = openPolicyFolder(folder);
  const layout = parameterLayout(configFromHuggingFace(source.readJson("config.json"), "config.json"));
  const flat = new Float32Array(layout.length);
  readWeights(readFolderWeights(source), layout, flat);
  train((name) => parameterView(layout, flat, name));
  const target = fresh();
  mkdirSync(target);
  writeFileSync(join(target, "config.json"), source.read("config.json"));
  writeWeights(join(target, "model.safetensors"), layout, flat);
  return target;
}

function bytesOf(file: SafetensorsFile, name: string): Buffer {
  const { offset = 0, byteLength = 0 } = file.tensors.get(name) ?? {};
  const bytes = new Uint8Array(byteLength);
  file.source.read(offset, bytes);
  return Buffer.from(bytes);
}

describe.each(FOLDERS)("%s", (name) => {
  const source = join(root, name);
  const names = readdirSync(source).filter((file) => WEIGHTS_OR_CONFIG.test(file));

  test("goes through a checkpoint and comes out as the same files", () => {
    for (const model of [source, checkpointOf(source)]) {
      const target = exported({ model, like: source });
      for (const file of names)
        expect(readFileSync(join(target, file)).equals(readFileSync(join(source, file)))).toBe(true);
    }
  });

  test("a trained weight changes in its own type, and nothing else does", () => {
    const trained = "model.layers.0.self_attn.k_proj.weight";
    const model = checkpointOf(source, (view) => {
      const weights = view(trained);
      for (let i = 0; i < weights.length; i++) weights[i] = (weights[i] as number) + 0.1;
    });
    const after = openShards(openPolicyFolder(exported({ model, like: source })));
    const before = openShards(openPolicyFolder(source));
    for (const [i, file] of before.files.entries()) {
      for (const [tensor, { dtype }] of file.tensors) {
        const again = after.files[i] as SafetensorsFile;
        expect(again.tensors.get(tensor)?.dtype).toBe(dtype);
        expect(bytesOf(again, tensor).equals(bytesOf(file, tensor))).toBe(tensor !== trained);
      }
    }
  });
});

test("in a chosen type, weights, index and config say so", () => {
  const source = join(root, "models/qwen3-moe-tiny");
  const target = exported({ model: source, like: source, dtype: "F32" });
  const config = openPolicyFolder(target).readJson("config.json");
  expect(config.dtype).toBe("float32");
  const { files } = openShards(openPolicyFolder(target));
  const total = files.reduce((sum, { source: file, header }) => sum + file.size - header.length, 0);
  const index = openPolicyFolder(target).readJson("model.safetensors.index.json") as {
    metadata: { total_size: number };
  };
  expect(index.metadata.total_size).toBe(total);
  expect(files.length).toBe(2);
  expect(checkWeights(target)).toEqual(checkWeights(source));
});

test("a GGUF file becomes a folder in float32 with its tokenizer", () => {
  const source = join(root, "gguf/qwen3moe/gguf/qwen3moe.gguf");
  const target = exported({ model: source, like: source });
  expect(checkWeights(target)).toEqual(checkWeights(source));
  expect(readdirSync(target).sort()).toEqual([
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
  ]);
  const half = exported({ model: source, like: source, dtype: "F16" });
  const names = [...readSafetensors(join(half, "model.safetensors")).tensors.values()].map(({ dtype }) => dtype);
  expect(new Set(names)).toEqual(new Set(["F16"]));
});

test("a head stored beside tied embeddings follows them when it is a copy, and stays when it is not", () => {
  for (const isCopy of [true, false]) {
    const source = withTiedHead(isCopy);
    const same = exported({ model: checkpointOf(source), like: source });
    const path = "model.safetensors";
    expect(readFileSync(join(same, path)).equals(readFileSync(join(source, path)))).toBe(true);
    const model = checkpointOf(source, (view) => view("model.embed_tokens.weight").fill(0.5));
    const file = readSafetensors(join(exported({ model, like: source }), path));
    const [head, table] = [bytesOf(file, "lm_head.weight"), bytesOf(file, "model.embed_tokens.weight")];
    expect(head.equals(table)).toBe(isCopy);
  }
});

test("numbers too large for float16 and models of another shape are refused", () => {
  const source = join(root, "gguf/qwen2");
  const model = checkpointOf(source, (view) => view("model.norm.weight").fill(70_000));
  expect(() => exported({ model, like: source })).toThrow('"model.norm.weight" holds numbers too large for float16');
  expect(() => exported({ model: join(root, "gguf/llama"), like: source })).toThrow(
    "should have shape [32,32], but has [64,32]",
  );
});

function checkWeights(path: string): Float32Array {
  const folder = openPolicyFolder(path);
  const layout = parameterLayout(configFromHuggingFace(folder.readJson("config.json"), "config.json"));
  const flat = new Float32Array(layout.length);
  readWeights(readFolderWeights(folder), layout, flat);
  return flat;
}

/** qwen2 with tied embeddings that stores its head all the same. */
function withTiedHead(isCopy: boolean): string {
  const folder = fresh();
  cpSync(join(root, "gguf/qwen2"), folder, { recursive: true });
  const path = join(folder, "model.safetensors");
  const file = readSafetensors(path);
  const entries = [...file.tensors.values()].map(({ name, shape, dtype }) => ({
    name,
    shape,
    dtype: dtype as FloatType,
  }));
  const table = bytesOf(file, "model.embed_tokens.weight");
  const values = new Float32Array(table.length / 2);
  widen("F16", Uint8Array.from(table), values);
  const head = new Uint8Array(table.length);
  narrow("F16", isCopy ? values : values.map((value) => -value), head);
  const shape = file.tensors.get("model.embed_tokens.weight")?.shape as readonly number[];
  const header = encodeHeader([...entries, { name: "lm_head.weight", shape, dtype: "F16" }], file.metadata);
  const data = entries.map(({ name }) => bytesOf(file, name));
  writeFileSync(path, Buffer.concat([header, ...data, head]));
  return folder;
}
