/**
 * From token losses to one number. Every denominator counts the whole minibatch (all micro-batches, all ranks) and comes
 * in as a number, so that parts may simply be added:
 *
 * | mode | share of sequence i |
 * |---|---|
 * | `token-mean` | Σ_t l m / tokens |
 * | `seq-mean-token-sum` | Σ_t l m / samples |
 * | `seq-mean-token-mean` | (Σ_t l m / Σ_t m) / samples |
 * | `seq-mean-token-sum-norm` | (Σ_t l m / normLength) / samples |
 * | `chunk-mean` | Σ_t l m / chunks |
 *
 * m is the loss mask. The names are verl's and ROLL's; DAPO (arXiv 2503.14476) argues for `token-mean`, Dr. GRPO (arXiv
 * 2503.20783) for `seq-mean-token-sum-norm`; `chunk-mean` is the alternative denominator of IPA.
 */

import type { AGGREGATIONS } from "../config/components.ts";
import { AleError } from "../core/errors.ts";
import { countChunks, denseTurnIds } from "./chunks.ts";
import { countOnes, type TokenPlaces } from "./levels.ts";

export type AggregationMode = (typeof AGGREGATIONS)[number];

/** Counts over the unfiltered response masks of the whole minibatch. */
export interface Denominators {
  readonly tokens: number;
  /** Sequences with at least one response token. */
  readonly samples?: number;
  readonly chunks?: number;
  /** A constant length. */
  readonly normLength?: number;
}

export interface LossScale extends Denominators {
  /** Default `token-mean`. */
  readonly aggregation?: AggregationMode | undefined;
}

/** What the sum over a sequence is divided by; `rowTokens` counts the sequence's loss mask. */
export function rowDivisor(scale: LossScale, rowTokens: number): number {
  const mode = scale.aggregation ?? "token-mean";
  switch (mode) {
    case "token-mean":
      return scale.tokens;
    case "seq-mean-token-sum":
      return needed(scale, "samples", mode);
    case "seq-mean-token-mean":
      return needed(scale, "samples", mode) * Math.max(1, rowTokens);
    case "seq-mean-token-sum-norm":
      return needed(scale, "samples", mode) * needed(scale, "normLength", mode);
    case "chunk-mean":
      return needed(scale, "chunks", mode);
  }
}

function needed(scale: LossScale, name: "samples" | "chunks" | "normLength", mode: AggregationMode): number {
  const value = scale[name];
  if (value === undefined) throw new AleError("internal", `aggregation ${mode} needs the number of ${name}`);
  return value;
}

/** Denominators of a minibatch, counted over all its sequences; sequences without turns have no chunks. */
export function countDenominators(
  rows: readonly TokenPlaces[],
): Denominators & { readonly samples: number; readonly chunks: number } {
  const tokens = rows.map(({ mask_T }) => countOnes(mask_T));
  return {
    tokens: tokens.reduce((a, b) => a + b, 0),
    samples: tokens.filter((count) => count > 0).length,
    chunks: rows.reduce((sum, { turnIds_T = [] }) => sum + countChunks(denseTurnIds(turnIds_T)), 0),
  };
}
