/** Episodes of models elsewhere: the conversation of `chat-format.ts`, whose messages the server itself puts into tokens. */

import { decodeBytes, END_OF_ANSWER, encodeAnswer, encodeMessages } from "../tokens/conversation-bytes.ts";
import { DONE_WORD, readChatAnswer, SYSTEM_PROMPT, writeCommandBlock } from "./chat-answer.ts";
import { renderChat } from "./chat-format.ts";
import type { TranscriptFormat } from "./format.ts";

/** Ids are bytes and marks (`conversation-bytes.ts`), so limits in tokens count bytes here. */
export function conversationFormat(system: string = SYSTEM_PROMPT): TranscriptFormat {
  return {
    stopIds: [END_OF_ANSWER],
    encodePrompt: (instruction) =>
      encodeMessages([
        ...(system === "" ? [] : [{ role: "system", content: system } as const]),
        { role: "user", content: instruction },
      ]),
    encodeObservation: (content) => encodeMessages([{ role: "user", content }]),
    readAnswer: (ids) =>
      ids.at(-1) === END_OF_ANSWER ? readChatAnswer(decodeBytes(ids)) : { kind: "stop", reason: "length" },
    writeCommand: (command) => encodeAnswer(writeCommandBlock(command), true),
    writeDone: () => encodeAnswer(DONE_WORD, true),
    renderResult: renderChat,
  };
}
