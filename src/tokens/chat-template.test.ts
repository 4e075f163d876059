import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type ChatInput, ChatTemplate } from "./chat-template.ts";
import { parseTemplateJson } from "./template-json.ts";

const VECTORS = join(import.meta.dir, "../../test/golden/text");

test("random conversations are rendered as by jinja2", () => {
  const templates = new Map(
    ["qwen2-tiny", "qwen3-tiny"].map((model) => {
      const config = JSON.parse(readFileSync(join(VECTORS, model, "tokenizer_config.json"), "utf8"));
      return [model, new ChatTemplate(config.chat_template, {}, model)] as const;
    }),
  );
  const cases = JSON.parse(readFileSync(join(VECTORS, "conversations.json"), "utf8")) as {
    model: string;
    input: string;
    text: string;
  }[];
  expect(cases.length).toBe(35);
  for (const { model, input, text } of cases) {
    expect(templates.get(model)?.render(parseTemplateJson(input) as ChatInput)).toBe(text);
  }
});

// Right: what Python prints.
test.each([
  ["x.strip()", " \t\u0085ab\ufeff \n", "ab\ufeff"],
  ["x.strip('\\n')", "\n a \n\n", " a "],
  ["x.lstrip('ab')", "abba b", " b"],
  ["x.rstrip('🙂b')", "a🙂b🙂", "a"],
  ["x.split('|')[0].rstrip('\\n').lstrip('\\n')", "\n a\n|b", " a"],
  ["x.strip('')", " a ", " a "],
])("%s of %j", (expression, x, written) => {
  const template = new ChatTemplate(`{% if true %}{{ '<' + ${expression} + '>' }}{% endif %}`, {}, "test");
  expect(template.render({ messages: [], x })).toBe(`<${written}>`);
});

test("a template that cannot be read, and one that refuses a conversation, say so", () => {
  expect(() => new ChatTemplate("{% if %}", {}, "m/t.jinja")).toThrow("the chat template in m/t.jinja cannot be read");
  const strict = new ChatTemplate("{{ raise_exception('roles must alternate') }}", {}, "m/t.jinja");
  expect(() => strict.render({ messages: [] })).toThrow(
    "the chat template in m/t.jinja refuses this: roles must alternate",
  );
});
