/** The operators of `autodiff/` with inputs of small fixed shapes, for gradient tests. */

import { causalAttention } from "../autodiff/attention.ts";
import { add, gatedSilu, multiply, subtract, sum } from "../autodiff/elementwise.ts";
import { embedding } from "../autodiff/embedding.ts";
import { elementCount } from "../autodiff/graph.ts";
import { tokenDistribution } from "../autodiff/log-probability.ts";
import { addLowRank } from "../autodiff/low-rank.ts";
import { linear } from "../autodiff/matmul.ts";
import { rmsNorm } from "../autodiff/rms-norm.ts";
import { rotary, rotaryConstants } from "../autodiff/rotary.ts";
import { Rng } from "../core/rng.ts";
import type { CheckedFunction, CheckedInput, CheckedInputs } from "./gradient-check.ts";

export function normal(label: string, ...shape: number[]): CheckedInput {
  const rng = new Rng(label);
  return { shape, values: Array.from({ length: elementCount(shape) }, () => Math.fround(rng.normal())) };
}

export function integers(shape: readonly number[], values: readonly number[]): CheckedInput {
  return { shape, values, type: "integer" };
}

const ATTENTION = { rows: 2, length: 5, heads: 4, kvHeads: 2, headDim: 6 };
/** Cosines and sines of made-up angles for `rotaryConstants`; half is headDim / 2. */
export const angleTables = (length: number, half: number) => ({
  cos: Float64Array.from({ length: length * half }, (_, i) => Math.cos(i * 0.7)),
  sin: Float64Array.from({ length: length * half }, (_, i) => Math.sin(i * 0.7)),
});

/** A function of operators and what to feed it. */
export interface OperatorCase {
  readonly build: CheckedFunction;
  readonly inputs: CheckedInputs;
}

/** Ties the names a function reads to the inputs it is given. */
export function operator<Name extends string>(build: CheckedFunction<Name>, inputs: CheckedInputs<Name>): OperatorCase {
  return { build: build as CheckedFunction, inputs };
}

const DISTRIBUTION = {
  hidden: normal("h", 4, 5),
  table: normal("t", 7, 5),
  labels: integers([4], [0, 6, 3, 3]),
  inverseTemperature: { shape: [], values: [0.75], constant: true },
};
const REFERENCE = {
  states: { ...normal("s", 4, 5), constant: true },
  projection: { ...normal("q", 7, 5), constant: true },
};

