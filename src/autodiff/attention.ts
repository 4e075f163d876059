/**
 * Causal grouped-query attention; Ainslie et al., https://arxiv.org/abs/2305.13245. Queries are taken in blocks, and a block
 * sees the keys up to its own end only: later blocks of scores are never computed, and none is larger than block × length.
 */

import { type Graph, plus, reshape, type Tensor, transpose } from "./graph.ts";
import { batchedProduct } from "./matmul.ts";

export interface AttentionShape {
  readonly rows: number;
  readonly length: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Added to the scores of later positions; large enough that their probability is exactly 0 in float32. */
const MASKED = -1e30;

/** Queries per block: small blocks skip more of the scores, but make small products and many nodes. */
function defaultBlock(length: number): number {
  return Math.max(64, Math.ceil(length / 8));
}

/** What a block of queries [begin, end) computed; scores are [rows, kvHeads, groups · (end − begin), end]. */
interface Block {
  readonly begin: number;
  readonly end: number;
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
  readonly probabilities: Tensor;
}

/**
 * softmax(q · kᵀ / √headDim, causal) · v for q [N, heads · headDim] and k, v [N, kvHeads · headDim], N = rows · length. Keys
 * and values are never repeated: the query heads that share one are stacked into a taller matrix.
 *
 * Backward: dV = Pᵀ · dO, dS = P · (dO · Vᵀ − rowsum(dO · O)), dQ = dS · K, dK = dSᵀ · Q. The row sum of dO · O equals that
 * of dP · P (Dao et al., https://arxiv.org/abs/2205.14135), which saves a pass over the scores.
 */
export function causalAttention(
  graph: Graph,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  shape: AttentionShape,
  blockSize = defaultBlock(shape.length),
): Tensor {
  const queries = splitQueries(graph, q, shape);
  const keys = splitKeys(graph, k, shape);
  const values = splitKeys(graph, v, shape);
  const blocks: Block[] = [];
  const mixed: Tensor[] = [];
  for (let begin = 0; begin < shape.length; begin += blockSize) {
    const end = Math.min(shape.length, begin + blockSize);
    const block = attend(graph, { queries, keys, values, begin, end }, shape);
    blocks.push(block);
    mixed.push(unstack(graph, batchedProduct(graph, block.probabilities, block.value), shape));
  }
  const outputs = concatenate(graph, mixed, QUERY_AXIS);
  const output = mergeQueries(graph, outputs, shape);

  graph.record([output], ([gradient]) => {
    const towards = splitQueries(graph, gradient as Tensor, shape);
    const product = graph.apply("Mul", [towards, outputs], outputs.shape);
    const rowSums = graph.apply("ReduceSum", [product, graph.integers([4])], [...outputs.shape.slice(0, 4), 1], {
      attributes: { keepdims: { int: 1 } },
    });
    const pulled = blocks.map((block) => pullBack(graph, block, towards, rowSums));
    graph.accumulate(q, (soFar) => {
      const whole = concatenate(
        graph,
        pulled.map(({ query }) => unstack(graph, query, shape)),
        QUERY_AXIS,
      );
      return plus(graph, soFar, mergeQueries(graph, whole, shape));
    });
    const prefixes = (pick: (pull: BlockGradients) => Tensor) =>
      mergeKeys(graph, addPrefixes(graph, pulled.map(pick)), shape);
    graph.accumulate(k, (soFar) =>
      plus(
        graph,
        soFar,
        prefixes(({ key }) => key),
      ),
    );
    graph.accumulate(v, (soFar) =>
      plus(
        graph,
        soFar,
        prefixes(({ value }) => value),
      ),
    );
  });
  return output;
}

interface BlockInputs {
  /** [rows, kvHeads, groups, length, headDim]. */
  readonly queries: Tensor;
  /** [rows, kvHeads, length, headDim]. */
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly begin: number;
  readonly end: number;
}

/** Attention probabilities of one block of queries. */
function attend(graph: Graph, inputs: BlockInputs, shape: AttentionShape): Block {
  const { begin, end } = inputs;
  const { rows, kvHeads, headDim } = shape;
  const groups = shape.heads / kvHeads;
  const size = end - begin;
  const query = stack(graph, slice(graph, inputs.queries, QUERY_AXIS, begin, end));
  const key = slice(graph, inputs.keys, KEY_AXIS, 0, end);
  const value = slice(graph, inputs.values, KEY_AXIS, 0, end);
  const scores = batchedProduct(graph, query, key, { transposeB: true, scale: 1 / Math.sqrt(headDim) });
  const split = [rows, kvHeads, groups, size, end];
  const masked = graph.apply("Add", [reshape(graph, scores, split), causalMask(graph, begin, end)], split);
  const softmax = graph.apply("Softmax", [masked], split, { attributes: { axis: { int: -1 } } });
  return { begin, end, query, key, value, probabilities: reshape(graph, softmax, scores.shape) };
}

interface BlockGradients {
  /** [rows, kvHeads, groups · size, headDim]. */
  readonly query: Tensor;
  /** Of the keys and values up to the block's end. */
  readonly key: Tensor;
  readonly value: Tensor;
}

function pullBack(graph: Graph, block: Block, towards: Tensor, rowSums: Tensor): BlockGradients {
  const { begin, end, probabilities } = block;
  const scale = 1 / Math.sqrt(block.key.shape.at(-1) as number);
  const towardsMixed = stack(graph, slice(graph, towards, QUERY_AXIS, begin, end));
  const rowSum = stack(graph, slice(graph, rowSums, QUERY_AXIS, begin, end));
  const towardsProbabilities = batchedProduct(graph, towardsMixed, block.value, { transposeB: true });
  const centred = graph.apply("Sub", [towardsProbabilities, rowSum], probabilities.shape);
  const towardsScores = graph.apply("Mul", [probabilities, centred], probabilities.shape);
  return {
    query: batchedProduct(graph, towardsScores, block.key, { scale }),
    key: batchedProduct(graph, towardsScores, block.query, { transposeA: true, scale }),
    value: batchedProduct(graph, probabilities, towardsMixed, { transposeA: true }),
  };
}

/** The additive mask [1, 1, 1, end − begin, end] of queries begin … end − 1. */
function causalMask(graph: Graph, begin: number, end: number): Tensor {
  return graph.shared(`causal mask ${begin}-${end}`, () => {
    const mask = new Float64Array((end - begin) * end);
    for (let query = begin; query < end; query++) {
      const row = (query - begin) * end;
      mask.fill(MASKED, row + query + 1, row + end);
    }
    return graph.constant([1, 1, 1, end - begin, end], mask);
  });
}

/** Axis of positions in split queries [rows, kvHeads, groups, length, headDim]. */
const QUERY_AXIS = 3;
/** Axis of positions in split keys [rows, kvHeads, length, headDim]. */
const KEY_AXIS = 2;

function splitQueries(graph: Graph, q: Tensor, shape: AttentionShape): Tensor {
  const { rows, length, heads, kvHeads, headDim } = shape;
  const split = reshape(graph, q, [rows, length, kvHeads, heads / kvHeads, headDim]);
  return transpose(graph, split, [0, 2, 3, 1, 4]);
}

function mergeQueries(graph: Graph, split: Tensor, shape: AttentionShape): Tensor {
  const { rows, length, heads, headDim } = shape;
  return reshape(graph, transpose(graph, split, [0, 3, 1, 2, 4]), [rows * length, heads * headDim]);
}

function splitKeys(graph: Graph, k: Tensor, shape: AttentionShape): Tensor {
  const { rows, length, kvHeads, headDim } = shape;
  return transpose(graph, reshape(graph, k, [rows, length, kvHeads, headDim]), [0, 2, 1, 3]);
}

function mergeKeys(graph: Graph, split: Tensor, shape: AttentionShape): Tensor {
  const { rows, length, kvHeads, headDim } = shape;
  return reshape(graph, transpose(graph, split, [0, 2, 1, 3]), [rows * length, kvHeads * headDim]);
}

/** [rows, kvHeads, groups, size, width] → [rows, kvHeads, groups · size, width]. */
function stack(graph: Graph, split: Tensor): Tensor {
  const [rows, kvHeads, groups, size, width] = split.shape as [number, number, number, number, number];
  return reshape(graph, split, [rows, kvHeads, groups * size, width]);
}

function unstack(graph: Graph, stacked: Tensor, shape: AttentionShape): Tensor {
  const groups = shape.heads / shape.kvHeads;
  const [rows, kvHeads, height, width] = stacked.shape as [number, number, number, number];
  return reshape(graph, stacked, [rows, kvHeads, groups, height / groups, width]);
}

/** Positions begin … end − 1 along `axis`. */
function slice(graph: Graph, tensor: Tensor, axis: number, begin: number, end: number): Tensor {
  if (begin === 0 && end === tensor.shape[axis]) return tensor;
  const bounds = [graph.integers([begin]), graph.integers([end]), graph.integers([axis])];
  return graph.apply("Slice", [tensor, ...bounds], tensor.shape.with(axis, end - begin));
}

function concatenate(graph: Graph, parts: readonly Tensor[], axis: number): Tensor {
  const [first] = parts;
  if (first === undefined || parts.length === 1) return first as Tensor;
  const size = parts.reduce((sum, part) => sum + (part.shape[axis] as number), 0);
  return graph.apply("Concat", parts, first.shape.with(axis, size), { attributes: { axis: { int: axis } } });
}

/** Sum of tensors that cover longer and longer beginnings of the key axis. */
function addPrefixes(graph: Graph, prefixes: readonly Tensor[]): Tensor {
  const tails: Tensor[] = [];
  let sum = prefixes.at(-1) as Tensor;
  for (const shorter of prefixes.slice(0, -1).reverse()) {
    const end = shorter.shape[KEY_AXIS] as number;
    tails.unshift(slice(graph, sum, KEY_AXIS, end, sum.shape[KEY_AXIS] as number));
    sum = plus(graph, slice(graph, sum, KEY_AXIS, 0, end), shorter);
  }
  return concatenate(graph, [sum, ...tails], KEY_AXIS);
}
