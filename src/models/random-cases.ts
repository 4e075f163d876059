/** The operators of `autodiff/` with inputs of random shapes, for property tests. */

import { causalAttention } from "../autodiff/attention.ts";
import { add, gatedSilu, multiply, subtract, sum } from "../autodiff/elementwise.ts";
import { embedding } from "../autodiff/embedding.ts";
import { tokenDistribution } from "../autodiff/log-probability.ts";
import { addLowRank } from "../autodiff/low-rank.ts";
import { linear } from "../autodiff/matmul.ts";
import { rmsNorm } from "../autodiff/rms-norm.ts";
import { rotary, rotaryConstants } from "../autodiff/rotary.ts";
import { Rng } from "../core/rng.ts";
import { angleTables, integers, normal, type OperatorCase, operator } from "./operator-cases.ts";

/** A shape that broadcasts to `shape`: some leading axes left out, some others of size 1. */
function broadcastable(rng: Rng, shape: readonly number[]): number[] {
  return shape.slice(rng.int(0, shape.length - 1)).map((size) => (rng.next() < 0.4 ? 1 : size));
}

const shapeOf = (rng: Rng, rank: number) => Array.from({ length: rank }, () => rng.int(1, 6));

function elementwise(rng: Rng, apply: typeof add): OperatorCase {
  const shape = shapeOf(rng, rng.int(1, 4));
  const inputs = { a: normal("a", ...shape), b: normal("b", ...broadcastable(rng, shape)) };
  return operator((graph, { a, b }) => [apply(graph, a, b)], inputs);
}

function attention(rng: Rng): OperatorCase {
  const kvHeads = rng.int(1, 3);
  const shape = {
    rows: rng.int(1, 3),
    length: rng.int(1, 9),
    heads: kvHeads * rng.int(1, 3),
    kvHeads,
    headDim: rng.int(1, 8),
  };
  const plan = { blockSize: rng.int(1, shape.length), recompute: rng.next() < 0.5 };
  const tokens = shape.rows * shape.length;
  return operator((graph, { q, k, v }) => [causalAttention(graph, q, k, v, shape, { plan })], {
    q: normal("q", tokens, shape.heads * shape.headDim),
    k: normal("k", tokens, kvHeads * shape.headDim),
    v: normal("v", tokens, kvHeads * shape.headDim),
  });
}

function distribution(rng: Rng): OperatorCase {
  const [rows, width, vocabulary] = [rng.int(1, 6), rng.int(1, 7), rng.int(2, 9)];
  return operator(
    (graph, { hidden, table, labels, inverseTemperature }) => {
      const { logprobs, entropy } = tokenDistribution(graph, { hidden, table, labels, inverseTemperature });
      return [logprobs, entropy];
    },
    {
      hidden: normal("h", rows, width),
      table: normal("t", vocabulary, width),
      labels: integers(
        [rows],
        Array.from({ length: rows }, () => rng.int(0, vocabulary - 1)),
      ),
      inverseTemperature: { shape: [], values: [Math.fround(0.5 + rng.next())], constant: true },
    },
  );
}

function lookup(rng: Rng): OperatorCase {
  const [count, rows, width] = [rng.int(1, 12), rng.int(1, 5), rng.int(1, 6)];
  const ids = Array.from({ length: count }, () => rng.int(0, rows - 1));
  return operator((graph, { table, ids }) => [embedding(graph, table, ids)], {
    table: normal("t", rows, width),
    ids: integers([count], ids),
  });
}

function rotation(rng: Rng): OperatorCase {
  const [rows, length, heads, half] = [rng.int(1, 3), rng.int(1, 6), rng.int(1, 3), rng.int(1, 4)];
  return operator((graph, { x }) => [rotary(graph, x, rotaryConstants(graph, length, angleTables(length, half)))], {
    x: normal("x", rows * length, heads * 2 * half),
  });
}

const MAKERS: Readonly<Record<string, (rng: Rng) => OperatorCase>> = {
  add: (rng) => elementwise(rng, add),
  subtract: (rng) => elementwise(rng, subtract),
  multiply: (rng) => elementwise(rng, multiply),
  sum: (rng) =>
    operator((graph, { a }) => [sum(graph, multiply(graph, a, a))], { a: normal("a", ...shapeOf(rng, rng.int(1, 4))) }),
  gatedSilu: (rng) => {
    const shape = shapeOf(rng, 2);
    return operator((graph, { gate, up }) => [gatedSilu(graph, gate, up)], {
      gate: normal("g", ...shape),
      up: normal("u", ...shape),
    });
  },
  linear: (rng) => {
    const [rows, inner, outer] = shapeOf(rng, 3) as [number, number, number];
    return operator((graph, { x, w, b }) => [linear(graph, x, w, b)], {
      x: normal("x", rows, inner),
      w: normal("w", outer, inner),
      b: normal("b", outer),
    });
  },
  addLowRank: (rng) => {
    const [rows, inner, outer, rank] = shapeOf(rng, 4) as [number, number, number, number];
    const scale = 0.5 + rng.next();
    return operator((graph, { y, x, a, b }) => [addLowRank(graph, y, x, { a, b, scale })], {
      y: normal("y", rows, outer),
      x: normal("x", rows, inner),
      a: normal("a", rank, inner),
      b: normal("b", outer, rank),
    });
  },
  rmsNorm: (rng) => {
    const [rows, heads, width] = [rng.int(1, 6), rng.int(1, 3), rng.int(2, 8)];
    return operator((graph, { x, w }) => [rmsNorm(graph, x, w, 1e-3)], {
      x: normal("x", rows, heads * width),
      w: normal("w", width),
    });
  },
  rotary: rotation,
  causalAttention: attention,
  embedding: lookup,
  tokenDistribution: distribution,
};

/** Names of the operators `randomCase` knows. */
export const RANDOM_OPERATORS: readonly string[] = Object.keys(MAKERS);

/** An operator with inputs of random small shapes; the same seed gives the same case. */
export function randomCase(name: string, seed: number): OperatorCase {
  const make = MAKERS[name] as (rng: Rng) => OperatorCase;
  return make(new Rng(`shapes of ${name} ${seed}`));
}
