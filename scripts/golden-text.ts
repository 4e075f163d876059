/** Golden models: token ids, decoded text and rendered conversations, all exact. */

import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { openPolicyFolder } from "../src/models/policy-folder.ts";
import { type ModelText, readModelText } from "../src/tokens/model-text.ts";
import { parseTemplateJson } from "../src/tokens/template-json.ts";
import type { GoldenCase } from "./golden.ts";

const ids = z.array(z.number());
const TokenizationSchema = z.object({
  texts: z.array(
    z.object({
      text: z.string(),
      ids,
      ids_with_special_tokens: ids,
      decoded: z.string(),
      decoded_without_special_tokens: z.string(),
    }),
  ),
  incomplete_utf8: z.array(z.object({ ids, decoded: z.string() })),
});
const ChatsSchema = z.object({
  chats: z.array(z.looseObject({ name: z.string(), messages: z.array(z.unknown()), text: z.string(), ids })),
});

/** The cases of `tokenization.json` and `chat.json` in a model folder. */
export function checkText(folder: string): GoldenCase[] {
  const model = basename(folder);
  // Read with the first case, so that a tokenizer that cannot be used is that case's failure.
  let opened: ModelText | undefined;
  const text = () => {
    opened ??= readModelText(openPolicyFolder(folder));
    return opened;
  };
  const cases = [
    { file: "tokenization.json", name: `${model} tokenization`, run: () => checkTokenization(folder, text()) },
    { file: "chat.json", name: `${model} chat`, run: () => checkChats(folder, text()) },
  ];
  return cases.filter(({ file }) => existsSync(join(folder, file)));
}

function checkTokenization(folder: string, { tokenizer }: ModelText): string {
  const golden = TokenizationSchema.parse(readJson(join(folder, "tokenization.json")));
  for (const item of golden.texts) {
    const what = JSON.stringify(item.text);
    const encoded = Int32Array.from(item.ids);
    same(`ids of ${what}`, [...tokenizer.encodeMarkup(item.text)], item.ids);
    const complete = [...tokenizer.encodeMarkup(item.text, { begin: true })];
    same(`ids of ${what} with special tokens`, complete, item.ids_with_special_tokens);
    same(`text of ${what}`, tokenizer.decode(encoded), item.decoded);
    const plain = tokenizer.decode(encoded, { skipSpecial: true });
    same(`text of ${what} without special tokens`, plain, item.decoded_without_special_tokens);
  }
  for (const item of golden.incomplete_utf8) {
    same(`text of ${item.ids.join(" ")}`, tokenizer.decode(Int32Array.from(item.ids)), item.decoded);
  }
  return `${golden.texts.length} texts, ${golden.incomplete_utf8.length} cut characters`;
}

function checkChats(folder: string, { tokenizer, chat }: ModelText): string {
  const { chats } = ChatsSchema.parse(readJson(join(folder, "chat.json")));
  if (chat === undefined) throw new Error("the folder has no chat template");
  for (const { name, text, ids: expected, ...input } of chats) {
    same(`${name}: text`, chat.render(input), text);
    same(`${name}: ids`, [...tokenizer.encodeMarkup(text)], expected);
  }
  return `${chats.length} conversations`;
}

function readJson(path: string): unknown {
  return parseTemplateJson(readFileSync(path, "utf8"));
}

function same(what: string, got: unknown, expected: unknown): void {
  if (Bun.deepEquals(got, expected)) return;
  throw new Error(`${what}: got ${JSON.stringify(got)}, expected ${JSON.stringify(expected)}`);
}
