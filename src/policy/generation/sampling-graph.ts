/**
 * The part of the decode graph that turns logits into one token per row. What a row gets does not depend on what the
 * other rows ask for: a variant that can do more computes the same values for a row that asks for less.
 */

import type { OnnxBuilder } from "../../onnx/builder.ts";
import { ELEMENT_CODES } from "../../onnx/model.ts";

/**
 * `plain` knows temperature, greedy and forced tokens. `truncated` adds top-k, top-p, min-p and the list of the most
 * likely tokens. `penalized` adds the repetition penalty to that. Each asks for more work per step than the one before.
 */
export const SAMPLING_VARIANTS = ["plain", "truncated", "penalized"] as const;
export type SamplingVariant = (typeof SAMPLING_VARIANTS)[number];

/** Most tokens of which probabilities can be asked for at a position. */
export const MAX_TOP_LOGPROBS = 20;
/**
 * Truncation looks at this many of the most likely tokens; rows that allow more are sampled outside the graph. Of 152 000
 * tokens, the best 256 cost 0.22 ms of one core, the best 1024 already 0.69 (a full softmax 0.19).
 */
const CANDIDATES = 256;

/** How many tokens `truncated` and `penalized` rank. */
export function candidateCount(vocabulary: number): number {
  return Math.min(CANDIDATES, vocabulary);
}

/** How many tokens `truncated` and `penalized` report. */
export function reportedCount(vocabulary: number): number {
  return Math.min(MAX_TOP_LOGPROBS, vocabulary);
}

const LAST = { attributes: { axis: { int: 1 } } };
const KEEP = { attributes: { keepdims: { int: 1 } } };
const TO_INT32 = { attributes: { to: { int: ELEMENT_CODES.int32 } } };

/**
 * Inputs per row [rows, 1]: `uniform` in (0, 1), `inverse_temperature`, `greedy`, `forced` (a token id, or −1 to sample).
 * Outputs: `token`, `logprob`, `logprob_t1`. See `emitPenalty` and `emitTruncation` for those of the other variants.
 */
export function emitSampling(
  graph: OnnxBuilder,
  logits: string,
  rows: number,
  vocabulary: number,
  variant: SamplingVariant,
): void {
  const perRow = [rows, 1];
  graph.input("uniform", "float32", perRow);
  graph.input("inverse_temperature", "float32", perRow);
  graph.input("greedy", "bool", perRow);
  graph.input("forced", "int32", perRow);
  const logprobsT1 = graph.node("LogSoftmax", [logits], LAST);
  const wanted = variant === "penalized" ? emitPenalty(graph, logits, rows, vocabulary) : logits;
  const scaled = graph.node("Mul", [wanted, "inverse_temperature"]);
  const logprobs = graph.node("LogSoftmax", [scaled], LAST);
  const sampled = emitInversion(graph, graph.node("Exp", [logprobs]), vocabulary).index;
  const mostLikely = emitArgMax(graph, wanted, vocabulary);
  const plain = graph.node("Where", ["greedy", mostLikely, sampled]);
  const truncated =
    variant === "plain" ? undefined : emitTruncation(graph, { scaled, logprobs }, rows, candidateCount(vocabulary));
  const chosen = truncated === undefined ? plain : graph.node("Where", ["truncate", truncated.token, plain]);
  const isForced = graph.node("GreaterOrEqual", ["forced", graph.scalar("int32", 0)]);
  graph.node("Where", [isForced, "forced", chosen], { outputs: ["token"] });
  graph.output("token", "int32", perRow);
  graph.node("GatherElements", [logprobsT1, "token"], { ...LAST, outputs: ["logprob_t1"] });
  graph.output("logprob_t1", "float32", perRow);
  if (truncated === undefined) {
    graph.node("GatherElements", [logprobs, "token"], { ...LAST, outputs: ["logprob"] });
  } else {
    const untruncated = graph.node("GatherElements", [logprobs, "token"], LAST);
    graph.node("Where", ["truncate", truncated.logprob, untruncated], { outputs: ["logprob"] });
  }
  graph.output("logprob", "float32", perRow);
}

/** With fewer columns, looking at blocks first costs more than it saves. */
const FEWEST_BLOCKED = 8192;

/**
 * Into how many blocks `count` columns are cut: a divisor of `count` near its square root, or 1. ONNX Runtime adds up and compares
 * blocks on all vector lanes, but sums cumulatively and finds the place of a maximum one element at a time: of 151 936 columns
 * sampling takes 1.0 ms of one core in one piece and 0.4 in blocks.
 */
