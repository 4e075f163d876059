/** The operator's results against its definition in float64, and against ONNX Runtime's operator of the same definition. */

import { describe, expect, test } from "bun:test";
import { MICROSOFT, OnnxBuilder } from "../onnx/builder.ts";
import { OWN_OPERATORS } from "../onnx/model.ts";
import { type BlockShape, blockAttributes, blockProducts, type Instructions } from "./block-products.ts";
import { allocateBytes, allocateFloat32 } from "./memory.ts";
import { Session } from "./session.ts";
import { float32Value, Value } from "./value.ts";

const own = blockProducts();
if (own === undefined) console.log("block-products: no AVX2 or no C compiler here; nothing is tested");

/** Numbers between −1 and 1, the same every time. */
function noise(i: number): number {
  const x = Math.sin(i * 12.9898 + 1) * 43758.5453;
  return 2 * (x - Math.floor(x)) - 1;
}

/** Forms of the schemes; columns in whole blocks and not, rows in whole groups of 16 and not. */
const SHAPES: readonly BlockShape[] = [
  { rows: 37, columns: 96, bits: 4, block: 32 },
  { rows: 16, columns: 50, bits: 4, block: 32 },
  { rows: 700, columns: 256, bits: 4, block: 128 },
  { rows: 5, columns: 140, bits: 4, block: 128 },
  { rows: 37, columns: 104, bits: 8, block: 32 },
];

function matrix({ rows, columns, bits, block }: BlockShape) {
  const blocks = Math.ceil(columns / block);
  const codes = allocateBytes((rows * blocks * block * bits) / 8).map((_, i) => 128 + 127.9 * noise(i));
  const scales = allocateFloat32(rows * blocks).map((_, i) => 0.01 * noise(i + 7));
  const weight = (row: number, column: number): number => {
    const at = row * blocks * block + column;
    const code = bits === 8 ? (codes[at] as number) - 128 : (((codes[at >> 1] as number) >> (4 * (at & 1))) & 15) - 8;
    return code * (scales[row * blocks + Math.floor(column / block)] as number);
  };
  return { codes, scales, blocks, weight };
}

/** A row of activations as the operator rounds it. */
function rounded(row: Float32Array, block: number): number[] {
  return [...row].map((x, i) => {
    const begin = i - (i % block);
    const most = row.subarray(begin, begin + block).reduce((found, value) => Math.max(found, Math.abs(value)), 0);
    const scale = Math.fround(most / 127);
    return roundToEven(Math.fround(x * Math.fround(1 / scale))) * scale;
  });
}

function roundToEven(x: number): number {
  const nearest = Math.round(x);
  return nearest - x === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
}

type Run = (x: Float32Array) => Float32Array;

/** The product with one matrix as a session of its own, for any number of rows of x. */
function product(
  shape: BlockShape,
  operator: Instructions | "MatMulNBits",
  bias?: Float32Array,
): { run: Run; release(): void } {
  const { rows, columns, bits, block } = shape;
  const { codes, scales, blocks } = matrix(shape);
  const graph = new OnnxBuilder();
  const inputs = [graph.input("x", "float32", ["n", columns])];
  const initializers: Record<string, Value> = {};
  const constant = (name: string, value: Value): void => {
    inputs.push(graph.externalConstant(value.type, value.shape, name));
    initializers[name] = value;
  };
  const isOwn = operator !== "MatMulNBits";
  if (isOwn) {
    const packed = allocateBytes(own?.packedBytes(shape) ?? 0);
    own?.pack(shape, codes, scales, packed);
    constant("packed", new Value("uint8", [packed.length], packed));
  } else {
    constant("codes", new Value("uint8", [rows, blocks, (block * bits) / 8], codes));
    constant("scales", float32Value(scales, [rows * blocks]));
  }
  if (bias !== undefined) {
    if (!isOwn) inputs.push("", "");
    constant("bias", float32Value(bias, [rows]));
  }
  const attributes = isOwn
    ? blockAttributes(shape, operator)
    : {
        K: { int: columns },
        N: { int: rows },
        bits: { int: bits },
        block_size: { int: block },
        accuracy_level: { int: 4 },
      };
  const domain = isOwn ? OWN_OPERATORS : MICROSOFT;
  graph.node(isOwn ? "BlockProduct" : operator, inputs, { domain, attributes, outputs: ["y"] });
  graph.output("y", "float32", ["n", rows]);
  const session = new Session(graph.encode(), { threads: 2, initializers, operators: own?.domain });
  return {
    run: (x) => {
      const y = allocateFloat32((x.length / columns) * rows).fill(9);
      const values = [float32Value(x, [x.length / columns, columns]), float32Value(y, [x.length / columns, rows])];
      session.prepare({ x: values[0] as Value }, { y: values[1] as Value })();
      return y;
    },
    release: () => session.release(),
  };
}

