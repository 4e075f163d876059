import { expect, test } from "bun:test";
import fc from "fast-check";
import type { ChatMessage } from "../tokens/chat-template.ts";
import { decodeBytes, decodeMessages, encodeAnswer, encodeMessages } from "../tokens/conversation-bytes.ts";
import { ChatPolicy } from "./chat-policy.ts";
import { parseScript, ScriptedChatModel } from "./scripted-chat.ts";

const HOW = { writeCommand: (command: string) => `$ ${command}`, done: "DONE" };
const SAMPLING = { temperature: 1, greedy: false, maxTokens: 100, stopIds: [] };

test("messages survive the way through ids, whatever they contain", () => {
  const message = fc.record({
    role: fc.constantFrom<ChatMessage["role"]>("system", "user", "assistant", "tool"),
    content: fc.string({ unit: "grapheme" }),
  });
  fc.assert(
    fc.property(fc.array(message), (messages) => {
      expect(decodeMessages(encodeMessages(messages))).toEqual(messages);
    }),
  );
  expect(decodeBytes(encodeAnswer("ü\n", true))).toBe("ü\n");
  const long = "x".repeat(1_000_000);
  expect(decodeBytes(encodeAnswer(long, true))).toBe(long);
});

test("a session is a conversation, and its tokens tell no log-probabilities", async () => {
  const rules = [{ when: ["list", "files"], commands: ["ls", "pwd"] }, { answers: ["what?"] }];
  const policy = new ChatPolicy(new ScriptedChatModel("script", rules, HOW));
  const session = await policy.open("k");
  const ask = async (content: string) => session.generate(encodeMessages([{ role: "user", content }]), SAMPLING);
  const first = await ask("list the files");
  expect(decodeBytes(first.ids)).toBe("$ ls");
  expect([...first.logprobs].every(Number.isNaN)).toBe(true);
  expect(first.versions.every((version) => version === -1)).toBe(true);
  expect(decodeBytes((await ask("a b")).ids)).toBe("$ pwd");
  expect(decodeBytes((await ask("/")).ids)).toBe("DONE");
  const other = await policy.open("k");
  expect(decodeBytes((await other.generate(encodeMessages([{ role: "user", content: "hm" }]), SAMPLING)).ids)).toBe(
    "what?",
  );
});

test("a script says what is wrong with it", () => {
  expect(() => parseScript("{", "s.json")).toThrow("s.json is not JSON");
  expect(() => parseScript('[{"when": "x"}]', "s.json")).toThrow("give either answers or commands");
});
