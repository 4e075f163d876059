/** GGUF files against what the public `gguf` and `transformers` packages say is in them; `make_gguf.py` made the files. */

import { describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileSource, memorySource } from "../../src/models/byte-source.ts";
import { configFromHuggingFace } from "../../src/models/config.ts";
import { openGguf } from "../../src/models/gguf.ts";
import { ggufTensors } from "../../src/models/gguf-tensors.ts";
import { parameterLayout } from "../../src/models/parameters.ts";
import { openPolicyFolder, type PolicyFolder } from "../../src/models/policy-folder.ts";
import { readSafetensors } from "../../src/models/safetensors.ts";
import { copyTensor } from "../../src/models/stored-tensor.ts";
import { readFolderWeights, readWeights } from "../../src/models/weights.ts";
import { readModelText } from "../../src/tokens/model-text.ts";

const root = join(import.meta.dir, "../golden/gguf");
const text = join(import.meta.dir, "../golden/text/llama-tiny");

describe("element types", () => {
  const expected = readSafetensors(join(root, "blocks.safetensors"));
  const path = join(root, "blocks.gguf");
  const stored = { path, tensors: ggufTensors(openGguf(fileSource(path))) };

  test.each([...stored.tensors.keys()])("%s is what the gguf package makes of it, to the bit", (name) => {
    const shape = expected.tensors.get(name)?.shape as readonly number[];
    const [got, want] = [new Float32Array(3 * 512), new Float32Array(3 * 512)];
    copyTensor(stored, name, shape, got);
    copyTensor(expected, name, shape, want);
    expect(got).toEqual(want);
  });

  test("all of them are there", () => {
    expect([...stored.tensors.values()].map(({ dtype }) => dtype)).toEqual([...expected.tensors.keys()].sort(byFile));
    expect(stored.tensors.size).toBe(9);
  });

  const byFile = (a: string, b: string) =>
    [...stored.tensors.keys()].indexOf(a) - [...stored.tensors.keys()].indexOf(b);
});

function load(folder: PolicyFolder) {
  const config = configFromHuggingFace(folder.readJson("config.json"), "config.json");
  const layout = parameterLayout(config);
  const flat = new Float32Array(layout.length);
  readWeights(readFolderWeights(folder), layout, flat);
  return { config, flat };
}

describe.each(["llama", "qwen2", "qwen3", "qwen3moe"])("%s", (name) => {
  test("config and weights are those of the Hugging Face folder, in a folder and as a file", () => {
    const expected = load(openPolicyFolder(join(root, name)));
    for (const path of [join(root, name, "gguf"), join(root, name, "gguf", `${name}.gguf`)]) {
      const { config, flat } = load(openPolicyFolder(path));
      expect(config).toEqual(expected.config);
      expect(flat).toEqual(expected.flat);
    }
  });
});

describe("the tokenizer inside", () => {
  const golden = JSON.parse(readFileSync(join(text, "tokenization.json"), "utf8")) as {
    readonly texts: readonly {
      readonly text: string;
      readonly ids: number[];
      readonly ids_with_special_tokens: number[];
    }[];
  };

  test("cuts text as the model's own tokenizer does", () => {
    const inside = readModelText(openPolicyFolder(join(root, "llama", "gguf")));
    const own = readModelText(openPolicyFolder(text));
    expect(golden.texts.length).toBeGreaterThan(10);
    for (const { text: sample, ids, ids_with_special_tokens } of golden.texts) {
      expect([...inside.tokenizer.encodeMarkup(sample)]).toEqual(ids);
      expect([...inside.tokenizer.encodeMarkup(sample, { begin: true })]).toEqual(ids_with_special_tokens);
      expect(inside.tokenizer.decode(Int32Array.from(ids))).toBe(own.tokenizer.decode(Int32Array.from(ids)));
    }
    // the file names one end token, the folder two
    expect(inside.endIds).toEqual(own.endIds.slice(0, 1));
    const chat = { messages: [{ role: "user", content: "Hello" }], add_generation_prompt: true };
    expect(inside.chat?.render(chat)).toBe(own.chat?.render(chat) as string);
  });

  test("files beside it win", () => {
    const folder = mkdtempSync(join(tmpdir(), "ale-gguf-"));
    cpSync(join(root, "llama", "gguf", "llama.gguf"), join(folder, "model.gguf"));
    writeFileSync(join(folder, "generation_config.json"), '{"eos_token_id": 7}');
    expect(readModelText(openPolicyFolder(folder)).endIds).toEqual([7]);
    cpSync(join(root, "llama", "gguf", "llama.gguf"), join(folder, "second.gguf"));
    expect(() => openPolicyFolder(folder)).toThrow("several GGUF files: model.gguf, second.gguf");
    rmSync(folder, { recursive: true });
  });
});

describe("what is not sound is named", () => {
  const bytes = readFileSync(join(root, "qwen2", "gguf", "qwen2.gguf"));
  const open = (content: Uint8Array) => openGguf(memorySource("x.gguf", content));
  const headerEnd = Math.min(...[...open(bytes).tensors.values()].map(({ offset }) => offset));

  test("every cut through the header, and a cut through the data", () => {
    for (let length = 0; length < headerEnd - 32; length += 37) {
      expect(() => open(bytes.subarray(0, length))).toThrow("x.gguf is not a sound GGUF file");
    }
    const cut = { path: "x.gguf", tensors: ggufTensors(open(bytes.subarray(0, -4))) };
    const readAll = () => {
      for (const { name, shape } of cut.tensors.values()) {
        copyTensor(cut, name, shape, new Float32Array(shape.reduce((product, size) => product * size, 1)));
      }
    };
    expect(readAll).toThrow("x.gguf is cut short");
  });

  test("another format, another version, another architecture, an unknown element type", () => {
    const changed = (at: number, value: number) => {
      const copy = Uint8Array.from(bytes);
      copy[at] = value;
      return copy;
    };
    expect(() => open(changed(0, 0))).toThrow("does not begin with GGUF");
    expect(() => open(changed(4, 1))).toThrow("it has version 1");
    const folder = mkdtempSync(join(tmpdir(), "ale-gguf-"));
    const path = join(folder, "x.gguf");
    const at = bytes.indexOf("qwen2");
    writeFileSync(path, changed(at + 4, "9".charCodeAt(0)));
    expect(() => openPolicyFolder(path)).toThrow(
      "general.architecture is qwen9; expected llama, qwen2, qwen3, qwen3moe",
    );
    const norm = bytes.indexOf("output_norm.weight") + "output_norm.weight".length + 4 + 8;
    writeFileSync(path, changed(norm, 99));
    expect(() => load(openPolicyFolder(path))).toThrow('"output_norm.weight" has type number 99; supported are F32');
    rmSync(folder, { recursive: true });
  });
});
