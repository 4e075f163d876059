/** Elementwise operators with numpy-style broadcasting. */

import { AleError } from "../core/errors.ts";
import { type Graph, plus, reshape, type Tensor } from "./graph.ts";

/** Shape of the result of broadcasting `a` with `b`. @throws AleError("internal") when they do not fit. */
export function broadcastShape(a: readonly number[], b: readonly number[]): readonly number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) throw new AleError("internal", `shapes [${a}] and [${b}] do not broadcast`);
    return Math.max(x, y);
  });
}

/** The gradient of a broadcast operand: summed over the axes along which the operand was repeated. */
function sumTo(graph: Graph, gradient: Tensor, shape: readonly number[]): Tensor {
  const lead = gradient.shape.length - shape.length;
  const axes = gradient.shape.flatMap((size, i) => (size !== 1 && (shape[i - lead] ?? 1) === 1 ? [i] : []));
  const kept = gradient.shape.map((size, i) => (axes.includes(i) ? 1 : size));
  const summed =
    axes.length === 0
      ? gradient
      : graph.apply("ReduceSum", [gradient, graph.integers(axes)], kept, { attributes: { keepdims: { int: 1 } } });
  return lead === 0 ? summed : reshape(graph, summed, shape);
}

/** a + b. */
export function add(graph: Graph, a: Tensor, b: Tensor): Tensor {
  const output = graph.apply("Add", [a, b], broadcastShape(a.shape, b.shape));
  graph.record([output], ([gradient]) => {
    const g = gradient as Tensor;
    for (const operand of [a, b]) {
      graph.accumulate(operand, (soFar) => plus(graph, soFar, sumTo(graph, g, operand.shape)));
    }
  });
  return output;
}

/** a − b. */
export function subtract(graph: Graph, a: Tensor, b: Tensor): Tensor {
  const output = graph.apply("Sub", [a, b], broadcastShape(a.shape, b.shape));
  graph.record([output], ([gradient]) => {
    const g = gradient as Tensor;
    graph.accumulate(a, (soFar) => plus(graph, soFar, sumTo(graph, g, a.shape)));
    graph.accumulate(b, (soFar) => plus(graph, soFar, sumTo(graph, graph.apply("Neg", [g], g.shape), b.shape)));
  });
  return output;
}

/** a · b, element by element. */
export function multiply(graph: Graph, a: Tensor, b: Tensor): Tensor {
  const output = graph.apply("Mul", [a, b], broadcastShape(a.shape, b.shape));
  graph.record([output], ([gradient]) => {
    const g = gradient as Tensor;
    const towards = (operand: Tensor, other: Tensor) =>
      graph.accumulate(operand, (soFar) =>
        plus(graph, soFar, sumTo(graph, graph.apply("Mul", [g, other], output.shape), operand.shape)),
      );
    towards(a, b);
    towards(b, a);
  });
  return output;
}

/** Sum of all elements; a scalar. */
export function sum(graph: Graph, a: Tensor): Tensor {
  const output = graph.apply("ReduceSum", [a], [], { attributes: { keepdims: { int: 0 } } });
  graph.record([output], ([gradient]) => {
    graph.accumulate(a, (soFar) =>
      plus(graph, soFar, graph.apply("Expand", [gradient as Tensor, graph.integers(a.shape)], a.shape)),
    );
  });
  return output;
}

/**
 * SwiGLU's gate, silu(gate) · up with silu(x) = x · sigmoid(x); Shazeer, https://arxiv.org/abs/2002.05202.
 *
 * With s = sigmoid(x) and y = silu(x) · u, d y / d x = s · (1 + x − silu(x)) · u = y + s · (u − y), which reuses the forward
 * pass's value.
 */
export function gatedSilu(graph: Graph, gate: Tensor, up: Tensor): Tensor {
  const { shape } = gate;
  const activation = silu(graph, gate);
  const output = graph.apply("Mul", [activation, up], shape);
  graph.record([output], ([gradient]) => {
    const g = gradient as Tensor;
    graph.accumulate(up, (soFar) => plus(graph, soFar, graph.apply("Mul", [g, activation], shape)));
    graph.accumulate(gate, (soFar) => {
      const sigmoid = graph.apply("Sigmoid", [gate], shape);
      const rest = graph.apply("Mul", [sigmoid, graph.apply("Sub", [up, output], shape)], shape);
      const slope = graph.apply("Add", [output, rest], shape);
      return plus(graph, soFar, graph.apply("Mul", [g, slope], shape));
    });
  });
  return output;
}

function silu(graph: Graph, x: Tensor): Tensor {
  if (graph.profile === "ref64") {
    return graph.apply("Mul", [x, graph.apply("Sigmoid", [x], x.shape)], x.shape);
  }
  // QuickGelu is x · sigmoid(alpha · x), in one pass
  return graph.apply("QuickGelu", [x], x.shape, { domain: "com.microsoft", attributes: { alpha: { float: 1 } } });
}
