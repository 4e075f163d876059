/**
 * Learns byte-pair merges (Sennrich et al., arXiv 1508.07909) and writes them in the `tokenizer.json` format of Hugging
 * Face tokenizers, with byte fallback, so that any text can be encoded.
 *
 * Pre-tokens are runs of lower-case letters, single digits and single other characters: a word has the same tokens after a
 * space, a `/` or a `=`, so copying it stays a pure induction problem.
 */

import { AleError } from "../core/errors.ts";

/** The tokens that structure a transcript, at ids 0–4. */
export const SPECIAL_TOKENS = ["<pad>", "<task>", "<cmd>", "<obs>", "<done>"] as const;

/** One match is one pre-token. */
export const PRE_TOKEN_PATTERN = "[a-z]+|[0-9]|[^a-z0-9]";

/** Newline and printable ASCII have tokens of their own; every other byte is written as `<0xNN>`. */
const BASE_CHARACTERS = ["\n", ...Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i))];

function byteTokens(): string[] {
  const own = new Set(BASE_CHARACTERS.map((character) => character.charCodeAt(0)));
  const others = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !own.has(byte));
  return others.map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
}

interface Word {
  pieces: string[];
  readonly count: number;
}

type Pair = readonly [string, string];

/**
 * Learns a tokenizer of `vocabularySize` tokens. The result depends on the texts alone: ties go to the pair that sorts last.
 * Throws `AleError("tokenizer")` when the size leaves no room for the base tokens.
 */
export function trainBpe(texts: Iterable<string>, vocabularySize: number): Record<string, unknown> {
  const base = [...SPECIAL_TOKENS, ...BASE_CHARACTERS, ...byteTokens()];
  if (vocabularySize < base.length) {
    throw new AleError(
      "tokenizer",
      `a vocabulary of ${vocabularySize} is too small: the base tokens alone are ${base.length}`,
      {
        hint: `set sft.vocabulary to at least ${base.length}`,
      },
    );
  }
  const words = countWords(texts);
  const merges: Pair[] = [];
  while (base.length + merges.length < vocabularySize) {
    const pair = mostFrequentPair(words);
    if (pair === undefined) break;
    merges.push(pair);
    for (const word of words) applyMerge(word, pair);
  }
  return tokenizerJson([...base, ...merges.map(([a, b]) => a + b)], merges);
}

function countWords(texts: Iterable<string>): Word[] {
  const pattern = new RegExp(PRE_TOKEN_PATTERN, "gu");
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(pattern)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [...counts].map(([word, count]) => ({ pieces: [...word], count }));
}

function mostFrequentPair(words: readonly Word[]): Pair | undefined {
  const counts = new Map<string, number>();
  for (const { pieces, count } of words) {
    for (let i = 1; i < pieces.length; i++) {
      const key = `${pieces[i - 1]} ${pieces[i]}`;
      counts.set(key, (counts.get(key) ?? 0) + count);
    }
  }
  let best: string | undefined;
  let most = 0;
  for (const [key, count] of counts) {
    if (count > most || (count === most && best !== undefined && key > best)) {
      best = key;
      most = count;
    }
  }
  // pieces of more than one character are letters only, so the space separates them
  return best?.split(" ") as Pair | undefined;
}

function applyMerge(word: Word, [left, right]: Pair): void {
  if (!word.pieces.includes(left)) return;
  const merged: string[] = [];
  for (let i = 0; i < word.pieces.length; i++) {
    if (word.pieces[i] === left && word.pieces[i + 1] === right) {
      merged.push(left + right);
      i++;
    } else {
      merged.push(word.pieces[i] as string);
    }
  }
  word.pieces = merged;
}

function tokenizerJson(vocabulary: readonly string[], merges: readonly Pair[]): Record<string, unknown> {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: "Split", pattern: { Regex: PRE_TOKEN_PATTERN }, behavior: "Isolated", invert: false },
    post_processor: null,
    decoder: { type: "Sequence", decoders: [{ type: "ByteFallback" }, { type: "Fuse" }] },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges,
    },
  };
}
