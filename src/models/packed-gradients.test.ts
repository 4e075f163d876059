import { expect, test } from "bun:test";
import { rotaryConstants } from "../autodiff/rotary.ts";
import { ARCHITECTURES, type DecoderConfig } from "./config.ts";
import { decoderLayer } from "./decoder-layer.ts";
import { type CheckedFunction, checkGradients } from "./gradient-check.ts";
import { layerEntries } from "./layer-graphs.ts";
import { integers, normal } from "./operator-cases.ts";
import { ropeTables } from "./rope.ts";

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: 19,
  hiddenSize: 8,
  layers: 1,
  heads: 2,
  kvHeads: 1,
  headDim: 4,
  intermediateSize: 6,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 16,
};
const [ROWS, LENGTH] = [2, 6];

test("gradients of a layer over rows of several sequences against central differences", () => {
  const build: CheckedFunction = (graph, inputs) => {
    const { heads, kvHeads, headDim } = CONFIG;
    const positions = rotaryConstants(graph, LENGTH, ropeTables(CONFIG, LENGTH), inputs.positions);
    const shape = { rows: ROWS, length: LENGTH, heads, kvHeads, headDim };
    const parameter = (name: string) => inputs[name] as NonNullable<(typeof inputs)[string]>;
    const context = { graph, config: CONFIG, shape, positions, segments: inputs.segments, parameter };
    return [decoderLayer(context, 0, parameter("x"))];
  };
  const entries = layerEntries({ config: CONFIG, adapters: undefined }, 0);
  const inputs = {
    ...Object.fromEntries(entries.map(({ name, shape }) => [name, normal(name, ...shape)])),
    x: normal("x", ROWS * LENGTH, CONFIG.hiddenSize),
    positions: integers([ROWS, LENGTH], [0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 3, 0]),
    segments: { shape: [ROWS, LENGTH], values: [1, 1, 1, 2, 2, 2, 1, 2, 2, 2, 2, 0], constant: true },
  };
  const report = checkGradients(build, inputs, 3);
  expect(report.probes).toBeGreaterThan(20);
  expect(report.differenceError).toBeLessThan(1e-8);
  expect(report.float32Error).toBeLessThan(1e-5);
});
