/** Text ↔ tokens, by Hugging Face's tokenizer library on a `tokenizer.json`. */

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";
import type { Tokenizer } from "../core/ports.ts";

const TokenizerFileSchema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id: z.number().int(), content: z.string() })).default([]),
  pre_tokenizer: z
    .looseObject({ type: z.literal("Split"), pattern: z.looseObject({ Regex: z.string() }) })
    .describe("a Split by a regular expression"),
  model: z.looseObject({ type: z.literal("BPE"), vocab: z.record(z.string(), z.number().int()) }),
});

/** Pre-tokens whose ids are remembered. */
const CACHE_LIMIT = 200_000;

/**
 * Encodes pre-token by pre-token, with a cache. Besides being fast this keeps text and structure apart: a file that contains
 * the letters `<done>` is never encoded as the special token.
 */
export class BpeTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  readonly #library: HuggingFaceTokenizer;
  readonly #pattern: RegExp;
  readonly #specials: ReadonlyMap<string, number>;
  readonly #cache = new Map<string, readonly number[]>();
  /** Bytes of each token, filled as they are needed. */
  readonly #bytes: Uint8Array[] = [];

  /**
   * `json` is a parsed `tokenizer.json`, `source` its path for messages.
   * Throws `AleError("tokenizer")` when it is not a BPE tokenizer with a Split pre-tokenizer.
   */
  constructor(json: unknown, source: string) {
    const parsed = TokenizerFileSchema.safeParse(json);
    if (!parsed.success) {
      throw new AleError("tokenizer", `${source} is not a tokenizer Ale can use: ${z.prettifyError(parsed.error)}`, {
        hint: "small policies use a BPE tokenizer.json as `ale sft` writes it",
      });
    }
    try {
      this.#library = new HuggingFaceTokenizer(json as object, {});
    } catch (error) {
      throw new AleError("tokenizer", `${source} cannot be loaded: ${errorMessage(error)}`, { cause: error });
    }
    this.#pattern = new RegExp(parsed.data.pre_tokenizer.pattern.Regex, "gu");
    this.#specials = new Map(parsed.data.added_tokens.map(({ content, id }) => [content, id]));
    const ids = [...Object.values(parsed.data.model.vocab), ...this.#specials.values()];
    this.vocabularySize = Math.max(...ids) + 1;
  }

  encode(text: string): Int32Array {
    const ids: number[] = [];
    for (const [word] of text.matchAll(this.#pattern)) ids.push(...this.#encodeWord(word));
    return Int32Array.from(ids);
  }

  /**
   * The text of any tokens, to the byte; byte tokens that do not form UTF-8 become U+FFFD. The library's own decoder throws
   * for an empty list, drops spaces before punctuation unless told not to (`ls .` would run as `ls.`) and loses a byte order
   * mark, so the bytes of the tokens are joined here.
   */
  decode(ids: Int32Array): string {
    const parts = Array.from(ids, (id) => this.#bytesOf(id));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(parts));
  }

  special(name: string): number {
    const id = this.#specials.get(name);
    if (id !== undefined) return id;
    throw new AleError("tokenizer", `the tokenizer has no token ${name}`, {
      hint: `it has ${[...this.#specials.keys()].join(" ")}; use the tokenizer the policy was trained with`,
    });
  }

  #bytesOf(id: number): Uint8Array {
    let bytes = this.#bytes[id];
    if (bytes === undefined) {
      const token = this.#library.id_to_token(id) ?? "";
      const byte = /^<0x([0-9A-F]{2})>$/.exec(token)?.[1];
      bytes = byte === undefined ? new TextEncoder().encode(token) : Uint8Array.of(Number.parseInt(byte, 16));
      this.#bytes[id] = bytes;
    }
    return bytes;
  }

  #encodeWord(word: string): readonly number[] {
    const cached = this.#cache.get(word);
    if (cached !== undefined) return cached;
    const ids = this.#library.encode(word, { add_special_tokens: false }).ids;
    if (this.#cache.size >= CACHE_LIMIT) this.#cache.clear();
    this.#cache.set(word, ids);
    return ids;
  }
}

/** Reads the bytes of a `tokenizer.json`. Throws `AleError("tokenizer")` naming `source`. */
export function parseTokenizer(bytes: Uint8Array, source: string): BpeTokenizer {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new AleError("tokenizer", `${source} is not JSON: ${errorMessage(error)}`, { cause: error });
  }
  return new BpeTokenizer(json, source);
}

/** Share of a model's embeddings that may be padding, as published models round their vocabulary up. */
const MAX_PADDING = 0.05;

/**
 * Throws `AleError("tokenizer")` when the tokenizer can produce ids that the model has no embedding for, or is too small to be
 * the one the model was trained with.
 */
export function assertVocabulary(tokenizer: Tokenizer, modelVocabulary: number, source: string): void {
  const padding = modelVocabulary - tokenizer.vocabularySize;
  if (padding >= 0 && padding <= modelVocabulary * MAX_PADDING) return;
  throw new AleError(
    "tokenizer",
    `${source} has ${tokenizer.vocabularySize} tokens, but the model has embeddings for ${modelVocabulary}`,
    { hint: "use the tokenizer.json that belongs to the model" },
  );
}
