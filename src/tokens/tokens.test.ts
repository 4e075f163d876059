import { expect, test } from "bun:test";
import { Tokenizer } from "@huggingface/tokenizers";
import fc from "fast-check";
import { anyText } from "../../test/support/arbitrary-text.ts";
import { AleError } from "../core/errors.ts";
import { trainBpe } from "./bpe-trainer.ts";
import { assertVocabulary, BpeTokenizer, parseTokenizer } from "./tokenizer.ts";

const texts = ["delete the file that contains tosana", "grep -l tosana *", "rm bizupa", "sort -u fa.txt > lo.dat"];
const json = trainBpe(texts, 300);
const tokenizer = new BpeTokenizer(json, "test");

test("specials stand at 0–4 and the vocabulary has the size that was asked for", () => {
  expect(["<pad>", "<task>", "<cmd>", "<obs>", "<done>"].map((name) => tokenizer.special(name))).toEqual([
    0, 1, 2, 3, 4,
  ]);
  expect(tokenizer.vocabularySize).toBe(300);
});

test("training is deterministic", () => {
  expect(JSON.stringify(trainBpe(texts, 300))).toBe(JSON.stringify(json));
});

test("a word has the same tokens after a space, a slash and an equals sign", () => {
  const word = [...tokenizer.encode("tosana")];
  for (const before of [" ", "/", "="]) expect([...tokenizer.encode(`${before}tosana`)].slice(1)).toEqual(word);
});

test("any text comes back as it was", () => {
  fc.assert(
    fc.property(
      anyText.filter((text) => text.isWellFormed()),
      (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      },
    ),
    { numRuns: 15 },
  );
});

test("spaces before punctuation and byte order marks survive", () => {
  for (const text of ["ls .", "echo ! , ?", "it 's", "\ufeffabc", "a\tb\0", ""]) {
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  }
});

test("any bytes can be written with byte tokens, and any tokens can be read", () => {
  const idOf = (byte: number) => tokenizer.encode(String.fromCharCode(byte))[0] as number;
  expect(tokenizer.decode(Int32Array.of(idOf(9), idOf(65)))).toBe("\tA");
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 299 })), (ids) => {
      expect(typeof tokenizer.decode(Int32Array.from(ids))).toBe("string");
    }),
  );
});

test("text never becomes structure", () => {
  expect([...tokenizer.encode("<done><cmd>")].every((id) => id > 4)).toBe(true);
});

test("ids agree with the library's own encoding", () => {
  const library = new Tokenizer(json, {});
  for (const text of [...texts, "x9 é\t<"]) {
    expect([...tokenizer.encode(text)]).toEqual(library.encode(text, { add_special_tokens: false }).ids);
  }
});

test("what is wrong with a tokenizer is said", () => {
  const message = (work: () => unknown) => {
    try {
      work();
    } catch (error) {
      return error instanceof AleError ? `${error.code}: ${error.message}` : String(error);
    }
    return "no error";
  };
  expect(message(() => parseTokenizer(new TextEncoder().encode("{"), "t.json"))).toContain(
    "tokenizer: t.json is not JSON",
  );
  expect(message(() => new BpeTokenizer({ model: { type: "Unigram" } }, "t.json"))).toContain(
    "t.json is not a tokenizer",
  );
  expect(message(() => tokenizer.special("<eos>"))).toContain("no token <eos>");
  expect(message(() => assertVocabulary(tokenizer, 256, "t.json"))).toContain(
    "300 tokens, but the model has embeddings for 256",
  );
  expect(message(() => assertVocabulary(tokenizer, 512, "t.json"))).toContain("the model has embeddings for 512");
  expect(message(() => assertVocabulary(tokenizer, 304, "t.json"))).toBe("no error");
  expect(message(() => trainBpe(texts, 100))).toContain("too small");
});