/** Every operator at least once: what each profile and each device is tested on. */
export const OPERATOR_CASES: Readonly<Record<string, OperatorCase>> = {
  "add, broadcast over rows and columns": operator((graph, { a, b, c }) => [add(graph, add(graph, a, b), c)], {
    a: normal("a", 3, 4),
    b: normal("b", 4),
    c: normal("c", 3, 1),
  }),
  "subtract, broadcast": operator((graph, { a, b }) => [subtract(graph, a, b), subtract(graph, b, a)], {
    a: normal("a", 3, 4),
    b: normal("b", 3, 1),
  }),
  "multiply, broadcast, and an operand used twice": operator(
    (graph, { a, b }) => [multiply(graph, multiply(graph, a, b), a)],
    { a: normal("a", 2, 3, 4), b: normal("b", 4) },
  ),
  sum: operator((graph, { a }) => [sum(graph, multiply(graph, a, a))], { a: normal("a", 3, 4) }),
  gatedSilu: operator((graph, { gate, up }) => [gatedSilu(graph, gate, up)], {
    gate: normal("g", 5, 8),
    up: normal("u", 5, 8),
  }),
  linear: operator((graph, { x, w }) => [linear(graph, x, w)], { x: normal("x", 7, 5), w: normal("w", 3, 5) }),
  "linear with bias, used twice": operator(
    (graph, { x, w, b }) => [linear(graph, x, w, b), linear(graph, linear(graph, x, w, b), w, b)],
    { x: normal("x", 7, 5), w: normal("w", 5, 5), b: normal("b", 5) },
  ),
  "linear, weight and input shared by two products": operator(
    (graph, { x, w, v }) => [linear(graph, linear(graph, x, w), w), linear(graph, x, v)],
    { x: normal("x", 7, 5), w: normal("w", 5, 5), v: normal("v", 4, 5) },
  ),
  addLowRank: operator((graph, { x, w, a, b }) => [addLowRank(graph, linear(graph, x, w), x, { a, b, scale: 1.75 })], {
    x: normal("x", 7, 5),
    w: normal("w", 6, 5),
    a: normal("a", 2, 5),
    b: normal("b", 6, 2),
  }),
  rmsNorm: operator((graph, { x, w }) => [rmsNorm(graph, x, w, 1e-5)], { x: normal("x", 6, 8), w: normal("w", 8) }),
  "rmsNorm of each head": operator((graph, { x, w }) => [rmsNorm(graph, x, w, 1e-5)], {
    x: normal("x", 6, 12),
    w: normal("w", 4),
  }),
  "rmsNorm of tiny rows, where eps matters": operator((graph, { x, w }) => [rmsNorm(graph, x, w, 0.5)], {
    x: normal("x", 6, 8),
    w: normal("w", 8),
  }),
  rotary: operator((graph, { x }) => [rotary(graph, x, rotaryConstants(graph, 5, angleTables(5, 3)))], {
    x: normal("x", 10, 12),
  }),
  "causalAttention, grouped heads": operator((graph, { q, k, v }) => [causalAttention(graph, q, k, v, ATTENTION)], {
    q: normal("q", 10, 24),
    k: normal("k", 10, 12),
    v: normal("v", 10, 12),
  }),
  "causalAttention, one key head per query head": operator(
    (graph, { q, k, v }) => [causalAttention(graph, q, k, v, { ...ATTENTION, kvHeads: 4 })],
    { q: normal("q", 10, 24), k: normal("k", 10, 24), v: normal("v", 10, 24) },
  ),
  "causalAttention in blocks of queries, the last one shorter": operator(
    (graph, { q, k, v }) => [causalAttention(graph, q, k, v, ATTENTION, { plan: { blockSize: 2, recompute: false } })],
    { q: normal("q", 10, 24), k: normal("k", 10, 12), v: normal("v", 10, 12) },
  ),
  "causalAttention, blocks computed again": operator(
    (graph, { q, k, v }) => [causalAttention(graph, q, k, v, ATTENTION, { plan: { blockSize: 2, recompute: true } })],
    { q: normal("q", 10, 24), k: normal("k", 10, 12), v: normal("v", 10, 12) },
  ),
  "embedding, with repeated ids": operator((graph, { table, ids }) => [embedding(graph, table, ids)], {
    table: normal("t", 6, 3),
    ids: integers([5], [2, 0, 2, 5, 2]),
  }),
  "tokenDistribution: log-probability and entropy": operator(
    (graph, { hidden, table, labels, inverseTemperature }) => {
      const { logprobs, entropy } = tokenDistribution(graph, {
        hidden: hidden,
        table: table,
        labels: labels,
        inverseTemperature: inverseTemperature,
      });
      return [logprobs, entropy];
    },
    {
      hidden: normal("h", 4, 5),
      table: normal("t", 7, 5),
      labels: integers([4], [0, 6, 3, 3]),
      inverseTemperature: { shape: [], values: [0.75], constant: true },
    },
  ),
  "tokenDistribution: log-probability alone": operator(
    (graph, { hidden, table, labels, inverseTemperature }) => [
      tokenDistribution(graph, {
        hidden: hidden,
        table: table,
        labels: labels,
        inverseTemperature: inverseTemperature,
      }).logprobs,
    ],
    {
      hidden: normal("h", 4, 5),
      table: normal("t", 7, 5),
      labels: integers([4], [0, 6, 3, 3]),
      inverseTemperature: { shape: [], values: [1.25], constant: true },
    },
  ),
  "tokenDistribution: log-probability, entropy and candidates, one of them the label": operator(
    (graph, inputs) => {
      const { logprobs, entropy, candidateLogprobs } = tokenDistribution(graph, inputs);
      return [logprobs, entropy, ...(candidateLogprobs === undefined ? [] : [candidateLogprobs])];
    },
    {
      hidden: normal("h", 4, 5),
      table: normal("t", 7, 5),
      labels: integers([4], [0, 6, 3, 3]),
      candidates: integers([4, 3], [0, 1, 2, 5, 4, 3, 3, 6, 1, 2, 4, 0]),
      inverseTemperature: { shape: [], values: [0.75], constant: true },
    },
  ),
  "tokenDistribution: divergence from a reference, with log-probability and entropy": operator(
    (graph, { hidden, table, labels, inverseTemperature, states, projection }) => {
      const reference = { hidden: states, table: projection };
      const { logprobs, entropy, divergence } = tokenDistribution(graph, {
        ...{ hidden, table, labels, inverseTemperature, reference },
      });
      return [logprobs, entropy, ...(divergence === undefined ? [] : [divergence])];
    },
    { ...DISTRIBUTION, ...REFERENCE },
  ),
  "tokenDistribution: divergence alone, from the same projection": operator(
    (graph, { hidden, table, labels, inverseTemperature, states }) => {
      const reference = { hidden: states, table };
      const { divergence } = tokenDistribution(graph, { hidden, table, labels, inverseTemperature, reference });
      return divergence === undefined ? [] : [divergence];
    },
    // As adapters have it: the projection is nobody's to train.
    { ...DISTRIBUTION, table: { ...DISTRIBUTION.table, constant: true }, states: REFERENCE.states },
  ),
  "tokenDistribution: candidates alone": operator(
    (graph, inputs) => {
      const { candidateLogprobs } = tokenDistribution(graph, inputs);
      return candidateLogprobs === undefined ? [] : [candidateLogprobs];
    },
    {
      hidden: normal("h", 4, 5),
      table: normal("t", 7, 5),
      labels: integers([4], [0, 6, 3, 3]),
      candidates: integers([4, 2], [0, 1, 5, 4, 3, 6, 2, 4]),
      inverseTemperature: { shape: [], values: [1.25], constant: true },
    },
  ),
};

/** Two rows: sequences of 3 and 2 tokens; of 1 and 3, and a token of padding. */
const SEGMENTS = { shape: [2, 5], values: [1, 1, 1, 2, 2, 1, 2, 2, 2, 3], constant: true };

function packedAttention(recompute: boolean): OperatorCase {
  return operator(
    (graph, { q, k, v, segments }) => [
      causalAttention(graph, q, k, v, ATTENTION, { plan: { blockSize: 2, recompute }, segments }),
    ],
    { q: normal("q", 10, 24), k: normal("k", 10, 12), v: normal("v", 10, 12), segments: SEGMENTS },
  );
}

/** Operators over rows of several sequences, which GPUs are not given. */
export const PACKED_CASES: Readonly<Record<string, OperatorCase>> = {
  "rotary, positions given": operator(
    (graph, { x, positions }) => [rotary(graph, x, rotaryConstants(graph, 5, angleTables(5, 3), positions))],
    { x: normal("x", 10, 12), positions: integers([2, 5], [0, 1, 2, 0, 1, 0, 0, 1, 2, 0]) },
  ),
  "causalAttention within segments": packedAttention(false),
  "causalAttention within segments, blocks computed again": packedAttention(true),
};
