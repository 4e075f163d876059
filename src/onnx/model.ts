/**
 * ONNX models as plain data, and their encoding. Field numbers are those of onnx.proto:
 * https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
 */

import { ProtoWriter } from "./protobuf.ts";

/** Codes of `TensorProto.DataType`, which are also those of ONNX Runtime's `ONNXTensorElementDataType`. */
export const ELEMENT_CODES = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  bfloat16: 16,
} as const;

export type ElementType = keyof typeof ELEMENT_CODES;

export const ELEMENT_BYTES: Readonly<Record<ElementType, number>> = {
  float32: 4,
  uint8: 1,
  int8: 1,
  int32: 4,
  int64: 8,
  bool: 1,
  float16: 2,
  float64: 8,
  uint32: 4,
  bfloat16: 2,
};

/** A node attribute; the key names its type, because ONNX tells 1 from 1.0. */
export type Attribute =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly ints: readonly number[] }
  | { readonly floats: readonly number[] };

export type Attributes = Readonly<Record<string, Attribute>>;

export interface OnnxNode {
  readonly operator: string;
  /** `""` for ONNX's own operators, `com.microsoft` for ONNX Runtime's. */
  readonly domain: string;
  readonly name: string;
  /** Names of values; `""` stands for an optional input that is left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Attributes;
}

/**
 * A constant of the graph; `data` holds its elements in little-endian row-major order. Without data it must be among the
 * `initializers` that `Session` is given: memory of the caller's, which the encoded model does not repeat.
 */
export interface OnnxTensor {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  readonly data?: Uint8Array;
}

/** Name, type and shape of a graph input or output; a string dimension is a parameter bound at run time. */
export interface OnnxValueInfo {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly (number | string)[];
}

export interface OnnxGraph {
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxTensor[];
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
}

/** Operator sets every model of Ale declares. */
export const OPSETS: Readonly<Record<string, number>> = { "": 21, "com.microsoft": 1 };
/** Domain of the operators Ale brings along, declared by models that have one. */
export const OWN_OPERATORS = "ale";
const IR_VERSION = 10;

/** `TensorProto.DataLocation`. */
const EXTERNAL = 1;
/** Stands for the file that would hold constants without data. Never opened, but ONNX Runtime insists that it exists. */
const EXTERNAL_PLACEHOLDER = ".";

const FLOAT = 1;
const INT = 2;
const STRING = 3;
const FLOATS = 6;
const INTS = 7;

function attributeProto(name: string, value: Attribute): ProtoWriter {
  const proto = new ProtoWriter().string(1, name);
  if ("int" in value) return proto.integer(3, value.int).integer(20, INT);
  if ("float" in value) return proto.float(2, value.float).integer(20, FLOAT);
  if ("string" in value) return proto.string(4, value.string).integer(20, STRING);
  if ("ints" in value) {
    for (const item of value.ints) proto.integer(8, item);
    return proto.integer(20, INTS);
  }
  for (const item of value.floats) proto.float(7, item);
  return proto.integer(20, FLOATS);
}

function nodeProto(node: OnnxNode): ProtoWriter {
  const proto = new ProtoWriter();
  for (const input of node.inputs) proto.string(1, input);
  for (const output of node.outputs) proto.string(2, output);
  proto.string(3, node.name).string(4, node.operator);
  for (const [name, value] of Object.entries(node.attributes)) proto.message(5, attributeProto(name, value));
  if (node.domain !== "") proto.string(7, node.domain);
  return proto;
}

function tensorProto(tensor: OnnxTensor): ProtoWriter {
  const proto = new ProtoWriter();
  for (const size of tensor.shape) proto.integer(1, size);
  proto.integer(2, ELEMENT_CODES[tensor.type]).string(8, tensor.name);
  if (tensor.data !== undefined) return proto.bytes(9, tensor.data);
  const location = new ProtoWriter().string(1, "location").string(2, EXTERNAL_PLACEHOLDER);
  return proto.message(13, location).integer(14, EXTERNAL);
}

function valueInfoProto(info: OnnxValueInfo): ProtoWriter {
  const shape = new ProtoWriter();
  for (const size of info.shape) {
    const dimension = new ProtoWriter();
    shape.message(1, typeof size === "number" ? dimension.integer(1, size) : dimension.string(2, size));
  }
  const tensorType = new ProtoWriter().integer(1, ELEMENT_CODES[info.type]).message(2, shape);
  return new ProtoWriter().string(1, info.name).message(2, new ProtoWriter().message(1, tensorType));
}

/** The bytes of a `ModelProto` with this graph. */
export function encodeModel(graph: OnnxGraph): Uint8Array {
  const body = new ProtoWriter();
  for (const node of graph.nodes) body.message(1, nodeProto(node));
  body.string(2, graph.name);
  for (const tensor of graph.initializers) body.message(5, tensorProto(tensor));
  for (const input of graph.inputs) body.message(11, valueInfoProto(input));
  for (const output of graph.outputs) body.message(12, valueInfoProto(output));
  const model = new ProtoWriter().integer(1, IR_VERSION).string(2, "ale").message(7, body);
  const own = graph.nodes.some(({ domain }) => domain === OWN_OPERATORS) ? { [OWN_OPERATORS]: 1 } : {};
  for (const [domain, version] of Object.entries({ ...OPSETS, ...own })) {
    const opset = new ProtoWriter();
    if (domain !== "") opset.string(1, domain);
    model.message(8, opset.integer(2, version));
  }
  return model.finish();
}
