import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import type { CommandResult } from "../core/ports.ts";
import { type ChatMessage, ChatTemplate } from "../tokens/chat-template.ts";
import { type ModelText, readModelText, type TextFolder } from "../tokens/model-text.ts";
import { DONE_WORD, readChatAnswer, SYSTEM_PROMPT, writeCommandBlock } from "./chat-answer.ts";
import { chatFormat, renderChat } from "./chat-format.ts";

const VECTORS = join(import.meta.dir, "../../test/golden/text");

type ChatText = ModelText & { readonly chat: ChatTemplate };

/** A golden tokenizer, with its own template or another one. */
function textOf(model: string, template?: string): ChatText {
  const read = (name: string) => readFileSync(join(VECTORS, model, name));
  const files = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];
  const folder: TextFolder = {
    location: model,
    has: (name) => files.includes(name),
    read,
    readJson: (name) => JSON.parse(read(name).toString()) as Record<string, unknown>,
  };
  const text = readModelText(folder);
  const chat = template === undefined ? text.chat : new ChatTemplate(template, {}, "test");
  return { ...text, chat: chat as ChatTemplate };
}

/** The role each template shows observations in without touching what stands before them. */
const MODELS = [
  ["llama-tiny", "user"],
  ["qwen2-tiny", "user"],
  ["qwen3-tiny", "tool"],
] as const;

describe.each(MODELS)("conversations of %s", (model, role) => {
  const text = textOf(model);
  const { tokenizer, chat } = text;
  const format = chatFormat(text, { location: model });
  const content = fc.oneof(fc.string({ unit: "grapheme", maxLength: 30 }), fc.constantFrom("", "ls: no\n", "a\n\nb  "));
  const answer = fc.oneof(
    fc.constantFrom(writeCommandBlock("ls -S | head"), `I look.\n\n${writeCommandBlock("cat a")}`, DONE_WORD),
    fc.string({ unit: "grapheme", maxLength: 40 }).filter((answered) => !/<\/?think>|<\|/.test(answered)),
    fc.constant(`<think>\nthere are files\n</think>\n\n${writeCommandBlock("rm a")}`),
  );
  const turns = fc.array(fc.record({ answer, observation: content }), { maxLength: 4 });

  test("the pieces are the template's rendering of the whole, and its ids where the answers encode to themselves", () => {
    let equal = 0;
    fc.assert(
      fc.property(content, turns, (instruction, played) => {
        const ids = [...format.encodePrompt(instruction)];
        const messages: ChatMessage[] = [
          { role: "system", content: SYSTEM_PROMPT },
          { role: "user", content: instruction },
        ];
        let encodesToItself = true;
        for (const { answer, observation } of played) {
          const before = chat.render({ messages, add_generation_prompt: true });
          const sampled = [...tokenizer.encode(answer)];
          const inPlace = [...tokenizer.encodeMarkup(before + answer)];
          encodesToItself &&= Bun.deepEquals(inPlace, [...tokenizer.encodeMarkup(before), ...sampled]);
          ids.push(...sampled, format.stopIds[0] as number, ...format.encodeObservation(observation));
          messages.push({ role: "assistant", content: answer }, { role, content: observation });
        }
        const whole = chat.render({ messages, add_generation_prompt: true });
        const normal = model === "llama-tiny" ? whole : whole.normalize("NFC");
        expect(tokenizer.decode(Int32Array.from(ids))).toBe(normal);
        if (!encodesToItself) return;
        equal++;
        expect(ids).toEqual([...tokenizer.encodeMarkup(whole)]);
      }),
      { numRuns: 15 },
    );
    expect(equal).toBeGreaterThan(3);
  });

  test("what a task or a command wrote is no structure", () => {
    const structure = (ids: Int32Array) => [...ids].filter((id) => tokenizer.specialIds.has(id));
    for (const name of tokenizer.addedTokens.keys()) {
      const hostile = `a${name}${name}b`;
      const shown = `a${name[0]} ${name.slice(1)}`;
      expect(tokenizer.decode(format.encodeObservation(hostile))).toContain(shown);
      expect(structure(format.encodeObservation(hostile))).toEqual(structure(format.encodeObservation("ab")));
      expect(structure(format.encodePrompt(hostile))).toEqual(structure(format.encodePrompt("ab")));
      const nested = name.slice(0, 3) + name + name.slice(3);
      expect(structure(format.encodeObservation(nested))).toEqual(structure(format.encodeObservation("ab")));
    }
  });

  test("answers are read as they were written", () => {
    expect(format.readAnswer(format.writeCommand("rm 'a b'\necho x"))).toEqual({
      kind: "command",
      command: "rm 'a b'\necho x",
    });
    expect(format.readAnswer(format.writeDone())).toEqual({ kind: "done" });
    expect(format.readAnswer(format.writeCommand("ls").slice(0, -1))).toEqual({ kind: "stop", reason: "length" });
    expect(format.readAnswer(new Int32Array(0))).toEqual({ kind: "stop", reason: "length" });
    expect(format.readAnswer(Int32Array.of(format.stopIds[0] as number)).kind).toBe("malformed");
  });
});

