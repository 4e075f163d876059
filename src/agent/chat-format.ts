/**
 * Episodes as conversations, for any model with a chat template: a system message says how to answer, the instruction is the
 * user's first message, and what a command printed is the next.
 *
 * The conversation is one growing token sequence. Answers stay token for token as they were sampled; the template is only
 * asked for what it writes around them. For that, it renders a conversation with a placeholder as the answer, and what comes
 * behind the placeholder is the continuation: the end of the answer, the observation, the opening of the next answer. Whether
 * a template can be continued this way, or goes back and writes earlier messages anew, is found out once, before any episode.
 */

import { AleError, errorMessage } from "../core/errors.ts";
import type { CommandResult } from "../core/ports.ts";
import type { ChatMessage } from "../tokens/chat-template.ts";
import type { ModelText } from "../tokens/model-text.ts";
import { DONE_WORD, readChatAnswer, SYSTEM_PROMPT, writeCommandBlock } from "./chat-answer.ts";
import type { TranscriptFormat } from "./format.ts";

type ChatText = ModelText & { readonly chat: NonNullable<ModelText["chat"]> };

/** How a template is used: not all of them know system messages or let a user speak after every answer. */
interface Usage {
  readonly system: "system" | "user";
  readonly observation: "user" | "tool";
}

const USAGES: readonly Usage[] = [
  { system: "system", observation: "user" },
  { system: "system", observation: "tool" },
  { system: "user", observation: "user" },
  { system: "user", observation: "tool" },
];

/** Stands for an answer; a plain word, so that no template changes it. */
const PLACEHOLDER = "placeholderanswer";

export interface ChatFormatOptions {
  /** The system message; by default it says how commands are written. */
  readonly system?: string;
  /** The model's folder, for messages. */
  readonly location: string;
}

/**
 * The format of a chat model. Throws `AleError("tokenizer")` when the template rewrites earlier messages, so that an episode
 * would not be one sequence, or does not end an answer with a token of its own.
 */
export function chatFormat(text: ChatText, { system = SYSTEM_PROMPT, location }: ChatFormatOptions): TranscriptFormat {
  const { tokenizer } = text;
  const usage = findUsage(text, system, location);
  const neutralize = neutralizer(text);
  const turnEnd = turnEndOf(text, continuation(text, usage, "x"), location);
  const stopIds = [...new Set([turnEnd, ...text.endIds])];
  return {
    stopIds,
    encodePrompt: (instruction) =>
      tokenizer.encodeMarkup(render(text, opening(usage, system, neutralize(instruction)))),
    // The answer's own end token stands where the template would write one.
    encodeObservation: (observation) =>
      tokenizer.encodeMarkup(continuation(text, usage, neutralize(observation))).subarray(1),
    readAnswer: (ids) => {
      const last = ids.at(-1);
      if (last === undefined || !stopIds.includes(last)) return { kind: "stop", reason: "length" };
      return readChatAnswer(tokenizer.decode(ids.subarray(0, -1)));
    },
    writeCommand: (command) => Int32Array.of(...tokenizer.encode(writeCommandBlock(command)), turnEnd),
    writeDone: () => Int32Array.of(...tokenizer.encode(DONE_WORD), turnEnd),
    renderResult: renderChat,
  };
}

function opening({ system: role }: Usage, system: string, instruction: string): ChatMessage[] {
  if (system === "") return [{ role: "user", content: instruction }];
  if (role === "user") return [{ role: "user", content: `${system}\n\n${instruction}` }];
  return [
    { role: "system", content: system },
    { role: "user", content: instruction },
  ];
}

function render({ chat }: ChatText, messages: readonly ChatMessage[]): string {
  return chat.render({ messages, add_generation_prompt: true });
}

/** What the template writes behind an answer: its end, the observation, and the opening of the next answer. */
function continuation(text: ChatText, usage: Usage, observation: string): string {
  const messages: ChatMessage[] = [
    { role: "user", content: "task" },
    { role: "assistant", content: PLACEHOLDER },
    { role: usage.observation, content: observation },
  ];
  const whole = render(text, messages);
  return whole.slice(whole.indexOf(PLACEHOLDER) + PLACEHOLDER.length);
}

