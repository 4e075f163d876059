/**
 * How much memory ONNX Runtime needs for the intermediate values of a graph, found by planning as it does: nodes in its
 * order, values freed after their last reader, and buffers shared by values of equal shape.
 * https://github.com/microsoft/onnxruntime/blob/v1.27.0/onnxruntime/core/framework/allocation_planner.cc
 */

import type { OnnxNode } from "../onnx/model.ts";

/** An intermediate value; equal keys mean equal shape and type. */
export interface PlannedValue {
  readonly bytes: number;
  readonly key: string;
}

/** Operators whose output is their first input in another shape. */
const ALIASES = new Set(["Reshape", "Squeeze", "Unsqueeze", "Flatten"]);
/** Operators that may write over an input they are the last to read, and which inputs those are. */
const IN_PLACE: Readonly<Record<string, readonly number[]>> = {
  Add: [0, 1],
  Sub: [0, 1],
  Mul: [0, 1],
  Div: [0, 1],
  Neg: [0],
  Exp: [0],
  Sqrt: [0],
  Reciprocal: [0],
  Sigmoid: [0],
  Softmax: [0],
  LogSoftmax: [0],
  ScatterElements: [0],
  ScatterND: [0],
  Identity: [0],
};

/** Largest sum of buffers at any time, in bytes; graph inputs, outputs and constants are not among `values`. */
export function workingBytes(nodes: readonly OnnxNode[], values: ReadonlyMap<string, PlannedValue>): number {
  const order = executionOrder(nodes).map((index) => nodes[index] as OnnxNode);
  const plan = new BufferPlan(order, values);
  let live = 0;
  let peak = 0;
  for (const [time] of order.entries()) {
    live += plan.allocated[time] as number;
    peak = Math.max(peak, live);
    live -= plan.freed[time] as number;
  }
  return peak;
}

/** ONNX Runtime's default order: depth first from the nodes nobody reads, later nodes first. */
function executionOrder(nodes: readonly OnnxNode[]): number[] {
  const producer = new Map<string, number>();
  for (const [index, { outputs }] of nodes.entries()) for (const name of outputs) producer.set(name, index);
  const read = new Set<number>();
  const inputs = nodes.map((node) => {
    const from = new Set(node.inputs.flatMap((name) => producer.get(name) ?? []));
    for (const index of from) read.add(index);
    return [...from].sort((a, b) => a - b);
  });
  const order: number[] = [];
  const seen = new Set<number>();
  const stack = nodes.flatMap((_, index) => (read.has(index) ? [] : [{ index, left: false }]));
  for (let entry = stack.pop(); entry !== undefined; entry = stack.pop()) {
    const { index, left } = entry;
    if (left) {
      order.push(index);
      continue;
    }
    if (seen.has(index)) continue;
    seen.add(index);
    stack.push({ index, left: true });
    for (const input of inputs[index] as number[]) if (!seen.has(input)) stack.push({ index: input, left: false });
  }
  return order;
}

interface Buffer {
  readonly bytes: number;
  /** Key of the value it was made for. */
  readonly key: string;
  /** Reads of its values that are still to come. */
  reads: number;
  /** When it was read last so far. */
  last: number;
}

/** Which buffers exist when. */
class BufferPlan {
  /** Bytes of the buffers that come into being with node t, and of those not needed after it. */
  readonly allocated: number[];
  readonly freed: number[];
  readonly #values: ReadonlyMap<string, PlannedValue>;
  readonly #reads = new Map<string, number>();
  readonly #buffers = new Map<string, Buffer>();
  /** Buffers without readers, by key of the shape, that a later value of that shape takes over. */
  readonly #free = new Map<string, Buffer[]>();

  constructor(order: readonly OnnxNode[], values: ReadonlyMap<string, PlannedValue>) {
    this.#values = values;
    this.allocated = order.map(() => 0);
    this.freed = order.map(() => 0);
    for (const name of order.flatMap(({ inputs }) => inputs)) this.#reads.set(name, (this.#reads.get(name) ?? 0) + 1);
    const all = new Set<Buffer>();
    for (const [time, node] of order.entries()) {
      for (const name of node.outputs) all.add(this.#place(node, name, time));
      for (const name of node.inputs) this.#read(name, time);
    }
    for (const { bytes, last } of all) this.freed[last] = (this.freed[last] as number) + bytes;
  }

  #place(node: OnnxNode, name: string, time: number): Buffer {
    const value = this.#values.get(name);
    const buffer = this.#shared(node, value) ?? this.#taken(value) ?? this.#fresh(value, time);
    buffer.reads += this.#reads.get(name) ?? 0;
    buffer.last = time;
    this.#buffers.set(name, buffer);
    return buffer;
  }

  /** The buffer of an input that the node passes on or writes over. */
  #shared(node: OnnxNode, value: PlannedValue | undefined): Buffer | undefined {
    if (ALIASES.has(node.operator)) return this.#buffers.get(node.inputs[0] as string);
    for (const place of IN_PLACE[node.operator] ?? []) {
      const input = node.inputs[place] as string;
      const buffer = this.#buffers.get(input);
      if (buffer?.reads === 1 && buffer.bytes === value?.bytes && buffer.bytes > 0) return buffer;
    }
    return undefined;
  }

  #taken(value: PlannedValue | undefined): Buffer | undefined {
    return value === undefined ? undefined : this.#free.get(value.key)?.pop();
  }

  #fresh(value: PlannedValue | undefined, time: number): Buffer {
    const bytes = value?.bytes ?? 0;
    this.allocated[time] = (this.allocated[time] as number) + bytes;
    return { bytes, key: value?.key ?? "", reads: 0, last: time };
  }

  #read(name: string, time: number): void {
    const buffer = this.#buffers.get(name);
    if (buffer === undefined) return;
    buffer.reads--;
    buffer.last = time;
    if (buffer.reads > 0 || buffer.bytes === 0) return;
    this.#free.set(buffer.key, [...(this.#free.get(buffer.key) ?? []), buffer]);
  }
}
