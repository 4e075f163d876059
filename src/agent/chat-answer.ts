/** How chat models write commands: one fenced block per answer, or a word of its own when they are finished. */

import type { Answer } from "./format.ts";

/** The last line of the answer that ends an episode. */
export const DONE_WORD = "DONE";

/** What chat models are told. */
export const SYSTEM_PROMPT = `You complete a task by typing commands into a Linux shell. Each answer holds exactly one command, in a block like this:

\`\`\`bash
ls -l
\`\`\`

You may write a thought before the block. Next you are shown what the command printed. The shell keeps its working directory and its variables from one command to the next. When the task is complete, write no block, and ${DONE_WORD} as the last line.`;

const EXPECTED = `That was not understood, and nothing was run. Write exactly one \`\`\`bash block with one command, or, when the task is complete, no block and ${DONE_WORD} as the last line.`;

/** A fenced block: its opening line, and what stands up to the closing one. */
const BLOCK = /^```([^\n]*)\n([\s\S]*?)^```[ \t]*$/gm;

/**
 * Reads the text of an answer. What stands before the last `</think>` is reasoning and is not looked at. Then either there is
 * exactly one fenced block, opened with three backticks and `bash`, which holds the command; or there is none, and the last
 * line that is not blank is `DONE`. Everything else is malformed.
 */
export function readChatAnswer(text: string): Answer {
  const spoken = text.split("</think>").at(-1) as string;
  const blocks = [...spoken.matchAll(BLOCK)];
  const fences = spoken.match(/^```/gm)?.length ?? 0;
  const done = spoken.trimEnd().split("\n").at(-1)?.trim() === DONE_WORD;
  const malformed: Answer = { kind: "malformed", expected: EXPECTED };
  if (spoken.includes("<think>")) return malformed;
  if (done) return fences === 0 ? { kind: "done" } : malformed;
  const [, language, content] = blocks[0] ?? [];
  if (blocks.length !== 1 || fences !== 2 || language?.trim() !== "bash" || content?.trim() === "") return malformed;
  return { kind: "command", command: (content as string).replace(/\n$/, "") };
}

/** The answer that asks for a command. */
export function writeCommandBlock(command: string): string {
  return `\`\`\`bash\n${command}\n\`\`\``;
}
