/**
 * Causal grouped-query attention; Ainslie et al., https://arxiv.org/abs/2305.13245. Queries are taken in blocks, and a block
 * sees the keys up to its own end only: later blocks of scores are never computed, and none is larger than block × length.
 */

import { after, type Graph, plus, reshape, type Tensor, transpose } from "./graph.ts";
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

/** How the work of one attention is cut up. */
export interface AttentionPlan {
  /** Queries per block. */
  readonly blockSize: number;
  /** The backward pass computes a block's probabilities again, so that only one block of them exists at a time. */
  readonly recompute: boolean;
}

/** Scores of one block at most, in elements: 64 MiB in float32. */
const MAX_BLOCK_SCORES = 1 << 24;
const MAX_BLOCK = 256;
/** Longest sequence whose probabilities are all kept for the backward pass. */
const KEPT_LENGTH = 1024;

/** Small blocks skip more of the scores, but make small products and many nodes. */
export function attentionPlan({ rows, length, heads }: AttentionShape): AttentionPlan {
  const fitting = Math.floor(MAX_BLOCK_SCORES / (rows * heads * length));
  const blockSize = Math.max(64, Math.min(Math.ceil(length / 8), MAX_BLOCK, fitting));
  return { blockSize, recompute: length > KEPT_LENGTH };
}

export interface AttentionOptions {
  readonly plan?: AttentionPlan;
  /**
   * [rows, length] in the graph's float type: a number per sequence, where a row holds several one behind the other. A token
   * then attends to those of its own sequence only. Each row is one sequence when omitted.
   */
  readonly segments?: Tensor | undefined;
}

/** What a block of queries [begin, end) computed; scores are [rows, kvHeads, groups · (end − begin), end]. */
interface Block {
  readonly begin: number;
  readonly end: number;
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
  readonly probabilities: Tensor;
  /** Ones before the shapes above. */
  readonly lead: readonly number[];
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
  { plan = attentionPlan(shape), segments }: AttentionOptions = {},
): Tensor {
  const inputs: AttentionInputs = {
    queries: splitQueries(graph, q, shape),
    keys: splitKeys(graph, k, shape),
    values: splitKeys(graph, v, shape),
    segments: segments && { numbers: segments, recompute: plan.recompute },
  };
  const blocks: Block[] = [];
  const mixed: Tensor[] = [];
  for (let begin = 0; begin < shape.length; begin += plan.blockSize) {
    const block = attend(graph, inputs, begin, Math.min(shape.length, begin + plan.blockSize), shape);
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
    const again = plan.recompute ? { inputs, shape } : undefined;
    const sums = pullBackBlocks(graph, blocks, { towards, rowSums, again });
    graph.accumulate(q, (soFar) => {
      const queries = sums.queries.map((part) => unstack(graph, part, shape));
      return plus(graph, soFar, mergeQueries(graph, concatenate(graph, queries, QUERY_AXIS), shape));
    });
    graph.accumulate(k, (soFar) => plus(graph, soFar, mergeKeys(graph, sums.keys, shape)));
    graph.accumulate(v, (soFar) => plus(graph, soFar, mergeKeys(graph, sums.values, shape)));
  });
  return output;
}

interface AttentionInputs {
  /** [rows, kvHeads, groups, length, headDim]. */
  readonly queries: Tensor;
  /** [rows, kvHeads, length, headDim]. */
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly segments: Segments | undefined;
}

interface Segments {
  /** [rows, length]. */
  readonly numbers: Tensor;
  /** Masks are made where they are needed, not once for all layers. */
  readonly recompute: boolean;
}

interface AttendOptions {
  /** What has to be computed first. */
  readonly earlier?: readonly Tensor[];
  /**
   * Ones put before every shape. ONNX Runtime lets tensors of equal shape share a buffer, which then lives from the first of
   * them to the last; so a block that is computed again must not have the shapes of the first time.
   */
  readonly lead?: readonly number[];
}

