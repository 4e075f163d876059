/**
 * Answers written beforehand, for tests and for trying a pipeline without a model. An answer depends on the conversation
 * alone, so any number of episodes can be played at once, in any order, and again.
 */

import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";
import type { ChatAnswer, ChatModel, ChatRequest } from "./chat-model.ts";

const RuleSchema = z
  .strictObject({
    /** The rule is for conversations whose first user message contains all of these. */
    when: z.union([z.string(), z.array(z.string())]).default([]),
    /** Answers in order, the last one for all that follow. */
    answers: z.array(z.string()).min(1).optional(),
    /** Answers that are one command each, and then the end. */
    commands: z.array(z.string()).optional(),
  })
  .refine(({ answers, commands }) => (answers === undefined) !== (commands === undefined), {
    message: "give either answers or commands",
  });

const ScriptSchema = z.array(RuleSchema).min(1);
export type ScriptRule = z.input<typeof RuleSchema>;

interface Rule {
  readonly when: readonly string[];
  readonly answers: readonly string[];
}

export interface ScriptOptions {
  /** How the answer that asks for a command is written. */
  readonly writeCommand: (command: string) => string;
  readonly done: string;
}

export class ScriptedChatModel implements ChatModel {
  readonly name: string;
  readonly #rules: readonly Rule[];

  constructor(name: string, rules: readonly ScriptRule[], { writeCommand, done }: ScriptOptions) {
    this.name = name;
    this.#rules = rules.map(({ when = [], answers, commands = [] }) => ({
      when: typeof when === "string" ? [when] : when,
      answers: answers ?? [...commands.map(writeCommand), done],
    }));
  }

  /** @throws AleError("remote") when no rule is for the conversation. */
  async complete({ messages, signal }: ChatRequest): Promise<ChatAnswer> {
    signal?.throwIfAborted();
    const first = messages.find(({ role }) => role === "user")?.content ?? "";
    const rule = this.#rules.find(({ when }) => when.every((part) => first.includes(part)));
    if (rule === undefined) {
      throw new AleError("remote", `${this.name} has no rule for ${JSON.stringify(first.slice(0, 60))}`, {
        hint: 'add a rule whose "when" is in that message',
      });
    }
    const turn = messages.filter(({ role }) => role === "assistant").length;
    const text = rule.answers[Math.min(turn, rule.answers.length - 1)] as string;
    const length = messages.reduce((sum, { content }) => sum + content.length, 0);
    return { text, finish: "stop", promptTokens: Math.ceil(length / 4), answerTokens: Math.ceil(text.length / 4) };
  }
}

/** Reads the rules of a script file, which is JSON. @throws AleError("usage") naming what is wrong. */
export function parseScript(text: string, name: string): ScriptRule[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new AleError("usage", `${name} is not JSON: ${errorMessage(error)}`);
  }
  const result = ScriptSchema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new AleError("usage", `${name}: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "wrong"}`, {
    hint: 'it is a list of {"when": "text in the first message", "commands": ["ls"]}',
  });
}
