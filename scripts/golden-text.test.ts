import { expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkText } from "./golden-text.ts";
import { REPOSITORY } from "./repository.ts";

const VECTORS = join(REPOSITORY, "test/golden/text");

test.each(["llama-tiny", "qwen2-tiny", "qwen3-tiny"])("%s: every id, text and conversation is exact", (model) => {
  for (const { run } of checkText(join(VECTORS, model))) expect(run?.()).toMatch(/^(20 texts|9 conversations)/);
});

test("a wrong id, text or rendering is found and named", () => {
  const folder = mkdtempSync(join(tmpdir(), "ale-text-"));
  try {
    cpSync(join(VECTORS, "llama-tiny"), folder, { recursive: true });
    const change = (file: string, from: string, to: string) =>
      writeFileSync(join(folder, file), readFileSync(join(folder, file), "utf8").replace(from, to));
    change("tokenization.json", '"decoded": "Hello world"', '"decoded": "Hello World"');
    change("chat.json", "Be brief.", "Be  brief.");
    const [tokenization, chat] = checkText(folder);
    expect(() => tokenization?.run?.()).toThrow('text of "Hello world": got "Hello world", expected "Hello World"');
    expect(() => chat?.run?.()).toThrow("system and history: text");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
