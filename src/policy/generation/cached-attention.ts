/**
 * Attention over a cache from ONNX's own operators, for devices whose GroupQueryAttention cannot be relied on. It looks at
 * every cell and masks those not in use; keys and values are appended in place.
 */

import type { DecoderConfig } from "../../models/config.ts";
import type { OnnxBuilder } from "../../onnx/builder.ts";

/** Added in place of the scores of cells not in use; their probability is exactly 0. */
const MASKED = -1e30;

export interface CachedAttentionShape {
  readonly rows: number;
  /** New tokens per row. */
  readonly tokens: number;
  readonly cells: number;
}

/** What the attentions of all layers of a graph share. */
export interface CachedPositions {
  readonly shape: CachedAttentionShape;
  /** Cell of each new token, int32 [rows, 1, tokens, 1]. */
  readonly cells: string;
  /** Cosines and sines of each new token, [rows, tokens, 1, headDim / 2]. */
  readonly cos: string;
  readonly sin: string;
  /** Which cells each new token may see, bool [rows, 1, 1, tokens, cells]. */
  readonly visible: string;
}

/**
 * @param lengths name of int32 [rows]: the cell of each row's last new token. @param tables names of cosines and sines of
 * all positions, [cells, headDim / 2].
 */
export function cachedPositions(
  graph: OnnxBuilder,
  shape: CachedAttentionShape,
  lengths: string,
  tables: { readonly cos: string; readonly sin: string; readonly half: number },
): CachedPositions {
  const { rows, tokens, cells } = shape;
  const reshape = (x: string, to: readonly number[]) => graph.node("Reshape", [x, graph.int64s(to)]);
  const offsets = graph.constant(
    "int32",
    [1, tokens],
    Int32Array.from({ length: tokens }, (_, t) => t - (tokens - 1)),
  );
  const positions = graph.node("Add", [reshape(lengths, [rows, 1]), offsets]);
  const all = graph.constant(
    "int32",
    [1, 1, 1, 1, cells],
    Int32Array.from({ length: cells }, (_, cell) => cell),
  );
  const angles = (table: string) => reshape(graph.node("Gather", [table, positions]), [rows, tokens, 1, tables.half]);
  return {
    shape,
    cells: reshape(positions, [rows, 1, tokens, 1]),
    cos: angles(tables.cos),
    sin: angles(tables.sin),
    visible: graph.node("LessOrEqual", [all, reshape(positions, [rows, 1, 1, tokens, 1])]),
  };
}

/** The new tokens' projections, [rows · tokens, heads · headDim] each, not rotated; and the cache. */
export interface CachedAttentionInputs {
  readonly query: string;
  readonly key: string;
  readonly value: string;
  /** Names of the cache before, [rows, kvHeads, cells, headDim], and of graph outputs over the same memory. */
  readonly cache: {
    readonly pastKeys: string;
    readonly pastValues: string;
    readonly keys: string;
    readonly values: string;
  };
}

/** Rotates, appends and attends; [rows · tokens, heads · headDim]. */
export function emitCachedAttention(
  graph: OnnxBuilder,
  config: DecoderConfig,
  positions: CachedPositions,
  inputs: CachedAttentionInputs,
): string {
  const { heads, kvHeads, headDim } = config;
  const { rows, tokens, cells } = positions.shape;
  const groups = heads / kvHeads;
  const reshape = (x: string, to: readonly number[]) => graph.node("Reshape", [x, graph.int64s(to)]);
  const transpose = (x: string, perm: readonly number[]) =>
    graph.node("Transpose", [x], { attributes: { perm: { ints: perm } } });
  const byHead = (x: string, count: number) => reshape(x, [rows, tokens, count, headDim]);
  const append = (past: string, news: string, output: string) => {
    const places = graph.node("Expand", [positions.cells, graph.int64s([rows, kvHeads, tokens, headDim])]);
    const update = transpose(news, [0, 2, 1, 3]);
    return graph.node("ScatterElements", [past, places, update], {
      attributes: { axis: { int: 2 } },
      outputs: [output],
    });
  };
  const { cache } = inputs;
  const keys = append(cache.pastKeys, rotate(graph, byHead(inputs.key, kvHeads), positions), cache.keys);
  const values = append(cache.pastValues, byHead(inputs.value, kvHeads), cache.values);

  const query = rotate(graph, byHead(inputs.query, heads), positions);
  const split = reshape(query, [rows, tokens, kvHeads, groups, headDim]);
  // The cache is the left operand as it lies: only the queries and the scores, which are small, are transposed.
  const columns = reshape(transpose(split, [0, 2, 4, 3, 1]), [rows, kvHeads, headDim, groups * tokens]);
  const scale = graph.scalar("float32", 1 / Math.sqrt(headDim));
  const products = graph.node("MatMul", [keys, graph.node("Mul", [columns, scale])]);
  const scores = reshape(transpose(products, [0, 1, 3, 2]), [rows, kvHeads, groups, tokens, cells]);
  const masked = graph.node("Where", [positions.visible, scores, graph.scalar("float32", MASKED)]);
  const softmax = graph.node("Softmax", [masked], { attributes: { axis: { int: -1 } } });
  const mixed = graph.node("MatMul", [reshape(softmax, [rows, kvHeads, groups * tokens, cells]), values]);
  const merged = transpose(reshape(mixed, [rows, kvHeads, groups, tokens, headDim]), [0, 3, 1, 2, 4]);
  return reshape(merged, [rows * tokens, heads * headDim]);
}

/** (a, b) → (a cos − b sin, b cos + a sin) on the halves of every head of x [rows, tokens, heads, headDim]. */
function rotate(graph: OnnxBuilder, x: string, { cos, sin }: CachedPositions): string {
  const last = { axis: { int: 3 } };
  const halves = graph.nodes("Split", [x], 2, { attributes: { ...last, num_outputs: { int: 2 } } });
  const [a, b] = halves as readonly [string, string];
  const times = (u: string, v: string) => graph.node("Mul", [u, v]);
  const first = graph.node("Sub", [times(a, cos), times(b, sin)]);
  const second = graph.node("Add", [times(b, cos), times(a, sin)]);
  return graph.node("Concat", [first, second], { attributes: last });
}
