import { expect, test } from "bun:test";
import fc from "fast-check";
import { MICROSOFT, OnnxBuilder } from "../onnx/builder.ts";
import { allocateFloat32 } from "../runtime/memory.ts";
import { Session } from "../runtime/session.ts";
import { float32Value, Value } from "../runtime/value.ts";
import type { DecoderConfig } from "./config.ts";
import { ARCHITECTURES } from "./config.ts";
import { initializeParameters, parameterLayout, parameterView } from "./parameters.ts";
import {
  blockBytes,
  blocksOf,
  dequantizeRows,
  emptyMatrix,
  type QuantizationScheme,
  type QuantizedMatrix,
  quantizeRows,
  SCHEMES,
} from "./quantization.ts";
import { dequantizeBase, flatReader, matrixGroups, quantizeBase } from "./quantized-base.ts";

const schemes: readonly QuantizationScheme[] = ["int8", "int4", "int4-128"];

function quantize(scheme: QuantizationScheme, weights: Float32Array, columns: number): QuantizedMatrix {
  const matrix = emptyMatrix(scheme, weights.length / columns, columns);
  quantizeRows(matrix, weights);
  return matrix;
}

function valuesOf(matrix: QuantizedMatrix): Float32Array<ArrayBuffer> {
  const values = new Float32Array(matrix.rows * matrix.columns);
  dequantizeRows(matrix, values);
  return values;
}

/** Rows of weights of very different sizes, some of them zero. */
const matrices = fc
  .record({ rows: fc.integer({ min: 1, max: 3 }), columns: fc.integer({ min: 1, max: 300 }) })
  .chain(({ rows, columns }) =>
    fc
      .array(fc.oneof(fc.constant(0), fc.double({ min: -1, max: 1, noNaN: true })), {
        minLength: rows * columns,
        maxLength: rows * columns,
      })
      .chain((values) =>
        fc.integer({ min: -100, max: 100 }).map((exponent) => ({
          columns,
          weights: Float32Array.from(values, (value) => value * 2 ** exponent),
        })),
      ),
  );

test.each(schemes)("%s: scales and codes are those of the definition in float64", (scheme) => {
  const { offset, block: size } = SCHEMES[scheme];
  const [lowest, highest] = scheme === "int8" ? [-127, 127] : [-8, 7];
  fc.assert(
    fc.property(matrices, ({ weights, columns }) => {
      const matrix = quantize(scheme, weights, columns);
      const values = valuesOf(matrix);
      for (let block = 0; block < matrix.scales.length; block++) {
        const row = Math.floor(block / blocksOf(scheme, columns));
        const first = row * columns + (block % blocksOf(scheme, columns)) * size;
        const last = Math.min(first + size, (row + 1) * columns);
        const own = [...weights.subarray(first, last)];
        const largest = own.reduce((found, w) => (Math.abs(w) > Math.abs(found) ? w : found), 0);
        const negligible = Math.abs(largest) < 2 ** -116;
        const scale = negligible ? 0 : scheme === "int8" ? Math.abs(largest) / 127 : largest / -8;
        expect(matrix.scales[block]).toBe(Math.fround(scale));
        for (const [i, weight] of own.entries()) {
          const exact = scale === 0 ? 0 : Math.max(lowest, Math.min(highest, weight / scale));
          const code = (values[first + i] as number) / (matrix.scales[block] || 1);
          // The nearest code, whichever at a tie.
          expect(Math.abs(code - exact)).toBeLessThanOrEqual(0.5 + 1e-5);
          expect(Math.abs(code - Math.round(code))).toBeLessThan(1e-4);
        }
        const padding = blockBytes(scheme) - Math.ceil(((last - first) * blockBytes(scheme)) / size);
        const filler = scheme === "int8" ? offset : offset | (offset << 4);
        const end = (block + 1) * blockBytes(scheme);
        expect([...matrix.codes.subarray(end - padding, end)]).toEqual(new Array(padding).fill(filler));
      }
    }),
    { numRuns: 60 },
  );
});

test.each(schemes)("%s: quantising the values of a quantised matrix changes nothing", (scheme) => {
  fc.assert(
    fc.property(matrices, ({ weights, columns }) => {
      const once = quantize(scheme, weights, columns);
      const twice = quantize(scheme, valuesOf(once), columns);
      expect(valuesOf(twice)).toEqual(valuesOf(once));
      expect(twice.codes).toEqual(once.codes);
      expect(twice.scales).toEqual(once.scales);
    }),
    { numRuns: 60 },
  );
});

