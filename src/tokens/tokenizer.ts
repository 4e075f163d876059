/** Text ↔ tokens, by Hugging Face's tokenizer library on a `tokenizer.json`. */

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";
import type { Tokenizer } from "../core/ports.ts";
import { type DecoderSpec, DecoderSpecSchema, tokenBytes, tokenCoding } from "./token-bytes.ts";

const TokenizerFileSchema = z.looseObject({
  added_tokens: z
    .array(z.looseObject({ id: z.number().int(), content: z.string(), special: z.boolean().default(false) }))
    .default([]),
  decoder: DecoderSpecSchema,
  model: z.looseObject({
    type: z.literal("BPE", { error: "model.type is not BPE, the only kind that is supported" }),
    // 150 000 entries of published models: checked where they are used, not one by one
    vocab: z.custom<Record<string, number>>((value) => typeof value === "object" && value !== null),
    continuing_subword_prefix: z.literal([null, ""]).optional(),
    end_of_word_suffix: z.literal([null, ""]).optional(),
  }),
});

/** Pre-tokens whose ids are remembered, some 2 MB: a task invents names, so a long run meets ever new ones. */
const CACHE_LIMIT = 16_384;

/** A byte-pair tokenizer in the `tokenizer.json` format of Hugging Face tokenizers. */
export class BpeTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  /** Ids of the tokens that stand outside of the merges, by their text; those of a chat template are among them. */
  readonly addedTokens: ReadonlyMap<string, number>;
  /** Ids of those that mark structure and are no text of an answer, e.g. `<|im_end|>`. */
  readonly specialIds: ReadonlySet<number>;
  readonly #library: HuggingFaceTokenizer;
  readonly #decoder: DecoderSpec;
  readonly #addedIds: ReadonlySet<number>;
  readonly #cache = new Map<string, readonly number[]>();
  /** Bytes of each token, filled as they are needed. */
  readonly #bytes: Uint8Array[] = [];

  /**
   * `json` is a parsed `tokenizer.json`, `source` its path for messages.
   * Throws `AleError("tokenizer")` when it is not a BPE tokenizer, or has a decoder that is not known.
   */
  constructor(json: unknown, source: string) {
    const parsed = TokenizerFileSchema.safeParse(json);
    if (!parsed.success) {
      throw new AleError("tokenizer", `${source} is not a tokenizer Ale can use: ${z.prettifyError(parsed.error)}`, {
        hint: "use the tokenizer.json of a llama or qwen model, or one that `ale sft` wrote",
      });
    }
    const { added_tokens: added, decoder, model } = parsed.data;
    try {
      // Versions of the format leave out what is null, and the library insists on the keys.
      const complete = { normalizer: null, pre_tokenizer: null, post_processor: null, ...(json as object) };
      this.#library = new HuggingFaceTokenizer({ ...complete, added_tokens: added }, {});
      this.#decoder = tokenCoding(decoder);
    } catch (error) {
      throw new AleError("tokenizer", `${source} cannot be loaded: ${errorMessage(error)}`, { cause: error });
    }
    this.addedTokens = new Map(added.map(({ content, id }) => [content, id]));
    this.#addedIds = new Set(this.addedTokens.values());
    this.specialIds = new Set(added.flatMap(({ id, special }) => (special ? [id] : [])));
    let last = -1;
    for (const id of Object.values(model.vocab)) last = Math.max(last, id);
    for (const id of this.#addedIds) last = Math.max(last, id);
    this.vocabularySize = last + 1;
  }

  /** Text never becomes structure: a file that holds the letters `<|im_end|>` is not encoded as that token. */
  encode(text: string): Int32Array {
    const { normalizer, pre_tokenizer: split } = this.#library;
    const normal = normalizer === null ? text : normalizer(text);
    if (normal === "") return new Int32Array(0);
    const words = split === null ? [normal] : split(normal, { section_index: 0 });
    const ids: number[] = [];
    for (const word of words) ids.push(...this.#encodeWord(word));
    return Int32Array.from(ids);
  }

  /**
   * Encodes text in which the added tokens are written out, as a chat template renders it. With `begin`, the tokens that the
   * model expects around a text of its own are added, for instance Llama's `<|begin_of_text|>`.
   */
  encodeMarkup(text: string, options: { readonly begin?: boolean } = {}): Int32Array {
    return Int32Array.from(this.#library.encode(text, { add_special_tokens: options.begin ?? false }).ids);
  }

  /**
   * The text of any tokens, to the byte; bytes that do not form UTF-8 become U+FFFD, and ids without a token nothing. The
   * library's own decoder throws for an empty list, drops spaces before punctuation unless told not to (`ls .` would run as
   * `ls.`) and cannot say which bytes a token stands for, so the bytes are joined here.
   */
  decode(ids: Int32Array, options: { readonly skipSpecial?: boolean } = {}): string {
    const kept = options.skipSpecial === true ? ids.filter((id) => !this.specialIds.has(id)) : ids;
    const parts = Array.from(kept, (id) => this.bytes(id));
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(parts));
    let cut = 0;
    while (cut < this.#decoder.stripStart && text[cut] === " ") cut++;
    return text.slice(cut);
  }

  bytes(id: number): Uint8Array {
    let bytes = this.#bytes[id];
    if (bytes === undefined) {
      const token = this.#library.id_to_token(id) ?? "";
      bytes = this.#addedIds.has(id) ? new TextEncoder().encode(token) : tokenBytes(token, this.#decoder);
      this.#bytes[id] = bytes;
    }
    return bytes;
  }

  special(name: string): number {
    const id = this.addedTokens.get(name);
    if (id !== undefined) return id;
    throw new AleError("tokenizer", `the tokenizer has no token ${name}`, {
      hint: `it has ${[...this.addedTokens.keys()].slice(0, 20).join(" ")}; use the tokenizer the policy was trained with`,
    });
  }

  #encodeWord(word: string): readonly number[] {
    const cached = this.#cache.get(word);
    if (cached !== undefined) return cached;
    const model = this.#library.model as NonNullable<HuggingFaceTokenizer["model"]>;
    // A character that no token can write becomes the unknown token, or nothing where there is none.
    const ids = model([word]).map((token) => model.tokens_to_ids.get(token) as number);
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

/** Share of a model's embeddings that may be padding: published models round their vocabulary up, small ones by much. */
const MAX_PADDING = 0.25;

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
