/** The tokenizer inside a GGUF file as the files a Hugging Face folder has. */

import { AleError } from "../core/errors.ts";
import type { GgufFile } from "./gguf.ts";
import { GgufMetadata } from "./gguf-metadata.ts";

/** Kinds of tokens in `tokenizer.ggml.token_type`. */
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const splitting = (numbers: string) => `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${numbers}|${REST}`;

interface PreTokenizer {
  readonly pattern: string;
  readonly nfc: boolean;
  readonly ignoreMerges: boolean;
}

const LLAMA3: PreTokenizer = { pattern: splitting("\\p{N}{1,3}"), nfc: false, ignoreMerges: true };
const QWEN2: PreTokenizer = { pattern: splitting("\\p{N}"), nfc: true, ignoreMerges: false };
/** By `tokenizer.ggml.pre`: how text is cut before merges. */
const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizer>> = {
  "llama-bpe": LLAMA3,
  llama3: LLAMA3,
  "llama-v3": LLAMA3,
  qwen2: QWEN2,
};

/** Makes a file's content. */
type Content = () => Record<string, unknown>;

/**
 * `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` by name; empty when the file has no byte-level BPE
 * with its merges. Making `tokenizer.json` throws `AleError("model")` for a way of cutting text that is not known.
 */
export function textFromGguf(file: GgufFile): ReadonlyMap<string, Content> {
  const metadata = new GgufMetadata(file);
  const tokens = metadata.strings("tokenizer.ggml.tokens");
  const merges = metadata.strings("tokenizer.ggml.merges");
  if (metadata.string("tokenizer.ggml.model") !== "gpt2" || tokens === undefined || merges === undefined) {
    return new Map();
  }
  return new Map<string, Content>([
    ["tokenizer.json", () => tokenizerJson(metadata, tokens, merges)],
    ["tokenizer_config.json", () => tokenizerConfig(metadata, tokens)],
    ["generation_config.json", () => ({ eos_token_id: endIds(metadata, tokens) })],
  ]);
}

interface Token {
  readonly id: number;
  readonly content: string;
}

function specialToken(metadata: GgufMetadata, key: string, tokens: readonly string[]): Token | undefined {
  const id = metadata.number(`tokenizer.ggml.${key}_token_id`);
  const content = id === undefined ? undefined : tokens[id];
  return id === undefined || content === undefined ? undefined : { id, content };
}

function tokenizerJson(
  metadata: GgufMetadata,
  tokens: readonly string[],
  merges: readonly string[],
): Record<string, unknown> {
  const types = metadata.numbers("tokenizer.ggml.token_type") ?? [];
  const { pattern, nfc, ignoreMerges } = preTokenizer(metadata);
  const bos = metadata.flag("tokenizer.ggml.add_bos_token") ? specialToken(metadata, "bos", tokens) : undefined;
  const pretokenizers = [
    { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false },
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
  ];
  const ordinary = tokens.flatMap((token, id) => (types[id] === UNUSED || isAdded(types[id]) ? [] : [[token, id]]));
  return {
    version: "1.0",
    added_tokens: addedTokens(tokens, types),
    normalizer: nfc ? { type: "NFC" } : null,
    pre_tokenizer: { type: "Sequence", pretokenizers },
    post_processor: postProcessor(bos),
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: "BPE", vocab: Object.fromEntries(ordinary), merges, ignore_merges: ignoreMerges },
  };
}

function tokenizerConfig(metadata: GgufMetadata, tokens: readonly string[]): Record<string, unknown> {
  const template = metadata.string("tokenizer.chat_template");
  const named = Object.entries(TOKEN_NAMES).flatMap(([key, name]) => {
    const token = specialToken(metadata, key, tokens);
    return token === undefined ? [] : [[name, token.content]];
  });
  return { ...Object.fromEntries(named), ...(template === undefined ? {} : { chat_template: template }) };
}

function endIds(metadata: GgufMetadata, tokens: readonly string[]): readonly number[] {
  const ids = ["eos", "eot"].flatMap((key) => specialToken(metadata, key, tokens)?.id ?? []);
  return [...new Set(ids)];
}

const TOKEN_NAMES = { bos: "bos_token", eos: "eos_token", padding: "pad_token", unknown: "unk_token" } as const;

function isAdded(type: number | undefined): boolean {
  return type === CONTROL || type === USER_DEFINED;
}

function addedTokens(tokens: readonly string[], types: readonly number[]): readonly Record<string, unknown>[] {
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return tokens.flatMap((content, id) =>
    isAdded(types[id]) ? [{ id, content, ...plain, special: types[id] === CONTROL }] : [],
  );
}

function preTokenizer(metadata: GgufMetadata): PreTokenizer {
  const name = metadata.string("tokenizer.ggml.pre") ?? "default";
  const known = Object.hasOwn(PRE_TOKENIZERS, name) ? PRE_TOKENIZERS[name] : undefined;
  if (known !== undefined) return known;
  throw new AleError("model", `${metadata.path}: the tokenizer "${name}" is not known`, {
    hint: "put the file in a folder with the model's tokenizer.json and give the folder",
  });
}

/** Puts the beginning-of-text token in front where the model wants one. */
function postProcessor(bos: Token | undefined): Record<string, unknown> {
  if (bos === undefined) return { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
  const { id, content } = bos;
  const token = { SpecialToken: { id: content, type_id: 0 } };
  const sequence = (name: string) => ({ Sequence: { id: name, type_id: 0 } });
  return {
    type: "TemplateProcessing",
    single: [token, sequence("A")],
    pair: [token, sequence("A"), token, sequence("B")],
    special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } },
  };
}
