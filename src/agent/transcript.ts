/**
 * The compact transcript of small policies:
 *
 *     <task>instruction<cmd>command<obs>observation<cmd>command<obs>observation<cmd><done>
 *
 * The environment writes `<task>…<cmd>` and, after each observation, `<cmd>`; the policy writes a command and `<obs>` (run
 * it), or `<done>` as its whole answer. `<cmd>` tells the policy where a text that was written for it ends. What was sampled
 * is kept as it was sampled; only instructions and observations are ever encoded.
 */

import type { Generation, Tokenizer } from "../core/ports.ts";
import type { CommandResult } from "../core/ports.ts";
import type { TokenRecord } from "../core/types.ts";

/** Limits of an episode as the policy sees it. */
export interface AgentLimits {
  /** Answers per episode, the final `<done>` included. */
  readonly maxTurns: number;
  /** Tokens of an answer, its `<obs>` included. */
  readonly maxCommandTokens: number;
  /** Tokens of an episode: instruction, commands and observations. */
  readonly maxEpisodeTokens: number;
  /** Characters of an observation that are shown. */
  readonly maxObservationChars: number;
  /** Wall-clock limit of a command in seconds; the task's own limit when omitted. */
  readonly commandSeconds?: number;
}

/** Ids of the tokens that structure a transcript. */
export interface SpecialIds {
  readonly pad: number;
  readonly task: number;
  readonly cmd: number;
  readonly obs: number;
  readonly done: number;
}

/** Throws `AleError("tokenizer")` when the tokenizer was not made for transcripts. */
export function specialIds(tokenizer: Tokenizer): SpecialIds {
  return {
    pad: tokenizer.special("<pad>"),
    task: tokenizer.special("<task>"),
    cmd: tokenizer.special("<cmd>"),
    obs: tokenizer.special("<obs>"),
    done: tokenizer.special("<done>"),
  };
}

/** What an answer asks for. */
export type Answer =
  | { readonly kind: "command"; readonly command: string }
  | { readonly kind: "done" }
  /** `command` is what there was of it. */
  | { readonly kind: "length" | "format"; readonly command: string };

/** Reads a sampled answer. A structural token anywhere but in its place is a format error. */
export function readAnswer(generation: Generation, tokenizer: Tokenizer, special: SpecialIds): Answer {
  const { ids } = generation;
  const structural = new Set([special.pad, special.task, special.cmd, special.obs, special.done]);
  const end = ids.findIndex((id) => structural.has(id));
  const command = tokenizer.decode(end === -1 ? ids : ids.subarray(0, end));
  if (end === -1) return { kind: "length", command };
  if (end !== ids.length - 1) return { kind: "format", command };
  if (ids[end] === special.done && end === 0) return { kind: "done" };
  if (ids[end] === special.obs && end > 0) return { kind: "command", command };
  return { kind: "format", command };
}

/** Bytes of output an observation is made of. */
const OBSERVED_BYTES = 400;
/** The shell's name for the command it was given, with a line number that depends on what ran before. */
const SHELL_PREFIX = /^(?:\S*\/)?(?:ba)?sh: (?:line \d+: )?/gm;

/**
 * What the policy sees of a command: its output in printable ASCII, without the shell's own prefix, at most `maxChars`
 * characters, after `!` when the command failed. Nothing in it depends on time, process ids or paths of the shell.
 */
export function renderObservation(result: Pick<CommandResult, "exitCode" | "output">, maxChars: number): string {
  const bytes = result.output.subarray(0, Math.max(OBSERVED_BYTES, maxChars));
  const text = Array.from(bytes, (byte) => (byte === 10 || (byte >= 32 && byte < 127) ? String.fromCharCode(byte) : "?"))
    .join("")
    .replace(SHELL_PREFIX, "")
    .replace(/^\n+|\n+$/g, "");
  return (result.exitCode === 0 ? "" : "!") + text.slice(0, maxChars);
}

/** A transcript as it grows; becomes the token record of the trajectory. */
export class Transcript {
  readonly #ids: number[] = [];
  readonly #mask: number[] = [];
  readonly #logprobs: number[] = [];
  readonly #logprobsT1: number[] = [];
  readonly #versions: number[] = [];
  readonly #turnIds: number[] = [];

  get length(): number {
    return this.#ids.length;
  }

  /** Appends what the environment writes. */
  appendContext(ids: Int32Array): void {
    for (const id of ids) this.#push(id, 0, 0, 0, 0, -1);
  }

  /** Appends a sampled answer as turn `turn`. */
  appendAnswer(answer: Omit<Generation, "stop">, turn: number): void {
    answer.ids.forEach((id, i) => {
      const at = (values: ArrayLike<number>) => values[i] as number;
      this.#push(id, 1, at(answer.logprobs), at(answer.logprobsT1), at(answer.versions), turn);
    });
  }

  record(): TokenRecord {
    return {
      ids: Int32Array.from(this.#ids),
      mask: Uint8Array.from(this.#mask),
      logprobs: Float32Array.from(this.#logprobs),
      logprobsT1: Float32Array.from(this.#logprobsT1),
      versions: Int32Array.from(this.#versions),
      turnIds: Int32Array.from(this.#turnIds),
    };
  }

  #push(id: number, mask: number, logprob: number, logprobT1: number, version: number, turn: number): void {
    this.#ids.push(id);
    this.#mask.push(mask);
    this.#logprobs.push(logprob);
    this.#logprobsT1.push(logprobT1);
    this.#versions.push(version);
    this.#turnIds.push(turn);
  }
}

/** `<task>instruction<cmd>` */
export function openingContext(instruction: string, tokenizer: Tokenizer, special: SpecialIds): Int32Array {
  return Int32Array.from([special.task, ...tokenizer.encode(instruction), special.cmd]);
}

/** `observation<cmd>` */
export function observationContext(observation: string, tokenizer: Tokenizer, special: SpecialIds): Int32Array {
  return Int32Array.from([...tokenizer.encode(observation), special.cmd]);
}
