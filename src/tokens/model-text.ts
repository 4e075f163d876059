/** What a Hugging Face folder says about text: tokenizer, chat template, end tokens and sampling defaults. */

import { z } from "zod";
import { AleError } from "../core/errors.ts";
import { ChatTemplate } from "./chat-template.ts";
import { type BpeTokenizer, parseTokenizer } from "./tokenizer.ts";

/** Reads files of a model folder by name. */
export interface TextFolder {
  readonly location: string;
  has(name: string): boolean;
  read(name: string): Uint8Array;
  readJson(name: string): Record<string, unknown>;
}

export interface ModelText {
  readonly tokenizer: BpeTokenizer;
  readonly chat: ChatTemplate | undefined;
  /** Ids that end an answer; empty when the folder names none. */
  readonly endIds: readonly number[];
  readonly sampling: SamplingDefaults;
  /** The files all this was read from, by name. */
  readonly files: ReadonlyMap<string, string>;
}

/** Files about text that belong to a model besides its weights and `config.json`. */
const TEXT_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
  "generation_config.json",
] as const;

/** How the authors of a model sample from it; what they leave out is undefined. */
export interface SamplingDefaults {
  readonly temperature: number | undefined;
  readonly topK: number | undefined;
  readonly topP: number | undefined;
  readonly minP: number | undefined;
  readonly repetitionPenalty: number | undefined;
}

const TokenTextSchema = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish();
const TOKEN_NAMES = ["bos_token", "eos_token", "pad_token", "unk_token"] as const;
const TokenTextsSchema = z.looseObject({
  bos_token: TokenTextSchema,
  eos_token: TokenTextSchema,
  pad_token: TokenTextSchema,
  unk_token: TokenTextSchema,
  chat_template: z.union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))]).nullish(),
});
const number = z.number().nullish();
const GenerationConfigSchema = z.looseObject({
  eos_token_id: z.union([z.number().int(), z.array(z.number().int())]).nullish(),
  temperature: number,
  top_k: number,
  top_p: number,
  min_p: number,
  repetition_penalty: number,
});

/**
 * Reads `tokenizer.json` and, where they are, `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`,
 * `generation_config.json` and `config.json`. Throws `AleError("tokenizer" | "model")` naming the file that does not fit.
 */
export function readModelText(folder: TextFolder): ModelText {
  const tokenizer = parseTokenizer(folder.read("tokenizer.json"), `${folder.location}/tokenizer.json`);
  const config = readOptional(folder, "tokenizer_config.json", TokenTextsSchema);
  const map = readOptional(folder, "special_tokens_map.json", TokenTextsSchema);
  const texts: Record<string, string> = {};
  for (const name of TOKEN_NAMES) {
    const token = config[name] ?? map[name];
    if (token !== null && token !== undefined) texts[name] = typeof token === "string" ? token : token.content;
  }
  const template = templateSource(folder, config.chat_template);
  const generation = readOptional(folder, "generation_config.json", GenerationConfigSchema);
  return {
    tokenizer,
    chat: template && new ChatTemplate(template.source, texts, template.location),
    endIds: endIds(folder, tokenizer, generation.eos_token_id, texts.eos_token),
    sampling: {
      temperature: generation.temperature ?? undefined,
      topK: generation.top_k ?? undefined,
      topP: generation.top_p ?? undefined,
      minP: generation.min_p ?? undefined,
      repetitionPenalty: generation.repetition_penalty ?? undefined,
    },
    files: new Map(
      TEXT_FILES.filter((name) => folder.has(name)).map((name) => [name, new TextDecoder().decode(folder.read(name))]),
    ),
  };
}

/** A template in a file of its own wins, as in Hugging Face's loader. Of several in the config, `default` is the one. */
function templateSource(
  folder: TextFolder,
  inConfig: z.infer<typeof TokenTextsSchema>["chat_template"],
): { readonly source: string; readonly location: string } | undefined {
  const file = "chat_template.jinja";
  if (folder.has(file)) {
    return { source: new TextDecoder().decode(folder.read(file)), location: `${folder.location}/${file}` };
  }
  const source = typeof inConfig === "string" ? inConfig : inConfig?.find(({ name }) => name === "default")?.template;
  return source === undefined ? undefined : { source, location: `${folder.location}/tokenizer_config.json` };
}

function endIds(
  folder: TextFolder,
  tokenizer: BpeTokenizer,
  generation: number | number[] | null | undefined,
  token: string | undefined,
): number[] {
  const inConfig = () => readOptional(folder, "config.json", GenerationConfigSchema).eos_token_id;
  const ids = generation ?? inConfig() ?? (token === undefined ? [] : (tokenizer.addedTokens.get(token) ?? []));
  return Array.isArray(ids) ? ids : [ids];
}

function readOptional<T extends z.ZodType>(folder: TextFolder, name: string, schema: T): z.infer<T> {
  const parsed = schema.safeParse(folder.has(name) ? folder.readJson(name) : {});
  if (parsed.success) return parsed.data;
  throw new AleError("tokenizer", `${folder.location}/${name}: ${z.prettifyError(parsed.error)}`);
}
