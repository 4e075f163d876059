/** The seam between the agent loop and the way a policy reads and writes. */

import type { CommandResult } from "../core/ports.ts";

/** What an answer of the policy asks for. */
export type Answer =
  | { readonly kind: "command"; readonly command: string }
  /** The policy says that it is finished. */
  | { readonly kind: "done" }
  /** Not a command; the policy is shown what was expected and may try again. */
  | { readonly kind: "malformed"; readonly expected: string }
  /** Not a command, and the episode ends. */
  | { readonly kind: "stop"; readonly reason: "length" | "format" };

/** How an episode is written as tokens and how answers are read. One per policy; holds nothing of an episode. */
export interface TranscriptFormat {
  /** Ids that end an answer; each is part of it. */
  readonly stopIds: readonly number[];
  /** The first context: the task, up to where the policy begins to write. */
  encodePrompt(instruction: string): Int32Array;
  /** The context behind an answer: what it led to, up to where the policy goes on. */
  encodeObservation(observation: string): Int32Array;
  /** `ids` is an answer as it was sampled, with the stop id it ended with if it did. */
  readAnswer(ids: Int32Array): Answer;
  /** The answer that asks for this command, as a demonstrator writes it. */
  writeCommand(command: string): Int32Array;
  /** The answer that ends an episode. */
  writeDone(): Int32Array;
  /** What the policy is shown of a command, at most about `maxChars` characters. */
  renderResult(result: CommandResult, maxChars: number): string;
}