export function blockCount(count: number): number {
  if (count < FEWEST_BLOCKED) return 1;
  const root = Math.floor(Math.sqrt(count));
  for (let blocks = root; blocks >= 32; blocks--) if (count % blocks === 0) return blocks;
  return 1;
}

/**
 * Sampling by inversion: the smallest index whose cumulative weight reaches uniform · total; of many columns, first the block,
 * then the index in it. Comparing with the total instead of 1 keeps rounding from ever choosing an index past the last one
 * with weight, and an index without weight never is the first to reach anything.
 */
function emitInversion(graph: OnnxBuilder, weights: string, count: number): { index: string; total: string } {
  const blocks = blockCount(count);
  if (blocks === 1) {
    const { cumulative, total } = cumulate(graph, weights, count);
    return { index: emitFirstReaching(graph, cumulative, graph.node("Mul", ["uniform", total])), total };
  }
  const width = count / blocks;
  const cut = cutIntoBlocks(graph, weights, blocks, width);
  const sums = graph.node("ReduceSum", [cut, graph.int64s([2])], { attributes: { keepdims: { int: 0 } } });
  const { cumulative, total } = cumulate(graph, sums, blocks);
  const threshold = graph.node("Mul", ["uniform", total]);
  const block = emitFirstReaching(graph, cumulative, threshold);
  const sumsBefore = graph.node("CumSum", [sums, graph.scalar("int64", 1)], { attributes: { exclusive: { int: 1 } } });
  const rest = graph.node("Sub", [threshold, graph.node("GatherElements", [sumsBefore, block], LAST)]);
  const inside = cumulate(graph, takeBlock(graph, cut, block), width);
  // A block added up in another order may be a rounding less than what is left for it.
  const place = emitFirstReaching(graph, inside.cumulative, graph.node("Min", [rest, inside.total]));
  return { index: indexOf(graph, block, place, width), total };
}

function cumulate(graph: OnnxBuilder, weights: string, count: number): { cumulative: string; total: string } {
  const cumulative = graph.node("CumSum", [weights, graph.scalar("int64", 1)]);
  return { cumulative, total: graph.node("Slice", [cumulative, ...columns(graph, count - 1, count)]) };
}

/** Index [rows, 1] of the first of growing values [rows, n] that reaches `threshold` [rows, 1]. */
function emitFirstReaching(graph: OnnxBuilder, growing: string, threshold: string): string {
  const below = graph.node("Cast", [graph.node("Less", [growing, threshold])], TO_INT32);
  return graph.node("ReduceSum", [below, graph.int64s([1])], KEEP);
}

/** The lowest index of the largest value in each row, int32 [rows, 1]. */
function emitArgMax(graph: OnnxBuilder, values: string, count: number): string {
  const argMax = (x: string) => graph.node("Cast", [graph.node("ArgMax", [x], LAST)], TO_INT32);
  const blocks = blockCount(count);
  if (blocks === 1) return argMax(values);
  const width = count / blocks;
  const cut = cutIntoBlocks(graph, values, blocks, width);
  const maxima = graph.node("ReduceMax", [cut, graph.int64s([2])], { attributes: { keepdims: { int: 0 } } });
  const block = argMax(maxima);
  return indexOf(graph, block, argMax(takeBlock(graph, cut, block)), width);
}

/** [rows, blocks · width] → [rows, blocks, width]. */
function cutIntoBlocks(graph: OnnxBuilder, x: string, blocks: number, width: number): string {
  return graph.node("Reshape", [x, graph.int64s([-1, blocks, width])]);
}

/** The block of each row that `block` [rows, 1] names, [rows, width]. */
function takeBlock(graph: OnnxBuilder, cut: string, block: string): string {
  const place = graph.node("Cast", [block], { attributes: { to: { int: ELEMENT_CODES.int64 } } });
  return graph.node("GatherND", [cut, place], { attributes: { batch_dims: { int: 1 } } });
}

function indexOf(graph: OnnxBuilder, block: string, place: string, width: number): string {
  return graph.node("Add", [graph.node("Mul", [block, graph.scalar("int32", width)]), place]);
}

/** Start, end and axis of a slice of columns [from, to). */
function columns(graph: OnnxBuilder, from: number, to: number): string[] {
  return [graph.int64s([from]), graph.int64s([to]), graph.int64s([1])];
}

