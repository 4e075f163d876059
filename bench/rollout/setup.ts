/** What is simulated: a workload, the costs of its parts, and how the work is placed. All times in milliseconds. */

import type { LatencyLaw } from "../../src/config/latency.ts";

/** One answer of the policy and what comes before it. */
export interface TurnShape {
  /** Tokens shown before the answer: the prompt or an observation. */
  readonly context: number;
  /** Tokens of the answer. */
  readonly answer: number;
  /** Whether a command follows; the last answer of a finished episode says that it is done. */
  readonly command: boolean;
}

export type EpisodeShape = readonly TurnShape[];

export interface Costs {
  /** A decode step: `base` + `perRow` for every sequence in it. */
  readonly decode: { readonly base: number; readonly perRow: number };
  /** The context before an answer: `base`, and `perToken` for every token. */
  readonly prefill: { readonly base: number; readonly perToken: number };
  /** Sequences of a decode step, at most. */
  readonly slots: number;
  /** Tokens of context computed between two decode steps, at most. */
  readonly prefillTokens: number;
  /** Forward and backward pass of a micro-batch. */
  readonly train: { readonly base: number; readonly perToken: number };
  readonly microBatchTokens: number;
  /** Sum of gradients and AdamW after every minibatch, shared out among those that train. */
  readonly optimizer: number;
  /** Making new weights those that generate, on every device. */
  readonly sync: number;
  /** What nobody computes meanwhile: building the batch, committing the step. */
  readonly step: number;
  readonly reset: number;
  /** A command, without its latency. */
  readonly tool: number;
  readonly grade: number;
}

export type Placement = { readonly kind: "shared" | "elastic" } | { readonly kind: "split"; readonly trainers: number };

export interface Workload {
  readonly seed: number;
  /** Groups of a training step. */
  readonly groups: number;
  readonly groupSize: number;
  /** Episodes in flight at once. */
  readonly concurrency: number;
  readonly minibatches: number;
  /** Share of finished groups that the filter lets through; the others are replaced. */
  readonly acceptedShare: number;
  /** Share of a batch's tokens that are trained on: groups with equal rewards are left out. */
  readonly trainedShare: number;
  /** Episodes take these shapes in turn, chosen by the key of the episode. */
  readonly shapes: readonly EpisodeShape[];
  /** Latency of environments; none when omitted. */
  readonly law?: LatencyLaw;
  /** An episode that takes longer ends then, without a grade; none when omitted. */
  readonly episodeMs?: number;
}

export interface Schedule {
  readonly devices: number;
  readonly placement: Placement;
  /** Async ratio: steps that rollout may be ahead; 0 = rollout and training take turns. */
  readonly ratio: number;
  readonly policy: "greedy" | "rounds";
  /** Share of a device's time that training gets while generation wants it too. */
  readonly trainShare: number;
  /** Caches are computed again at the first turn boundary after new weights. */
  readonly recompute: boolean;
}

export interface Setup {
  readonly workload: Workload;
  readonly costs: Costs;
  readonly schedule: Schedule;
}

/** Tokens of an episode, shown and sampled. */
export function tokensOf(shape: EpisodeShape): number {
  return shape.reduce((sum, { context, answer }) => sum + context + answer, 0);
}