/** Attention probabilities of the queries [begin, end). */
function attend(
  graph: Graph,
  inputs: AttentionInputs,
  begin: number,
  end: number,
  shape: AttentionShape,
  { earlier = [], lead = [] }: AttendOptions = {},
): Block {
  const { rows, kvHeads, headDim } = shape;
  const groups = shape.heads / kvHeads;
  const size = end - begin;
  const query = stack(graph, after(graph, slice(graph, inputs.queries, QUERY_AXIS, begin, end), earlier), lead);
  const [key, value] = [inputs.keys, inputs.values].map((whole) => {
    const raised = lead.length === 0 ? whole : reshape(graph, whole, [...lead, ...whole.shape]);
    return slice(graph, raised, lead.length + KEY_AXIS, 0, end);
  }) as [Tensor, Tensor];
  const scores = batchedProduct(graph, query, key, { transposeB: true, scale: 1 / Math.sqrt(headDim) });
  const split = [...lead, rows, kvHeads, groups, size, end];
  const mask =
    inputs.segments === undefined
      ? causalMask(graph, begin, end, lead)
      : segmentMask(graph, inputs.segments, { begin, end, lead, query });
  const masked = graph.apply("Add", [reshape(graph, scores, split), mask], split);
  const softmax = graph.apply("Softmax", [masked], split, { attributes: { axis: { int: -1 } } });
  return { begin, end, query, key, value, probabilities: reshape(graph, softmax, scores.shape), lead };
}

interface BackwardInputs {
  /** Gradient of the mixed values, split like the queries, and its row sums with them. */
  readonly towards: Tensor;
  readonly rowSums: Tensor;
  /** Where blocks are to be computed again. */
  readonly again: { readonly inputs: AttentionInputs; readonly shape: AttentionShape } | undefined;
}

/**
 * Gradients of all blocks: per block for the queries, summed for keys and values. Blocks are taken from the last, whose keys
 * are all keys; each that is computed again waits for the one before it, so that their scores never exist together.
 */
function pullBackBlocks(graph: Graph, blocks: readonly Block[], { towards, rowSums, again }: BackwardInputs) {
  const queries: Tensor[] = [];
  const keys = new PrefixSum(graph);
  const values = new PrefixSum(graph);
  let earlier: readonly Tensor[] = [rowSums];
  for (const kept of blocks.toReversed()) {
    const { begin, end } = kept;
    const block =
      again === undefined ? kept : attend(graph, again.inputs, begin, end, again.shape, { earlier, lead: [1, 1] });
    const pulled = pullBack(graph, block, towards, rowSums);
    queries.unshift(pulled.query);
    earlier = [pulled.query, ...keys.add(pulled.key), ...values.add(pulled.value)];
  }
  return { queries, keys: keys.whole(), values: values.whole() };
}

interface BlockGradients {
  /** [rows, kvHeads, groups · size, headDim]. */
  readonly query: Tensor;
  /** Of the keys and values up to the block's end. */
  readonly key: Tensor;
  readonly value: Tensor;
}

function pullBack(graph: Graph, block: Block, towards: Tensor, rowSums: Tensor): BlockGradients {
  const { begin, end, probabilities, lead } = block;
  const scale = 1 / Math.sqrt(block.key.shape.at(-1) as number);
  const towardsMixed = stack(graph, slice(graph, towards, QUERY_AXIS, begin, end), lead);
  const rowSum = stack(graph, slice(graph, rowSums, QUERY_AXIS, begin, end), lead);
  const towardsProbabilities = batchedProduct(graph, towardsMixed, block.value, { transposeB: true });
  const centred = graph.apply("Sub", [towardsProbabilities, rowSum], probabilities.shape);
  const towardsScores = graph.apply("Mul", [probabilities, centred], probabilities.shape);
  return {
    query: batchedProduct(graph, towardsScores, block.key, { scale }),
    key: batchedProduct(graph, towardsScores, block.query, { transposeA: true, scale }),
    value: batchedProduct(graph, probabilities, towardsMixed, { transposeA: true }),
  };
}

/** Keys up to which masks are constants; beyond, they are made on the way from that of the last `size` keys. */
const CONSTANT_MASK_KEYS = 1024;

