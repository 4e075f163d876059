/** The text of an answer while it is being sampled, and the strings that end it. */

import type { Tokenizer } from "../core/ports.ts";

export interface AnswerTextOptions {
  /** The answer ends before the first of them that its text contains. */
  readonly stopStrings?: readonly string[];
  /** Ids that are no text, such as the end token. */
  readonly hiddenIds?: ReadonlySet<number>;
}

/**
 * Turns tokens into text piece by piece. A character is given out once all of its bytes are there, and text that may be the
 * beginning of a stop string once it is known not to be. The pieces together are the decoded answer, up to the stop string.
 *
 * A stop string may begin and end anywhere in a token. The answer then ends with the token that completes it, as in vLLM and
 * OpenAI's API: that token and its logprob belong to the answer, its text ends before the stop string. Where two stop strings
 * are completed by the same token, the one that begins first counts.
 */
export class AnswerText {
  readonly #tokenizer: Pick<Tokenizer, "bytes">;
  readonly #stopStrings: readonly string[];
  readonly #hiddenIds: ReadonlySet<number>;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  /** Decoded, but perhaps the beginning of a stop string. */
  #held = "";
  #text = "";
  #stopString: string | undefined;

  constructor(tokenizer: Pick<Tokenizer, "bytes">, options: AnswerTextOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#stopStrings = (options.stopStrings ?? []).filter((text) => text !== "");
    this.#hiddenIds = options.hiddenIds ?? new Set();
  }

  /** All that was given out so far. */
  get text(): string {
    return this.#text;
  }

  /** The stop string that ended the answer. Tokens pushed after it have no text. */
  get stopString(): string | undefined {
    return this.#stopString;
  }

  /** Takes the next token; returns the text that is now certain, which may be none. */
  push(id: number): string {
    if (this.#stopString !== undefined || this.#hiddenIds.has(id)) return "";
    this.#held += this.#decoder.decode(this.#tokenizer.bytes(id), { stream: true });
    return this.#release();
  }

  /** Ends the answer: returns the text that was held back, with U+FFFD for a character that was never completed. */
  end(): string {
    if (this.#stopString !== undefined) return "";
    this.#held += this.#decoder.decode();
    const piece = this.#release();
    const rest = this.#held;
    this.#held = "";
    this.#text += rest;
    return piece + rest;
  }

  #release(): string {
    let cut = this.#held.length;
    for (const stop of this.#stopStrings) {
      const at = this.#held.indexOf(stop);
      if (at >= 0 && at < cut) {
        cut = at;
        this.#stopString = stop;
      }
    }
    if (this.#stopString === undefined) cut -= this.#begun();
    const piece = this.#held.slice(0, cut);
    this.#held = this.#held.slice(cut);
    this.#text += piece;
    return piece;
  }

  /** Length of the longest end of the held text with which a stop string begins. */
  #begun(): number {
    let longest = 0;
    for (const stop of this.#stopStrings) {
      for (let length = Math.min(stop.length - 1, this.#held.length); length > longest; length--) {
        if (this.#held.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}
