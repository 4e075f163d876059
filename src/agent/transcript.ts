/**
 * The compact transcript small policies read and write:
 *
 *     <task>text<cmd>ls -S<obs>a.txt⏎b.txt<cmd>rm a.txt<obs><cmd><done>
 *
 * The environment writes `<task>…<cmd>` and, after each observation, `<cmd>`. The policy writes a command and `<obs>`
 * ("run it"), or `<done>`. The prompt token `<cmd>` is what tells the policy where an observation ends.
 */

import type { CommandResult, Generation, Tokenizer } from "../core/ports.ts";
import type { TokenRecord } from "../core/types.ts";

/** Ids of the tokens that structure a transcript. */
export interface TranscriptTokens {
  readonly task: number;
  readonly command: number;
  readonly observation: number;
  readonly done: number;
  /** All specials; none of them may stand inside a command. */
  readonly all: readonly number[];
}

/** Throws `AleError("tokenizer")` when the tokenizer lacks one of them. */
export function transcriptTokens(tokenizer: Tokenizer): TranscriptTokens {
  const task = tokenizer.special("<task>");
  const command = tokenizer.special("<cmd>");
  const observation = tokenizer.special("<obs>");
  const done = tokenizer.special("<done>");
  return { task, command, observation, done, all: [tokenizer.special("<pad>"), task, command, observation, done] };
}

/** `<task>text<cmd>` */
export function encodePrompt(tokenizer: Tokenizer, tokens: TranscriptTokens, instruction: string): Int32Array {
  return Int32Array.of(tokens.task, ...tokenizer.encode(instruction), tokens.command);
}

/** `observation<cmd>` */
export function encodeObservation(tokenizer: Tokenizer, tokens: TranscriptTokens, observation: string): Int32Array {
  return Int32Array.of(...tokenizer.encode(observation), tokens.command);
}

/** How a shell names itself before a message. The line number depends on what the session ran before, so it goes too. */
const SHELL_PREFIX = /^(?:\S*\/)?(?:ba)?sh: (?:line )?(?:\d+: )?/gm;

/**
 * What the policy sees of a command: its output without the shell's own prefix, non-printables as `?`, at most `maxChars`
 * characters, with `!` in front when it failed.
 */
export function renderObservation(result: CommandResult, maxChars: number): string {
  const text = new TextDecoder("latin1").decode(result.output);
  const plain = text.replace(SHELL_PREFIX, "").replace(/[^\n\x20-\x7e]/g, "?");
  const shown = plain.replace(/^\n+|\n+$/g, "").slice(0, maxChars);
  return result.exitCode === 0 ? shown : `!${shown}`;
}

/** One element of each array of a `TokenRecord`. */
interface TranscriptToken {
  readonly id: number;
  readonly mask: 0 | 1;
  readonly logprob: number;
  readonly logprobT1: number;
  readonly version: number;
  readonly kvOldest: number;
  readonly turn: number;
}

/** Grows a token record turn by turn. */
export class TranscriptBuilder {
  readonly #ids: number[] = [];
  readonly #mask: number[] = [];
  readonly #logprobs: number[] = [];
  readonly #logprobsT1: number[] = [];
  readonly #versions: number[] = [];
  readonly #kvOldest: number[] = [];
  readonly #turnIds: number[] = [];

  get length(): number {
    return this.#ids.length;
  }

  /** Tokens the policy was shown. */
  addContext(ids: Int32Array, version: number): void {
    for (const id of ids) {
      this.#add({ id, mask: 0, logprob: 0, logprobT1: 0, version, kvOldest: version, turn: -1 });
    }
  }

  /** Tokens the policy sampled in `turn`. */
  addGeneration(generation: Generation, turn: number): void {
    generation.ids.forEach((id, t) => {
      this.#add({
        id,
        mask: 1,
        logprob: generation.logprobs[t] as number,
        logprobT1: generation.logprobsT1[t] as number,
        version: generation.versions[t] as number,
        kvOldest: generation.kvOldest[t] as number,
        turn,
      });
    });
  }

  build(): TokenRecord {
    return {
      ids: Int32Array.from(this.#ids),
      mask: Uint8Array.from(this.#mask),
      logprobs: Float32Array.from(this.#logprobs),
      logprobsT1: Float32Array.from(this.#logprobsT1),
      versions: Int32Array.from(this.#versions),
      kvOldest: Int32Array.from(this.#kvOldest),
      turnIds: Int32Array.from(this.#turnIds),
    };
  }

  #add(token: TranscriptToken): void {
    this.#ids.push(token.id);
    this.#mask.push(token.mask);
    this.#logprobs.push(token.logprob);
    this.#logprobsT1.push(token.logprobT1);
    this.#versions.push(token.version);
    this.#kvOldest.push(token.kvOldest);
    this.#turnIds.push(token.turn);
  }
}