test.each(schemes)("%s: weights that are not finite are refused", (scheme) => {
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const weights = new Float32Array(40).fill(1);
    weights[35] = value;
    expect(() => quantize(scheme, weights, 40)).toThrow("not finite");
  }
});

test.each(schemes)("%s: MatMulNBits reads the layout as it is meant", (scheme) => {
  const [rows, columns] = [12, 256];
  const { bits } = SCHEMES[scheme];
  const weights = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i * 12.9898) * (1 + (i % 5)));
  const matrix = quantize(scheme, weights, columns);
  const graph = new OnnxBuilder();
  const x = graph.input("x", "float32", [columns, columns]);
  const codes = graph.externalConstant("uint8", [rows, blocksOf(scheme, columns), blockBytes(scheme)], "codes");
  const scales = graph.externalConstant("float32", [rows * blocksOf(scheme, columns)], "scales");
  graph.node("MatMulNBits", [x, codes, scales], {
    domain: MICROSOFT,
    outputs: ["y"],
    attributes: {
      K: { int: columns },
      N: { int: rows },
      bits: { int: bits },
      block_size: { int: SCHEMES[scheme].block },
      accuracy_level: { int: 4 },
    },
  });
  graph.output("y", "float32", [columns, rows]);
  const session = new Session(graph.encode(), {
    threads: 1,
    initializers: {
      codes: new Value("uint8", [rows, blocksOf(scheme, columns), blockBytes(scheme)], matrix.codes),
      scales: float32Value(matrix.scales, [rows * blocksOf(scheme, columns)]),
    },
  });
  const identity = allocateFloat32(columns * columns);
  for (let i = 0; i < columns; i++) identity[i * columns + i] = 1;
  const y = allocateFloat32(columns * rows);
  session.prepare({ x: float32Value(identity, [columns, columns]) }, { y: float32Value(y, [columns, rows]) })();
  session.release();
  const values = valuesOf(matrix);
  for (let i = 0; i < y.length; i++) {
    expect(y[i]).toBeCloseTo(values[(i % rows) * columns + Math.floor(i / rows)] as number, 5);
  }
});

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.qwen2,
  experts: null,
  vocabularySize: 40,
  hiddenSize: 32,
  layers: 2,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  intermediateSize: 48,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: false,
  contextLength: 64,
};

test("a quantised decoder: every matrix, stacked as generation uses them; norms and biases untouched", () => {
  const layout = parameterLayout(CONFIG);
  const flat = new Float32Array(layout.length);
  initializeParameters(CONFIG, layout, flat, 1);
  const base = quantizeBase(CONFIG, "int4", flatReader(layout, flat));
  const dequantized = flat.slice();
  dequantizeBase(base, layout, dequantized);
  const quantized = new Set(matrixGroups(CONFIG).flat());
  for (const { name, kind, shape } of layout.entries) {
    const [before, after] = [flat, dequantized].map((array) => parameterView(layout, array, name));
    expect(quantized.has(name)).toBe(kind !== "norm" && kind !== "bias");
    if (!quantized.has(name)) expect(after).toEqual(before as Float32Array<ArrayBuffer>);
    else expect(after).toEqual(valuesOf(quantize("int4", before as Float32Array, shape[1] as number)));
  }
  const again = quantizeBase(CONFIG, "int4", flatReader(layout, dequantized));
  for (const [key, matrix] of base.matrices) expect(again.matrices.get(key)?.codes).toEqual(matrix.codes);
});

test("what cannot be quantised is refused with the way out", () => {
  const read = () => {};
  expect(() => quantizeBase({ ...CONFIG, hiddenSize: 40 }, "int8", read)).toThrow("multiple of 32");
  expect(() => quantizeBase({ ...CONFIG, hiddenSize: 64 }, "int4-128", read)).toThrow("multiple of 128");
  const experts = {
    count: 2,
    perToken: 1,
    intermediateSize: 32,
    normalizeWeights: true,
    sparseStep: 1,
    denseLayers: [],
  };
  expect(() => quantizeBase({ ...CONFIG, experts }, "int8", read)).toThrow("experts");
});