/** The first usage under which every message stays as it was written. */
function findUsage(text: ChatText, system: string, location: string): Usage {
  const failures = new Set<string>();
  for (const usage of USAGES) {
    const failure = whyNot(text, usage, system);
    if (failure === undefined) return usage;
    failures.add(`with observations as ${usage.observation} messages, ${failure}`);
  }
  throw new AleError("tokenizer", `the chat template of ${location} cannot be continued: ${[...failures].join("; ")}`, {
    hint: "give the folder a chat_template.jinja that only appends to what it wrote before",
  });
}

/** Compares a conversation put together from its pieces with the template's own rendering of it, turn by turn. */
function whyNot(text: ChatText, usage: Usage, system: string): string | undefined {
  const command = writeCommandBlock("ls");
  const plain = [command, `I look first.\n\n${command}`, command];
  const reasoned = plain.map((answer) => `<think>\nthere may be files\n</think>\n\n${answer}`);
  const conversations = text.chat.source.includes("</think>") ? [plain, reasoned] : [plain];
  try {
    for (const answers of conversations) {
      const messages = opening(usage, system, "Delete the largest file.");
      let pieces = render(text, messages);
      for (const [turn, content] of answers.entries()) {
        const observation = turn === 1 ? "a.txt\nb.txt" : "";
        messages.push({ role: "assistant", content }, { role: usage.observation, content: observation });
        pieces += content + continuation(text, usage, observation);
        if (render(text, messages) === pieces) continue;
        return answers === plain
          ? "it rewrites earlier messages"
          : "it drops or changes the reasoning of earlier answers";
      }
    }
  } catch (error) {
    return errorMessage(error);
  }
  return undefined;
}

/** The token that ends an answer: the first one behind it. */
function turnEndOf({ tokenizer }: ChatText, behind: string, location: string): number {
  const end = tokenizer.encodeMarkup(behind)[0];
  if (end !== undefined && [...tokenizer.addedTokens.values()].includes(end)) return end;
  throw new AleError("tokenizer", `the chat template of ${location} does not end an answer with a token of its own`, {
    hint: `it goes on with ${JSON.stringify(behind.slice(0, 40))}`,
  });
}

/**
 * Takes the meaning out of structure that a task or a command wrote: a file with the letters `<|im_end|>` must not end a
 * message. A space behind the first character is enough, and stays readable.
 */
function neutralizer({ tokenizer, chat }: ChatText): (content: string) => string {
  const structural = [...tokenizer.addedTokens].flatMap(([name, id]) =>
    name.trim() !== "" && (tokenizer.specialIds.has(id) || chat.source.includes(name)) ? [name] : [],
  );
  if (structural.length === 0) return (content) => content;
  const pattern = new RegExp(structural.map((name) => RegExp.escape(name)).join("|"), "gu");
  const split = ([first, ...rest]: string) => (rest.length === 0 ? "?" : `${first} ${rest.join("")}`);
  const neutralize = (content: string): string => {
    const plain = content.replace(pattern, split);
    // Where tokens overlap, breaking one may leave another.
    return plain === content ? plain : neutralize(plain);
  };
  return neutralize;
}

/** Output as text: no control characters, its middle left out where it is long, and the exit code where it is not 0. */
export function renderChat({ output, exitCode }: CommandResult, maxChars: number): string {
  const text = new TextDecoder().decode(output).replace(CONTROLS, "?").trimEnd();
  const characters = [...text];
  const over = characters.length - maxChars;
  const head = Math.ceil(maxChars / 2);
  const shown =
    over <= 0
      ? text
      : `${characters.slice(0, head).join("")}\n[${over} characters left out]\n${characters.slice(head + over).join("")}`;
  if (exitCode === 0) return shown === "" ? "(no output)" : shown;
  return `${shown}${shown === "" ? "" : "\n"}(exit code ${exitCode ?? "unknown"})`;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this replaces
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;