function activations(count: number, columns: number): Float32Array<ArrayBuffer> {
  return allocateFloat32(count * columns).map((_, i) => 3 * noise(i + 99));
}

const CASES = SHAPES.flatMap((shape) =>
  (own?.instructions ?? [])
    .filter((name) => name === "vnni" || shape.bits === 4)
    .map(
      (name) =>
        [`${name}, ${shape.rows} × ${shape.columns}, ${shape.bits} bits by ${shape.block}`, shape, name] as const,
    ),
);

describe.each(CASES)("%s", (_, shape, name) => {
  const { rows, columns, block } = shape;

  test("is what the definition says, whatever the number of rows, to the bit", () => {
    const { run, release } = product(shape, name);
    const x = activations(31, columns);
    const y = run(x);
    const { weight } = matrix(shape);
    for (const row of [0, 7, 8, 30]) {
      const values = rounded(x.subarray(row * columns, (row + 1) * columns), block);
      for (let n = 0; n < rows; n++) {
        const expected = values.reduce((sum, value, k) => sum + value * weight(n, k), 0);
        expect(Math.abs((y[row * rows + n] as number) - expected)).toBeLessThan(2e-5);
      }
    }
    for (const count of [1, 2, 3, 7, 8, 15]) {
      expect(run(x.slice(0, count * columns))).toEqual(y.slice(0, count * rows));
    }
    release();
  });

  test("is what MatMulNBits computes, and what other instructions do, bias included", () => {
    const bias = allocateFloat32(rows).map((_, i) => noise(i + 5));
    const x = activations(7, columns);
    const results = [name, "MatMulNBits" as const, own?.instructionsFor(shape) as Instructions].map((operator) => {
      const { run, release } = product(shape, operator, bias);
      const y = run(x);
      release();
      return y;
    });
    const [y, reference, best] = results as [Float32Array, Float32Array, Float32Array];
    for (const [i, value] of y.entries()) expect(Math.abs(value - (reference[i] as number))).toBeLessThan(2e-5);
    expect(y).toEqual(best);
  });
});

test.each(own?.instructions ?? [])(
  "%s: NaN and infinity are passed on, zeros and no rows at all are no trouble",
  (name) => {
    const { run, release } = product(SHAPES[0] as BlockShape, name);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const x = activations(2, 96);
      x[40] = bad;
      const y = run(x);
      expect(y.subarray(0, 37).some(Number.isFinite)).toBe(false);
      expect(y.subarray(37).every(Number.isFinite)).toBe(true);
    }
    expect(run(allocateFloat32(96)).every((value) => value === 0)).toBe(true);
    expect(run(allocateFloat32(0))).toHaveLength(0);
    release();
  },
);

test.skipIf(own === undefined)("memory of another size is refused", () => {
  const [shape] = SHAPES as [BlockShape];
  const { codes, scales } = matrix(shape);
  const target = allocateBytes(own?.packedBytes(shape) ?? 0);
  expect(() => own?.pack(shape, codes, scales.subarray(1), target)).toThrow("do not fit");
  expect(() => own?.pack(shape, codes, scales, target.subarray(16))).toThrow("do not fit");
});
