/**
 * Reverse-mode automatic differentiation that emits ONNX. Operators append nodes and record how a gradient flows back
 * through them; `backward` walks the records in reverse and appends the nodes of the backward pass to the same graph.
 *
 * Shapes are static. Operators are functions in the files beside this one; each is differentiated as a whole, so its
 * backward pass can be written by hand and share intermediate values with the forward pass.
 */

import { AleError } from "../core/errors.ts";
import { bfloat16Form, storedAs, WIDENED_AT_ONCE } from "../onnx/bfloat16.ts";
import {
  type Attributes,
  ELEMENT_BYTES,
  type ElementType,
  encodeModel,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValueInfo,
} from "../onnx/model.ts";
import { type PlannedValue, workingBytes } from "./working-memory.ts";

/**
 * `cpu`: float32 with ONNX Runtime's fused operators. `webgpu`, `cuda`: float32 with the operators that ONNX Runtime's
 * WebGPU provider has and computes right (docs/devices.md has the list); CUDA gets the same graphs. `ref64`: float64 with
 * ONNX's own operators only, the reference all other profiles are tested against; run it at optimisation level `basic`, as
 * some fusions exist in float32 only.
 */
export type Profile = "cpu" | "webgpu" | "cuda" | "ref64";

export interface Tensor {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** Whether gradients flow into it. */
  readonly differentiable: boolean;
}

export interface ApplyOptions {
  readonly attributes?: Attributes;
  readonly domain?: string;
  /** Element type of the output; the graph's float type when omitted. */
  readonly type?: ElementType;
}

/** Given the gradients of an operator's outputs (`undefined`: none arrived), accumulates those of its inputs. */
type Pullback = (gradients: readonly (Tensor | undefined)[]) => void;

interface TapeEntry {
  readonly outputs: readonly Tensor[];
  readonly pullback: Pullback;
}

/** Makes the sum of the gradient so far and one more contribution. */
export type Contribution = (soFar: Tensor | undefined) => Tensor;

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

const BROADCASTING: ReadonlySet<string> = new Set(["Add", "Sub", "Mul", "Div"]);

export class Graph {
  readonly profile: Profile;
  readonly float: "float32" | "float64";
  /**
   * Type of token ids. WebGPU computes with 32-bit integers only: an int64 tensor can be read there as an index, but not
   * even reshaped.
   */
  readonly integer: "int32" | "int64";
  /** Whether FusedMatMul, LogSoftmax and the second output of SimplifiedLayerNormalization can be relied on. */
  readonly fused: boolean;
  /** Elements of a matrix in bfloat16 that are widened at a time; tests set less. */
  widenedAtOnce = WIDENED_AT_ONCE;
  readonly #nodes: OnnxNode[] = [];
  readonly #initializers: OnnxTensor[] = [];
  readonly #inputs: OnnxValueInfo[] = [];
  readonly #outputs: OnnxValueInfo[] = [];
  readonly #outputNames = new Map<string, string>();
  readonly #constants = new Map<string, Tensor>();
  readonly #gradients = new Map<string, Tensor>();
  #tape: TapeEntry[] = [];
  readonly #values = new Map<string, PlannedValue>();

  constructor(profile: Profile) {
    this.profile = profile;
    this.float = profile === "ref64" ? "float64" : "float32";
    this.integer = profile === "cpu" || profile === "ref64" ? "int64" : "int32";
    this.fused = profile === "cpu";
  }

  /** A graph input in the graph's float type, or in `type`. */
  input(
    name: string,
    shape: readonly number[],
    options: { readonly type?: ElementType; readonly differentiable?: boolean } = {},
  ): Tensor {
    const type = options.type ?? this.float;
    this.#inputs.push({ name, type, shape });
    return { name, type, shape, differentiable: options.differentiable ?? false };
  }

  /**
   * A matrix that is kept in bfloat16, as an input: in the form of the graph's profile (`onnx/bfloat16.ts`), to be read through
   * `gatherRows` and `matrixBlocks`. Its gradients are in the graph's float type.
   */
  bfloat16Input(name: string, shape: readonly number[], options: { readonly differentiable?: boolean } = {}): Tensor {
    this.#inputs.push({ name, ...storedAs(bfloat16Form(this.profile), shape) });
    return { name, type: "bfloat16", shape, differentiable: options.differentiable ?? false };
  }

  /** A float constant in the graph's float type. */
  constant(shape: readonly number[], values: ArrayLike<number>): Tensor {
    const data = this.float === "float64" ? Float64Array.from(values) : Float32Array.from(values);
    return this.typedConstant(this.float, shape, data);
  }

