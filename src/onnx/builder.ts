/** Builds an ONNX graph node by node; values are referred to by name. Shapes are the caller's business. */

import {
  type Attributes,
  type ElementType,
  encodeModel,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValueInfo,
} from "./model.ts";

export const MICROSOFT = "com.microsoft";

export interface NodeOptions {
  readonly attributes?: Attributes;
  readonly domain?: string;
  /** Names of the outputs; made up when omitted. Use it to name a graph output directly instead of copying to it. */
  readonly outputs?: readonly string[];
}

export class OnnxBuilder {
  readonly #name: string;
  readonly #nodes: OnnxNode[] = [];
  readonly #initializers: OnnxTensor[] = [];
  readonly #inputs: OnnxValueInfo[] = [];
  readonly #outputs: OnnxValueInfo[] = [];
  readonly #constants = new Map<string, string>();
  #counter = 0;

  constructor(name = "graph") {
    this.#name = name;
  }

  /** Declares a graph input and returns its name. */
  input(name: string, type: ElementType, shape: readonly (number | string)[]): string {
    this.#inputs.push({ name, type, shape });
    return name;
  }

  /** Declares the value `name` as a graph output. */
  output(name: string, type: ElementType, shape: readonly (number | string)[]): void {
    this.#outputs.push({ name, type, shape });
  }

  /** Appends a node with one output and returns that output's name. */
  node(operator: string, inputs: readonly string[], options: NodeOptions = {}): string {
    const [output] = this.nodes(operator, inputs, 1, options);
    return output as string;
  }

  /** Appends a node with `count` outputs and returns their names. */
  nodes(operator: string, inputs: readonly string[], count: number, options: NodeOptions = {}): readonly string[] {
    const name = `${operator}_${this.#counter++}`;
    const outputs = options.outputs ?? Array.from({ length: count }, (_, i) => (i === 0 ? name : `${name}_${i}`));
    this.#nodes.push({
      operator,
      domain: options.domain ?? "",
      name,
      inputs,
      outputs,
      attributes: options.attributes ?? {},
    });
    return outputs;
  }

  /** A constant tensor; `data` is copied. Returns its name. */
  constant(type: ElementType, shape: readonly number[], data: ArrayBufferView, name?: string): string {
    const constantName = name ?? `constant_${this.#counter++}`;
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
    this.#initializers.push({ name: constantName, type, shape, data: bytes });
    return constantName;
  }

  /** A constant whose elements the session is given as an initializer of this name. Returns the name. */
  externalConstant(type: ElementType, shape: readonly number[], name: string): string {
    this.#initializers.push({ name, type, shape });
    return name;
  }

  /** A scalar constant, shared by all who ask for the same value. */
  scalar(type: "float32" | "float64" | "int32" | "int64", value: number): string {
    return this.shared(`${type} ${value}`, () => this.constant(type, [], elements(type, [value])));
  }

  /** An int64 vector constant (shapes, axes), shared by all who ask for the same values. */
  int64s(values: readonly number[]): string {
    return this.shared(`int64s ${values}`, () => this.constant("int64", [values.length], elements("int64", values)));
  }

  /** The value made under this key, made now if it was not yet. */
  shared(key: string, make: () => string): string {
    const found = this.#constants.get(key);
    if (found !== undefined) return found;
    const made = make();
    this.#constants.set(key, made);
    return made;
  }

  /** Bytes of the finished model, for `Session`. */
  encode(): Uint8Array {
    return encodeModel({
      name: this.#name,
      nodes: this.#nodes,
      initializers: this.#initializers,
      inputs: this.#inputs,
      outputs: this.#outputs,
    });
  }
}

/** `values` as a typed array of the given element type. */
export function elements(
  type: "float32" | "float64" | "int32" | "int64",
  values: readonly number[],
): Float32Array | Float64Array | Int32Array | BigInt64Array {
  switch (type) {
    case "float32":
      return Float32Array.from(values);
    case "float64":
      return Float64Array.from(values);
    case "int32":
      return Int32Array.from(values);
    case "int64":
      return BigInt64Array.from(values, (value) => BigInt(value));
  }
}