/** The additive mask [… lead, end − begin, end] of queries begin … end − 1. */
function causalMask(graph: Graph, begin: number, end: number, lead: readonly number[]): Tensor {
  const shape = [...lead, end - begin, end];
  if (begin > 0 && end > CONSTANT_MASK_KEYS) {
    const pads = Array.from({ length: 2 * shape.length }, (_, i) => (i === shape.length - 1 ? begin : 0));
    return graph.apply("Pad", [causalMask(graph, 0, end - begin, lead), graph.integers(pads)], shape);
  }
  return graph.shared(`causal mask ${begin}-${end} ${lead}`, () => {
    const mask = new Float64Array((end - begin) * end);
    for (let query = begin; query < end; query++) {
      const row = (query - begin) * end;
      mask.fill(MASKED, row + query + 1, row + end);
    }
    return graph.constant(shape, mask);
  });
}

interface MaskedBlock {
  readonly begin: number;
  readonly end: number;
  readonly lead: readonly number[];
  /** The block's queries: a mask that is made again waits for them. */
  readonly query: Tensor;
}

/** The additive mask [… lead, rows, 1, 1, end − begin, end] of tokens that attend to their own segment only. */
function segmentMask(graph: Graph, { numbers, recompute }: Segments, block: MaskedBlock): Tensor {
  const { begin, end, lead, query } = block;
  const [rows] = numbers.shape as [number, number];
  const size = end - begin;
  const make = () => {
    const own = after(graph, slice(graph, numbers, 1, begin, end), recompute ? [query] : []);
    const ofQueries = reshape(graph, own, [...lead, rows, 1, 1, size, 1]);
    const ofKeys = reshape(graph, slice(graph, numbers, 1, 0, end), [...lead, rows, 1, 1, 1, end]);
    const shape = [...lead, rows, 1, 1, size, end];
    const same = graph.apply("Equal", [ofQueries, ofKeys], shape, { type: "bool" });
    return graph.apply("Where", [same, causalMask(graph, begin, end, lead), graph.scalar(MASKED)], shape);
  };
  return recompute ? make() : graph.shared(`segment mask ${begin}-${end} of ${numbers.name}`, make);
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
  const plain = split.shape.length === 4 ? split : reshape(graph, split, [rows, kvHeads, length, headDim]);
  return reshape(graph, transpose(graph, plain, [0, 2, 1, 3]), [rows * length, kvHeads * headDim]);
}

/** [rows, kvHeads, groups, size, width] → [… lead, rows, kvHeads, groups · size, width]. */
function stack(graph: Graph, split: Tensor, lead: readonly number[]): Tensor {
  const [rows, kvHeads, groups, size, width] = split.shape as [number, number, number, number, number];
  return reshape(graph, split, [...lead, rows, kvHeads, groups * size, width]);
}

function unstack(graph: Graph, stacked: Tensor, shape: AttentionShape): Tensor {
  const groups = shape.heads / shape.kvHeads;
  const [rows, kvHeads, height, width] = stacked.shape.slice(-4) as [number, number, number, number];
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

/** Sum of tensors [… positions, headDim] that cover shorter and shorter beginnings of the positions. */
class PrefixSum {
  readonly #graph: Graph;
  /** Sum over the beginning that the last tensor covers, and what lies behind it. */
  #sum: Tensor | undefined;
  readonly #tails: Tensor[] = [];

  constructor(graph: Graph) {
    this.#graph = graph;
  }

  /** Returns what is new: once it is computed, the sum before and the tensor are needed no more. */
  add(prefix: Tensor): readonly Tensor[] {
    const graph = this.#graph;
    const before = this.#sum;
    if (before === undefined) {
      this.#sum = prefix;
      return [prefix];
    }
    const axis = prefix.shape.length - 2;
    const end = prefix.shape[axis] as number;
    const tail = slice(graph, before, axis, end, before.shape[axis] as number);
    this.#tails.unshift(tail);
    this.#sum = plus(graph, slice(graph, before, axis, 0, end), prefix);
    return [this.#sum, tail];
  }

  whole(): Tensor {
    const sum = this.#sum as Tensor;
    return concatenate(this.#graph, [sum, ...this.#tails], sum.shape.length - 2);
  }
}
