/**
 * The compact transcript small policies read and write:
 *
 *     <task>text<cmd>ls -S<obs>a.txt⏎b.txt<cmd>rm a.txt<obs><cmd><done>
 *
 * The environment writes `<task>…<cmd>` and, after each observation, `<cmd>`. The policy writes a command and `<obs>`
 * ("run it"), or `<done>`. The prompt token `<cmd>` is what tells the policy where an observation ends.
 */

import type { CommandResult, Tokenizer } from "../core/ports.ts";
import type { Answer, TranscriptFormat } from "./format.ts";

/** The format of a tokenizer that has its tokens. Throws `AleError("tokenizer")` when it lacks one of them. */
export function compactFormat(tokenizer: Tokenizer): TranscriptFormat {
  const pad = tokenizer.special("<pad>");
  const task = tokenizer.special("<task>");
  const command = tokenizer.special("<cmd>");
  const observation = tokenizer.special("<obs>");
  const done = tokenizer.special("<done>");
  // None of them may stand inside a command.
  const specials = [pad, task, command, observation, done];
  const readAnswer = (ids: Int32Array): Answer => {
    const last = ids.at(-1);
    if (last === done && ids.length === 1) return { kind: "done" };
    if (last === undefined || !specials.includes(last)) return { kind: "stop", reason: "length" };
    if (last !== observation || ids.length === 1) return { kind: "stop", reason: "format" };
    return { kind: "command", command: tokenizer.decode(ids.subarray(0, -1)) };
  };
  return {
    stopIds: specials,
    encodePrompt: (instruction) => Int32Array.of(task, ...tokenizer.encode(instruction), command),
    encodeObservation: (text) => Int32Array.of(...tokenizer.encode(text), command),
    readAnswer,
    writeCommand: (text) => Int32Array.of(...tokenizer.encode(text), observation),
    writeDone: () => Int32Array.of(done),
    renderResult: renderCompact,
  };
}

/** How a shell names itself before a message. The line number depends on what the session ran before, so it goes too. */
const SHELL_PREFIX = /^(?:\S*\/)?(?:ba)?sh: (?:line )?(?:\d+: )?/gm;

/**
 * What the policy sees of a command: its output without the shell's own prefix, non-printables as `?`, at most `maxChars`
 * characters, with `!` in front when it failed.
 */
export function renderCompact(result: CommandResult, maxChars: number): string {
  const text = new TextDecoder("latin1").decode(result.output);
  const plain = text.replace(SHELL_PREFIX, "").replace(/[^\n\x20-\x7e]/g, "?");
  const shown = plain.replace(/^\n+|\n+$/g, "").slice(0, maxChars);
  return result.exitCode === 0 ? shown : `!${shown}`;
}
