/**
 * Matrices that are kept in bfloat16 by graphs that compute in float32. Where a device has the element type, a Cast widens
 * them. ONNX Runtime's WebGPU provider has neither bfloat16 nor operators on bits; there two elements share a uint32, and
 * whole-number arithmetic and a table of all 65 536 values take the place of the Cast. Both are exact.
 */

import type { OnnxBuilder } from "./builder.ts";
import { type Attributes, ELEMENT_CODES, type ElementType } from "./model.ts";

/** `native`: bfloat16 [rows, columns]. `packed`: uint32 [rows, columns / 2], columns j and j + columns / 2 in word j. */
export type Bfloat16Form = "native" | "packed";

/** The form on a kind of device; the processor is asked in tests only. */
export function bfloat16Form(kind: "cpu" | "webgpu" | "cuda" | "ref64"): Bfloat16Form {
  return kind === "webgpu" ? "packed" : "native";
}

/** Element type and shape of a stored matrix [rows, columns]; a packed one has an even number of columns. */
export function storedAs(
  form: Bfloat16Form,
  shape: readonly number[],
): { type: ElementType; shape: readonly number[] } {
  const [rows, columns] = shape as [number, number];
  return form === "native" ? { type: "bfloat16", shape } : { type: "uint32", shape: [rows, columns / 2] };
}

/** Appends nodes to a graph whose values are of type T. */
export interface NodeEmitter<T> {
  /** `shape` says what the result is, for graphs that want to know. */
  node(
    operator: string,
    inputs: readonly T[],
    result: { readonly type: ElementType; readonly shape: readonly number[] },
    attributes?: Attributes,
  ): T;
  /** A constant, shared by all who ask for the same key. */
  constant(key: string, type: ElementType, shape: readonly number[], make: () => ArrayBufferView): T;
}

/** Elements that are widened at a time, so that the float32 copy of a large matrix never exists as a whole: 16 MB of it. */
export const WIDENED_AT_ONCE = 1 << 22;

/** The rows of a matrix of that shape in runs of at most `atOnce` elements, or of a row; their numbers. */
export function rowBlocks([rows, columns]: readonly number[], atOnce: number): readonly Int32Array[] {
  const step = Math.max(1, Math.floor(atOnce / (columns as number)));
  return Array.from({ length: Math.ceil((rows as number) / step) }, (_, block) => {
    const first = block * step;
    return Int32Array.from({ length: Math.min(step, (rows as number) - first) }, (_, i) => first + i);
  });
}

export function builderEmitter(graph: OnnxBuilder): NodeEmitter<string> {
  return {
    node: (operator, inputs, _, attributes = {}) => graph.node(operator, inputs, { attributes }),
    constant: (key, type, shape, make) => graph.shared(key, () => graph.constant(type, shape, make())),
  };
}

const HALF_WORD = 65_536;

/** The float32 values of a stored matrix of `rows` × `columns`; builders that do not track shapes need not know the rows. */
export function emitWiden<T>(
  emit: NodeEmitter<T>,
  form: Bfloat16Form,
  stored: T,
  [rows, columns]: readonly [rows: number, columns: number],
): T {
  const shape = [rows, columns];
  if (form === "native") return emit.node("Cast", [stored], { type: "float32", shape }, castTo("float32"));
  const half = { type: "uint32", shape: [rows, columns / 2] } as const;
  const word = halfWord(emit);
  const high = emit.node("Div", [stored, word], half);
  const low = emit.node("Sub", [stored, emit.node("Mul", [high, word], half)], half);
  const codes = emit.node("Concat", [low, high], { type: "uint32", shape }, { axis: { int: 1 } });
  const indices = emit.node("Cast", [codes], { type: "int32", shape }, castTo("int32"));
  const table = emit.constant("bfloat16 values", "float32", [HALF_WORD], bfloat16Values);
  return emit.node("Gather", [table, indices], { type: "float32", shape });
}

