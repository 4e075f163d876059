/**
 * Conversations with models whose tokens are not ours: the UTF-8 bytes of each message behind an id for who says it. Every
 * policy speaks in ids; these carry text through that port and back without loss, and no tokenizer has a part in it.
 */

import type { ChatMessage } from "./chat-template.ts";

const ROLES: readonly ChatMessage["role"][] = ["system", "user", "assistant", "tool"];
const FIRST_ROLE = 256;
/** Behind an answer that was not cut off. */
export const END_OF_ANSWER = FIRST_ROLE + ROLES.length;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function encodeMessages(messages: readonly ChatMessage[]): Int32Array {
  return join(messages.flatMap(({ role, content }) => [[FIRST_ROLE + ROLES.indexOf(role)], encoder.encode(content)]));
}

/** Parts one behind the other; too long for arguments of a call. */
function join(parts: readonly ArrayLike<number>[]): Int32Array {
  const ids = new Int32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    ids.set(part, at);
    at += part.length;
  }
  return ids;
}

/** The messages in `ids`; bytes before the first role, and ends of answers, are left out. */
export function decodeMessages(ids: Int32Array): ChatMessage[] {
  const messages: ChatMessage[] = [];
  for (let at = ids.findIndex((id) => ROLES[id - FIRST_ROLE] !== undefined); at >= 0 && at < ids.length; ) {
    const role = ROLES[(ids[at] as number) - FIRST_ROLE] as ChatMessage["role"];
    let end = at + 1;
    while (end < ids.length && ROLES[(ids[end] as number) - FIRST_ROLE] === undefined) end++;
    messages.push({ role, content: decodeBytes(ids.subarray(at + 1, end)) });
    at = end;
  }
  return messages;
}

/** An answer: its bytes, and its end unless it was cut off. */
export function encodeAnswer(text: string, isWhole: boolean): Int32Array {
  return join([encoder.encode(text), isWhole ? [END_OF_ANSWER] : []]);
}

/** The text of bytes; other ids are left out. */
export function decodeBytes(ids: Int32Array): string {
  return decoder.decode(Uint8Array.from(ids.filter((id) => id < FIRST_ROLE)));
}
