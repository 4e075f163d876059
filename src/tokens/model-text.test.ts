import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { readModelText, type TextFolder } from "./model-text.ts";
import { parseTokenizer } from "./tokenizer.ts";

const VECTORS = join(import.meta.dir, "../../test/golden/text");
const MODELS = ["llama-tiny", "qwen2-tiny", "qwen3-tiny"];

/** A model folder with some of its files replaced. */
function folderOf(model: string, changed: Readonly<Record<string, unknown>> = {}): TextFolder {
  const textOf = (name: string): string | undefined => {
    if (name in changed) {
      const content = changed[name];
      return typeof content === "string" ? content : content === null ? undefined : JSON.stringify(content);
    }
    return ["tokenizer.json", "tokenizer_config.json", "generation_config.json"].includes(name)
      ? readFileSync(join(VECTORS, model, name), "utf8")
      : undefined;
  };
  return {
    location: model,
    has: (name) => textOf(name) !== undefined,
    read: (name) => new TextEncoder().encode(textOf(name) ?? ""),
    readJson: (name) => JSON.parse(textOf(name) ?? "") as Record<string, unknown>,
  };
}

const tokenizerOf = (model: string) => readModelText(folderOf(model)).tokenizer;
const config = (model: string) =>
  JSON.parse(readFileSync(join(VECTORS, model, "tokenizer_config.json"), "utf8")) as Record<string, unknown>;

describe.each(MODELS)("tokenizer of %s", (model) => {
  const tokenizer = tokenizerOf(model);

  test("any text comes back, but for what the normalizer composes", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        const expected = model === "llama-tiny" ? text : text.normalize("NFC");
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(expected);
        expect(tokenizer.decode(tokenizer.encodeMarkup(text))).toBe(expected);
      }),
      { numRuns: 50 },
    );
  });

  test("text never becomes structure, markup does", () => {
    for (const [name, id] of tokenizer.addedTokens) {
      expect([...tokenizer.encodeMarkup(`a${name}b`)]).toContain(id);
      expect([...tokenizer.encode(`a${name}b`)]).not.toContain(id);
      expect(tokenizer.decode(tokenizer.encode(name))).toBe(name);
    }
  });

  test("the bytes of the tokens are the bytes of the text", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: tokenizer.vocabularySize + 3 })), (numbers) => {
        const ids = Int32Array.from(numbers);
        const bytes = Buffer.concat([...ids].map((id) => tokenizer.bytes(id)));
        expect(tokenizer.decode(ids)).toBe(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
      }),
      { numRuns: 50 },
    );
  });
});

test("SentencePiece vocabularies: spaces, byte tokens, and the space they put in front", () => {
  const vocab = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "▁ab"];
  const json = {
    added_tokens: [{ id: 1, content: "<s>", special: true }],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
      merges: ["▁ a", "▁a b"],
    },
  };
  const tokenizer = parseTokenizer(new TextEncoder().encode(JSON.stringify(json)), "t.json");
  expect([...tokenizer.encode("ab aé")]).toEqual([9, 8, 3, 4]);
  expect(tokenizer.decode(tokenizer.encode("ab aé"))).toBe("ab aé");
  expect(tokenizer.decode(Int32Array.of(3))).toBe("\ufffd");
  expect([...tokenizer.encode("z")]).toEqual([5, 0]);
});

describe("what a folder says", () => {
  test("end tokens come from generation_config.json, config.json or the name of the token", () => {
    expect(readModelText(folderOf("llama-tiny")).endIds).toEqual([319, 317]);
    expect(readModelText(folderOf("llama-tiny", { "generation_config.json": { eos_token_id: 7 } })).endIds).toEqual([
      7,
    ]);
    const files = { "generation_config.json": null, "config.json": { eos_token_id: [1, 2] } };
    expect(readModelText(folderOf("llama-tiny", files)).endIds).toEqual([1, 2]);
    expect(readModelText(folderOf("llama-tiny", { "generation_config.json": null })).endIds).toEqual([319]);
    const nameless = { "generation_config.json": null, "tokenizer_config.json": {} };
    expect(readModelText(folderOf("llama-tiny", nameless)).endIds).toEqual([]);
  });

  test("sampling defaults", () => {
    const { sampling } = readModelText(folderOf("qwen3-tiny"));
    expect(sampling).toEqual({ temperature: 0.7, topK: 20, topP: 0.8, minP: undefined, repetitionPenalty: 1 });
  });

  test("a template lies in the config, in a list by name, or in a file of its own, which wins", () => {
    const render = (files: Record<string, unknown>) =>
      readModelText(folderOf("llama-tiny", files)).chat?.render({ messages: [] });
    const named = [
      { name: "tool_use", template: "tools" },
      { name: "default", template: "list of {{ bos_token }}" },
    ];
    const withList = { ...config("llama-tiny"), chat_template: named };
    expect(render({ "tokenizer_config.json": withList })).toBe("list of <|begin_of_text|>");
    expect(render({ "tokenizer_config.json": withList, "chat_template.jinja": "file" })).toBe("file");
    expect(render({ "tokenizer_config.json": {} })).toBeUndefined();
    const object = { bos_token: { content: "<b>" }, chat_template: "{{ bos_token }}{{ eos_token }}" };
    const map = { eos_token: "<e>" };
    expect(render({ "tokenizer_config.json": object, "special_tokens_map.json": map })).toBe("<b><e>");
  });

  test("a file that does not fit is named", () => {
    const wrong = { "generation_config.json": { eos_token_id: "x" } };
    expect(() => readModelText(folderOf("llama-tiny", wrong))).toThrow("llama-tiny/generation_config.json");
    expect(() => readModelText(folderOf("llama-tiny", { "tokenizer.json": { model: { type: "WordPiece" } } }))).toThrow(
      "llama-tiny/tokenizer.json is not a tokenizer Ale can use",
    );
  });
});