/** Logits after the penalty. Inputs: `seen` [rows, vocabulary], 1 for tokens of the sequence; `penalty` [rows, 1]. */
function emitPenalty(graph: OnnxBuilder, logits: string, rows: number, vocabulary: number): string {
  graph.input("seen", "bool", [rows, vocabulary]);
  graph.input("penalty", "float32", [rows, 1]);
  const negative = graph.node("Less", [logits, graph.scalar("float32", 0)]);
  const raised = graph.node("Mul", [logits, "penalty"]);
  const lowered = graph.node("Div", [logits, "penalty"]);
  return graph.node("Where", ["seen", graph.node("Where", [negative, raised, lowered]), logits]);
}

/**
 * Top-k, top-p and min-p over the most likely tokens in descending order. Inputs per row [rows, 1]: `truncate` (apply
 * them), `top_k`, `top_p` (above 1: off), `min_p`. Outputs: `top_ids` and `top_logprobs` [rows, reported], and
 * `undecided` [rows, 1]: all candidates are allowed, so tokens that were not looked at may be, too.
 */
function emitTruncation(
  graph: OnnxBuilder,
  { scaled, logprobs }: { readonly scaled: string; readonly logprobs: string },
  rows: number,
  candidates: number,
): { readonly token: string; readonly logprob: string } {
  const perRow = [rows, 1];
  graph.input("truncate", "bool", perRow);
  graph.input("top_k", "int32", perRow);
  graph.input("top_p", "float32", perRow);
  graph.input("min_p", "float32", perRow);
  const [values, ids] = graph.nodes("TopK", [scaled, graph.int64s([candidates])], 2, LAST) as [string, string];
  const ofFirst = columns(graph, 0, 1);
  const relative = graph.node("Sub", [values, graph.node("Slice", [values, ...ofFirst])]);
  const weights = graph.node("Exp", [relative]);
  const ranks = graph.constant(
    "int32",
    [1, candidates],
    Int32Array.from({ length: candidates }, (_, i) => i),
  );
  const inTopK = graph.node("Less", [ranks, "top_k"]);
  const nothing = graph.scalar("float32", 0);
  const topK = graph.node("Where", [inTopK, weights, nothing]);
  const bestLogprob = graph.node("GatherElements", [logprobs, graph.node("Slice", [ids, ...ofFirst])], LAST);
  // Σ exp(z − z_max) over the whole vocabulary is 1 / p_max.
  const allTotal = graph.node("Exp", [graph.node("Neg", [bestLogprob])]);
  const isTopK = graph.node("LessOrEqual", ["top_k", graph.scalar("int32", candidates)]);
  const topKTotal = graph.node("ReduceSum", [topK, graph.int64s([1])], KEEP);
  const total = graph.node("Where", [isTopK, topKTotal, allTotal]);
  const before = graph.node("CumSum", [topK, graph.scalar("int64", 1)], { attributes: { exclusive: { int: 1 } } });
  const inTopP = graph.node("Less", [before, graph.node("Mul", ["top_p", total])]);
  const inMinP = graph.node("GreaterOrEqual", [weights, "min_p"]);
  const allowed = graph.node("And", [graph.node("And", [inTopK, inTopP]), inMinP]);
  const kept = graph.node("Where", [allowed, weights, nothing]);
  const { index, total: keptTotal } = emitInversion(graph, kept, candidates);
  const normalizer = graph.node("Log", [keptTotal]);
  const place = graph.node("GatherElements", [relative, index], LAST);

  graph.node("Slice", [allowed, ...columns(graph, candidates - 1, candidates)], { outputs: ["undecided"] });
  graph.output("undecided", "bool", perRow);
  const reported = columns(graph, 0, Math.min(MAX_TOP_LOGPROBS, candidates));
  graph.node("Cast", [graph.node("Slice", [ids, ...reported])], { ...TO_INT32, outputs: ["top_ids"] });
  const whole = graph.node("Add", [relative, bestLogprob]);
  const restricted = graph.node("Where", [
    allowed,
    graph.node("Sub", [relative, normalizer]),
    graph.scalar("float32", Number.NEGATIVE_INFINITY),
  ]);
  const shown = graph.node("Where", ["truncate", restricted, whole]);
  graph.node("Slice", [shown, ...reported], { outputs: ["top_logprobs"] });
  const shape = [rows, Math.min(MAX_TOP_LOGPROBS, candidates)];
  graph.output("top_ids", "int32", shape);
  graph.output("top_logprobs", "float32", shape);
  return {
    token: graph.node("Cast", [graph.node("GatherElements", [ids, index], LAST)], TO_INT32),
    logprob: graph.node("Sub", [place, normalizer]),
  };
}