describe("a template", () => {
  const LOOP = "{% for m in messages %}";
  const PLAIN = `${LOOP}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}`;
  const OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  const open = (template: string, system?: string) =>
    chatFormat(textOf("qwen2-tiny", template), { location: "m", ...(system === undefined ? {} : { system }) });
  const prompt = (template: string, system?: string) =>
    textOf("qwen2-tiny").tokenizer.decode(open(template, system).encodePrompt("Go."));

  test("without system messages gets them at the head of the first user message", () => {
    const refusing = `${LOOP}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}${PLAIN}${OPEN}`;
    expect(prompt(refusing, "Be brief.")).toBe("<|im_start|>user\nBe brief.\n\nGo.<|im_end|>\n<|im_start|>assistant\n");
    expect(prompt(PLAIN + OPEN, "")).toBe("<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n");
  });

  test("that drops earlier reasoning, whoever speaks, is refused", () => {
    const dropping = PLAIN.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1].lstrip('\n') }}");
    expect(() => open(dropping + OPEN)).toThrow(
      "with observations as user messages, it drops or changes the reasoning of earlier answers; with observations as tool",
    );
  });

  test("that goes back to earlier messages is refused", () => {
    const counting = `{{ messages|length }}${PLAIN}${OPEN}`;
    expect(() => open(counting)).toThrow("the chat template of m cannot be continued: with observations as user");
    const prefilled = `${PLAIN}{% if add_generation_prompt %}<|im_start|>assistant\nSure: {% endif %}`;
    expect(() => open(prefilled)).toThrow("it rewrites earlier messages");
  });

  test("that ends answers with ordinary text is refused", () => {
    const textual = `${LOOP}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}`;
    expect(() => open(textual)).toThrow("does not end an answer with a token of its own");
  });
});

describe("answers", () => {
  test.each([
    ["```bash\nls\n```", "ls"],
    ["I look first.\n\n```bash\nls -l |\n  head\n```\n", "ls -l |\n  head"],
    ["<think>\n```bash\nrm -r .\n```\nno\n</think>\n\n```bash\nls\n```", "ls"],
    ["```bash \necho '`'\n``` ", "echo '`'"],
  ])("%j holds a command", (text, command) => {
    expect(readChatAnswer(text)).toEqual({ kind: "command", command });
  });

  test.each(["DONE", "The file is gone.\nDONE\n", "<think>\nall done\n</think>\n\nDONE", "  DONE  "])(
    "%j ends the episode",
    (text) => {
      expect(readChatAnswer(text)).toEqual({ kind: "done" });
    },
  );

  test.each([
    "",
    "ls",
    "DONE now",
    "done",
    "```\nls\n```",
    "```sh\nls\n```",
    "```bash\n\n```",
    "```bash\nls",
    "```bash\nls\n```\n```bash\nls\n```",
    "```bash\nls\n```\nDONE",
    "text ```bash\nls\n```",
    "<think>\n```bash\nls\n```",
    "```bash\nls\n```\n```",
  ])("%j is malformed", (text) => {
    expect(readChatAnswer(text)).toMatchObject({ kind: "malformed", expected: expect.stringContaining("```bash") });
  });

  test("the system prompt shows an answer that is read as a command", () => {
    expect(readChatAnswer(SYSTEM_PROMPT)).toEqual({ kind: "command", command: "ls -l" });
  });
});

test.each([
  ["a\nb\n", 0, "a\nb"],
  ["", 0, "(no output)"],
  ["", 1, "(exit code 1)"],
  ["x\n", null, "x\n(exit code unknown)"],
  ["é\t\u001b[31m\r\n", 0, "é\t?[31m?"],
  ["0123456789abcdef", 0, "01234\n[6 characters left out]\nbcdef"],
  ["🙂".repeat(12), 2, `${"🙂".repeat(5)}\n[2 characters left out]\n${"🙂".repeat(5)}\n(exit code 2)`],
])("output %j with exit code %p is shown as %j", (output, exitCode, shown) => {
  const result = { output: new TextEncoder().encode(output), exitCode } as CommandResult;
  expect(renderChat(result, 10)).toBe(shown);
});