  /** A scalar constant; the same value gives the same tensor. */
  scalar(value: number): Tensor {
    return this.shared(`scalar ${value}`, () => this.constant([], [value]));
  }

  /** An int64 vector constant (shapes, axes, positions); the same values give the same tensor. */
  integers(values: readonly number[]): Tensor {
    return this.shared(`integers ${values}`, () =>
      this.typedConstant(
        "int64",
        [values.length],
        BigInt64Array.from(values, (value) => BigInt(value)),
      ),
    );
  }

  /** Appends a node with one output, without a backward rule: for use inside operators. */
  apply(operator: string, inputs: readonly Tensor[], shape: readonly number[], options: ApplyOptions = {}): Tensor {
    const [output] = this.applyMany(operator, inputs, [{ shape, type: options.type }], options);
    return output as Tensor;
  }

  /** As `apply`, for nodes with several outputs. */
  applyMany(
    operator: string,
    inputs: readonly Tensor[],
    outputs: readonly { readonly shape: readonly number[]; readonly type?: ElementType | undefined }[],
    options: Omit<ApplyOptions, "type"> = {},
  ): readonly Tensor[] {
    const operands = this.#fitOperands(operator, inputs, outputs);
    const name = `${operator}_${this.#nodes.length}`;
    const differentiable = inputs.some((input) => input.differentiable);
    const results = outputs.map((output, i) => ({
      name: i === 0 ? name : `${name}_${i}`,
      type: output.type ?? this.float,
      shape: output.shape,
      differentiable,
    }));
    for (const { name, type, shape } of results) {
      this.#values.set(name, { bytes: elementCount(shape) * ELEMENT_BYTES[type], key: `${type} ${shape}` });
    }
    this.#nodes.push({
      operator,
      domain: options.domain ?? "",
      name,
      inputs: operands.map((operand) => operand.name),
      outputs: results.map((result) => result.name),
      attributes: options.attributes ?? {},
    });
    return results;
  }

  /**
   * WebGPU's elementwise operators fail when an operand has fewer axes than the other and they are the other's last ones
   * (ONNX Runtime 1.27: "Invalid tensor shape slice argument"), so there every operand gets as many axes as the result.
   */
  #fitOperands(
    operator: string,
    inputs: readonly Tensor[],
    [output]: readonly { readonly shape: readonly number[] }[],
  ): readonly Tensor[] {
    const rank = output?.shape.length ?? 0;
    if (this.integer === "int64" || !BROADCASTING.has(operator)) return inputs;
    return inputs.map((input) => {
      const missing = rank - input.shape.length;
      if (missing === 0 || input.shape.length === 0) return input;
      return reshape(this, input, [...Array.from({ length: missing }, () => 1), ...input.shape]);
    });
  }

  /** Records how gradients flow back through an operator with these outputs. */
  record(outputs: readonly Tensor[], pullback: Pullback): void {
    if (outputs.some((output) => output.differentiable)) this.#tape.push({ outputs, pullback });
  }

  /** Cuts the tape: a tensor with the same value into which gradients flow, but no further back. */
  leaf(tensor: Tensor): Tensor {
    return { ...tensor, differentiable: true };
  }

  /** Adds a contribution to the gradient of `tensor`; does nothing where no gradient is wanted. */
  accumulate(tensor: Tensor, contribution: Contribution): void {
    if (!tensor.differentiable) return;
    this.#gradients.set(tensor.name, contribution(this.#gradients.get(tensor.name)));
  }

  /** Gives `tensor` a gradient to start from, e.g. the sum over earlier micro-batches. */
  startGradient(tensor: Tensor, gradient: Tensor): void {
    this.#gradients.set(tensor.name, gradient);
  }

  /** Emits the backward pass from gradients of a loss with respect to some tensors. Call it once. */
  backward(seeds: readonly (readonly [tensor: Tensor, gradient: Tensor])[]): void {
    for (const [tensor, gradient] of seeds) this.startGradient(tensor, gradient);
    const tape = this.#tape;
    this.#tape = [];
    for (const { outputs, pullback } of tape.reverse()) {
      const gradients = outputs.map((output) => this.#gradients.get(output.name));
      if (gradients.some((gradient) => gradient !== undefined)) pullback(gradients);
    }
  }

  /** The gradient of `tensor` after `backward`. @throws AleError("internal") when the loss does not depend on it. */
  gradient(tensor: Tensor): Tensor {
    const gradient = this.#gradients.get(tensor.name);
    if (gradient === undefined) throw new AleError("internal", `nothing flows back to ${tensor.name}`);
    return gradient;
  }

  /** Makes `tensor` a graph output called `name`. The node that computes it writes there directly, without a copy. */
  output(name: string, tensor: Tensor): void {
    const computed = this.#nodes.some((node) => node.outputs.includes(tensor.name));
    if (!computed || this.#outputNames.has(tensor.name)) {
      const copy = this.apply("Identity", [tensor], tensor.shape, { type: tensor.type });
      this.#outputNames.set(copy.name, name);
    } else {
      this.#outputNames.set(tensor.name, name);
    }
    this.#outputs.push({ name, type: tensor.type, shape: tensor.shape });
  }

  /** Bytes of the finished model; nodes that no output needs are left out. */
  encode(): Uint8Array {
    const rename = (name: string) => this.#outputNames.get(name) ?? name;
    const nodes = this.#neededNodes().map((node) => ({
      ...node,
      inputs: node.inputs.map(rename),
      outputs: node.outputs.map(rename),
    }));
    return encodeModel({
      name: `ale-${this.profile}`,
      nodes,
      initializers: this.#initializers,
      inputs: this.#inputs,
      outputs: this.#outputs,
    });
  }

  /** Bytes ONNX Runtime needs at most for values that are neither inputs nor outputs nor constants. */
  workingBytes(): number {
    const inner = new Map([...this.#values].filter(([name]) => !this.#outputNames.has(name)));
    return workingBytes(this.#neededNodes(), inner);
  }

  /** The nodes some output depends on, in order. */
  #neededNodes(): readonly OnnxNode[] {
    const needed = new Set(this.#outputNames.keys());
    const kept: OnnxNode[] = [];
    for (const node of [...this.#nodes].reverse()) {
      if (!node.outputs.some((output) => needed.has(output))) continue;
      for (const input of node.inputs) needed.add(input);
      kept.push(node);
    }
    return kept.reverse();
  }

  /** The tensor made under this key, made now if it was not yet. */
  shared(key: string, make: () => Tensor): Tensor {
    const found = this.#constants.get(key);
    if (found !== undefined) return found;
    const made = make();
    this.#constants.set(key, made);
    return made;
  }

  /** A constant of any type. */
  typedConstant(type: ElementType, shape: readonly number[], data: ArrayBufferView): Tensor {
    if (data.byteLength !== elementCount(shape) * ELEMENT_BYTES[type]) {
      throw new AleError("internal", `a constant of shape [${shape}] cannot hold ${data.byteLength} bytes`);
    }
    const name = `constant_${this.#initializers.length}`;
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#initializers.push({ name, type, shape, data: bytes });
    return { name, type, shape, differentiable: false };
  }
}

/** Reads `shape` as the same elements in another arrangement; no backward rule. */
export function reshape(graph: Graph, tensor: Tensor, shape: readonly number[]): Tensor {
  return graph.apply("Reshape", [tensor, graph.integers(shape)], shape, { type: tensor.type });
}

/** Permutes the axes; no backward rule. */
export function transpose(graph: Graph, tensor: Tensor, permutation: readonly number[]): Tensor {
  const shape = permutation.map((axis) => tensor.shape[axis] as number);
  return graph.apply("Transpose", [tensor], shape, { attributes: { perm: { ints: permutation } }, type: tensor.type });
}

/** `soFar` + `contribution`, or `contribution` alone when there is nothing yet. */
export function plus(graph: Graph, soFar: Tensor | undefined, contribution: Tensor): Tensor {
  return soFar === undefined ? contribution : graph.apply("Add", [soFar, contribution], contribution.shape);
}

/**
 * `tensor` itself, but computed only when `others` are: they are joined to it with no elements left. The format has no other
 * way to order nodes, and ONNX Runtime's own order keeps what it could free. Costs a copy of `tensor`; no backward rule.
 * Only memory depends on it, so WebGPU, which has no empty tensors, goes without.
 */
export function after(graph: Graph, tensor: Tensor, others: readonly Tensor[]): Tensor {
  if (graph.profile === "webgpu" || others.length === 0) return tensor;
  const nothing = tensor.shape.with(0, 0);
  const zero = graph.integers([0]);
  const empty = others.map((other) => {
    const cut = graph.apply("Slice", [other, zero, zero, zero], other.shape.with(0, 0), { type: other.type });
    const attributes = { allowzero: { int: 1 } };
    return graph.apply("Reshape", [cut, graph.integers(nothing)], nothing, { attributes, type: other.type });
  });
  const attributes = { axis: { int: 0 } };
  return graph.apply("Concat", [tensor, ...empty], tensor.shape, { attributes });
}
