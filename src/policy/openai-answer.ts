/** Reads what a chat-completions server sends: one JSON object, or events with a piece of the answer each. */

import { z } from "zod";
import type { ChatAnswer } from "./chat-model.ts";

const count = z.number().int().min(0).nullish();
const UsageSchema = z.object({ prompt_tokens: count, completion_tokens: count }).nullish();
const ErrorSchema = z.object({ error: z.union([z.string(), z.looseObject({ message: z.string().nullish() })]) });

const CompletionSchema = z.object({
  choices: z
    .array(z.object({ message: z.object({ content: z.string().nullish() }), finish_reason: z.string().nullish() }))
    .min(1),
  usage: UsageSchema,
});

const ChunkSchema = z.object({
  choices: z
    .array(
      z.object({
        delta: z.object({ content: z.string().nullish() }).nullish(),
        finish_reason: z.string().nullish(),
      }),
    )
    .default([]),
  usage: UsageSchema,
});

/** What was sent is not what it should be; another try may go better. */
export class BadAnswer extends Error {}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new BadAnswer(`sent something that is not JSON: ${quote(text)}`);
  }
}

function refuseError(value: unknown): void {
  const found = ErrorSchema.safeParse(value);
  if (found.success) throw new BadAnswer(`answered with an error: ${errorText(value)}`);
}

/** The message inside an error object, or the text itself. */
export function errorText(value: unknown): string {
  const found = ErrorSchema.safeParse(value);
  if (!found.success) return quote(typeof value === "string" ? value : JSON.stringify(value));
  const { error } = found.data;
  return quote(typeof error === "string" ? error : (error.message ?? JSON.stringify(error)));
}

/** Foreign text as part of a message: one line, 300 characters at most. */
export function quote(text: string): string {
  const line = text.replace(/[^\x20-\x7e]+/g, " ").trim();
  return line.length > 300 ? `${line.slice(0, 300)}...` : line;
}

function finishOf(reason: string | null | undefined): ChatAnswer["finish"] {
  return reason === "length" ? "length" : "stop";
}

/** @throws BadAnswer */
export function readCompletion(text: string): ChatAnswer {
  const value = parse(text);
  refuseError(value);
  const result = CompletionSchema.safeParse(value);
  if (!result.success) {
    const issue = result.error.issues[0];
    throw new BadAnswer(`sent no chat completion: ${issue?.path.join(".")}: ${issue?.message}`);
  }
  const { choices, usage } = result.data;
  const [choice] = choices;
  return {
    text: choice?.message.content ?? "",
    finish: finishOf(choice?.finish_reason),
    promptTokens: usage?.prompt_tokens ?? 0,
    answerTokens: usage?.completion_tokens ?? 0,
  };
}

/** Puts the pieces of a stream of events together (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
export class StreamReader {
  #rest = "";
  #text = "";
  #finish: string | undefined;
  #isDone = false;
  #promptTokens = 0;
  #answerTokens = 0;

  /** @throws BadAnswer */
  push(piece: string): void {
    const lines = (this.#rest + piece).split(/\r?\n/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data:")) this.#event(line.slice(5).trim());
  }

  #event(data: string): void {
    if (data === "[DONE]") this.#isDone = true;
    if (this.#isDone || data === "") return;
    const value = parse(data);
    refuseError(value);
    const result = ChunkSchema.safeParse(value);
    if (!result.success) throw new BadAnswer(`sent no piece of a chat completion: ${quote(data)}`);
    const { choices, usage } = result.data;
    this.#text += choices[0]?.delta?.content ?? "";
    this.#finish ??= choices[0]?.finish_reason ?? undefined;
    this.#promptTokens = usage?.prompt_tokens ?? this.#promptTokens;
    this.#answerTokens = usage?.completion_tokens ?? this.#answerTokens;
  }

  /** @throws BadAnswer when the stream broke off. */
  end(): ChatAnswer {
    if (this.#rest !== "") this.push("\n");
    if (!this.#isDone && this.#finish === undefined) {
      throw new BadAnswer(`broke off after ${this.#text.length} characters of its answer`);
    }
    const tokens = { promptTokens: this.#promptTokens, answerTokens: this.#answerTokens };
    return { text: this.#text, finish: finishOf(this.#finish), ...tokens };
  }
}