/** Powers of two that the packed form reaches: weights of smaller magnitude become 0, larger ones the largest. */
const LARGEST_EXPONENT = 100;
/** Added and taken away again, it leaves a float32 below 2²² rounded to a whole number, ties to even. */
const ROUNDING = 1.5 * 2 ** 23;

/**
 * The stored form of float32 values [rows, columns], as the value named `output`; rounded to nearest, ties to even. The packed form finds the exponent by a logarithm,
 * puts right where that was off by one, and rounds the mantissa as a whole number: every step after that is exact.
 */
export function emitNarrow(graph: OnnxBuilder, form: Bfloat16Form, x: string, output: string): void {
  if (form === "native") {
    graph.node("Cast", [x], { attributes: castTo("bfloat16"), outputs: [output] });
    return;
  }
  const number = (value: number) => graph.scalar("float32", value);
  const choose = (condition: string, a: string, b: string) => graph.node("Where", [condition, a, b]);
  const magnitude = graph.node("Abs", [x]);
  const isSmall = graph.node("Less", [magnitude, number(2 ** -LARGEST_EXPONENT)]);
  const bounded = graph.node("Clip", [magnitude, number(2 ** -LARGEST_EXPONENT), number(2 ** LARGEST_EXPONENT)]);
  const guess = graph.node("Floor", [graph.node("Mul", [graph.node("Log", [bounded]), number(Math.LOG2E)])]);
  const inside = graph.node("Clip", [guess, number(-LARGEST_EXPONENT), number(LARGEST_EXPONENT)]);
  const indices = graph.node("Cast", [graph.node("Add", [inside, number(LARGEST_EXPONENT)])], {
    attributes: castTo("int32"),
  });
  const powers = Float32Array.from({ length: 2 * LARGEST_EXPONENT + 1 }, (_, i) => 2 ** (LARGEST_EXPONENT - i));
  const scale = graph.node("Gather", [graph.constant("float32", [powers.length], powers), indices]);
  const mantissa = graph.node("Mul", [bounded, scale]); // in [1, 2), or one power of two beside it
  const isLow = graph.node("Less", [mantissa, number(1)]);
  const isHigh = graph.node("GreaterOrEqual", [mantissa, number(2)]);
  const factor = choose(isLow, number(256), choose(isHigh, number(64), number(128)));
  const shift = choose(isLow, number(-1), choose(isHigh, number(1), number(0)));
  const exponent = graph.node("Add", [inside, shift]);
  const steps = graph.node("Mul", [mantissa, factor]); // in [128, 256)
  const rounded = graph.node("Sub", [graph.node("Add", [steps, number(ROUNDING)]), number(ROUNDING)]);
  // Exponent field e + 127 over mantissa field (steps − 128); steps that were rounded up to 256 carry into the exponent.
  const fields = graph.node("Add", [graph.node("Mul", [exponent, number(128)]), number(126 * 128)]);
  const unsigned = choose(isSmall, number(0), graph.node("Add", [fields, rounded]));
  const sign = choose(graph.node("Less", [x, number(0)]), number(32_768), number(0));
  const codes = graph.node("Add", [unsigned, sign]);
  const halves = graph.nodes("Split", [codes], 2, { attributes: { axis: { int: 1 }, num_outputs: { int: 2 } } });
  const [low, high] = halves.map((half) => graph.node("Cast", [half], { attributes: castTo("uint32") }));
  const raised = graph.node("Mul", [high as string, halfWord(builderEmitter(graph))]);
  graph.node("Add", [low as string, raised], { outputs: [output] });
}

function castTo(type: ElementType): Attributes {
  return { to: { int: ELEMENT_CODES[type] } };
}

function halfWord<T>(emit: NodeEmitter<T>): T {
  return emit.constant("half a word", "uint32", [], () => Uint32Array.of(HALF_WORD));
}

/** The value of every code. */
function bfloat16Values(): Float32Array {
  return new Float32Array(Uint32Array.from({ length: HALF_WORD }, (_, code) => code << 16).buffer);
}
