/**
 * Decode steps of a Qwen2 of half a billion weights: int4, int4-128 and int8 beside float32, beside node-llama-cpp and beside PyTorch.
 *
 * `bun bench/quant-decode.ts [--rows 1,8,32] [--rounds N] [--steps N] [--threads N] [--pairs …] [--python PATH] [--llama DIR]`
 *
 * Random weights, contexts of 40 tokens, sampling included; processes of their own that take turns, medians of the rounds.
 * A form with `@onnxruntime` behind it multiplies with ONNX Runtime's MatMulNBits instead of Ale's own operator, with `@avx2` as
 * on processors that have no more than that.
 * `--llama` is a folder where `npm install node-llama-cpp` was run; it gets a Q4_0 file of the same shape. Needs up to 5 GB.
 */

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { ARCHITECTURES, type DecoderConfig } from "../src/models/config.ts";
import { FrozenParameters } from "../src/models/frozen-parameters.ts";
import { adaptersFor } from "../src/models/lora.ts";
import { ParameterStore } from "../src/models/parameter-store.ts";
import { layOut, type ParameterEntry, type ParameterLayout, parameterLayout } from "../src/models/parameters.ts";
import type { QuantizationScheme } from "../src/models/quantization.ts";
import { matrixGroups, quantizeBase } from "../src/models/quantized-base.ts";
import { GenerationEngine } from "../src/policy/generation/engine.ts";
import { median, Peer } from "./peers.ts";
import { writeQwen2Gguf } from "./qwen2-gguf.ts";

const CONTEXT_TOKENS = 40;
const SLOTS = 32;

const { values: options } = parseArgs({
  options: {
    rows: { type: "string", default: "1,8,32" },
    rounds: { type: "string", default: "7" },
    steps: { type: "string", default: "8" },
    threads: { type: "string", default: "2" },
    layers: { type: "string", default: "24" },
    pairs: {
      type: "string",
      default: "int4:float32,int4-128:float32,int8:float32,int4:int4@onnxruntime,int4:llama,float32:torch",
    },
    python: { type: "string", default: "python3" },
    llama: { type: "string" },
    /** What a worker process is. */
    worker: { type: "string" },
  },
});

const threads = Number(options.threads);
const config: DecoderConfig = {
  ...ARCHITECTURES.qwen2,
  experts: null,
  vocabularySize: 151_936,
  hiddenSize: 896,
  layers: Number(options.layers),
  heads: 14,
  kvHeads: 2,
  headDim: 64,
  intermediateSize: 4864,
  normEps: 1e-6,
  ropeTheta: 1e6,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 256,
};

/** Normally distributed numbers, drawn once: weights are runs of them at pseudo-random places. */
const NOISE = (() => {
  const values = new Float32Array(1 << 20);
  for (let i = 0; i < values.length; i++) {
    values[i] = Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  }
  return values;
})();

/** Elements begin … begin + target.length − 1 of a parameter. */
function fillRandom({ offset, kind, shape }: ParameterEntry, begin: number, target: Float32Array): void {
  if (kind === "norm" || kind === "bias") {
    target.fill(kind === "norm" ? 1 : 0);
    return;
  }
  const deviation = kind === "embedding" ? 0.02 : (shape[1] as number) ** -0.5;
  const start = (offset + begin) * 7;
  for (let i = 0; i < target.length; i++) target[i] = deviation * (NOISE[(start + i) & (NOISE.length - 1)] as number);
}

function randomParameters(layout: ParameterLayout): FrozenParameters {
  return FrozenParameters.inMemory(layout, (flat) => {
    for (const entry of layout.entries) fillRandom(entry, 0, flat.subarray(entry.offset, entry.offset + entry.size));
  });
}

function newEngine(form: string): GenerationEngine {
  const layout = parameterLayout(config);
  const adapters = adaptersFor(config, { rank: 1, alpha: 1, rslora: false, targets: [] });
  const store = ParameterStore.inMemory(adapters.layout);
  store.publish(0, 0);
  const shape = { threads, slots: SLOTS, rows: SLOTS, context: config.contextLength, alone: true };
  if (form === "float32") {
    return new GenerationEngine(config, store, { ...shape, base: { parameters: randomParameters(layout), adapters } });
  }
  const matrices = new Set(matrixGroups(config).flat());
  const rest = layout.entries.filter(({ name }) => !matrices.has(name));
  const parameters = randomParameters(layOut(rest.map(({ name, kind, shape }) => [name, kind, shape])));
  const started = performance.now();
  const [scheme, operators] = form.split("@");
  if (operators !== undefined) process.env.ALE_BLOCK_PRODUCTS = operators === "onnxruntime" ? "0" : operators;
  const quantized = quantizeBase(config, scheme as QuantizationScheme, (name, begin, target) =>
    fillRandom(layout.byName.get(name) as ParameterEntry, begin, target),
  );
  const ms = performance.now() - started;
  const engine = new GenerationEngine(config, store, { ...shape, base: { parameters, adapters, quantized } });
  const peak = Math.round(process.resourceUsage().maxRSS / 1024);
  const seconds = ((performance.now() - started - ms) / 1000).toFixed(1);
  console.error(`${form}: quantised in ${(ms / 1000).toFixed(1)} s, compiled in ${seconds} s, peak ${peak} MB`);
  return engine;
}

/** The Ale side: a line in (rows, steps), a line out (milliseconds of wall and of CPU time per step). */
async function work(form: string): Promise<void> {
  const engine = newEngine(form);
  console.log(`ale ${form}`);
  for await (const line of console) {
    const [rows, steps] = line.split(" ").map(Number) as [number, number];
    for (let row = 0; row < rows; row++) {
      engine.open(row, `row ${row}`);
      const context = Int32Array.from({ length: CONTEXT_TOKENS }, (_, i) => (i * 37 + row * 11) % 150_000);
      const sampling = { temperature: 1, greedy: false, maxTokens: steps + 1, stopIds: [] };
      engine.submit({ sequenceId: row, context, sampling });
    }
    while (engine.step().sampled.length < rows);
    const wall = performance.now();
    const cpu = process.cpuUsage();
    for (let step = 0; step < steps; step++) engine.step();
    const used = process.cpuUsage(cpu);
    const ms = (performance.now() - wall) / steps;
    for (let row = 0; row < rows; row++) engine.close(row);
    console.log(`${ms.toFixed(4)} ${((used.user + used.system) / 1000 / steps).toFixed(4)}`);
  }
}

/** A peer by its name in `--pairs`; `undefined` with the reason printed when it is not there. */
async function startPeer(name: string, folder: string): Promise<Peer | undefined> {
  const peer = new Peer(commandOf(name, folder));
  const greeting = await peer.line();
  if (greeting !== "missing") return peer;
  await peer.close();
  console.log(`${name} is left out: ${reasonFor(name)}`);
  return undefined;
}

function reasonFor(name: string): string {
  if (name === "torch") return `${options.python} has no torch (give --python PATH)`;
  if (options.llama === undefined) return "no --llama DIR was given (a folder with npm install node-llama-cpp)";
  return `node-llama-cpp does not load from ${options.llama}`;
}

function commandOf(name: string, folder: string): string[] {
  if (name === "torch") {
    const { vocabularySize, hiddenSize, layers, heads, kvHeads, intermediateSize, contextLength } = config;
    const shape = { vocabulary: vocabularySize, hidden: hiddenSize, layers, heads, kvHeads };
    const rest = { intermediate: intermediateSize, context: contextLength, start: CONTEXT_TOKENS, threads };
    return [options.python, join(import.meta.dir, "generation_torch.py"), JSON.stringify({ ...shape, ...rest })];
  }
  if (name === "llama") {
    const library = resolve(options.llama ?? ".", "node_modules/node-llama-cpp/dist/index.js");
    const file = join(folder, "random.gguf");
    if (existsSync(library) && !existsSync(file)) writeQwen2Gguf(file, config);
    return ["node", join(import.meta.dir, "quant_decode_llama.mjs"), library, file, options.threads, String(SLOTS)];
  }
  return [
    process.execPath,
    import.meta.path,
    "--worker",
    name,
    "--threads",
    options.threads,
    "--layers",
    options.layers,
  ];
}

async function compare(names: readonly [string, string], folder: string): Promise<void> {
  const [first, second] = [await startPeer(names[0], folder), await startPeer(names[1], folder)];
  if (first !== undefined && second !== undefined) {
    for (const rows of options.rows.split(",").map(Number)) {
      const question = `${rows} ${options.steps}`;
      const times: [number, number][] = [];
      await first.ask(question);
      await second.ask(question);
      for (let round = 0; round < Number(options.rounds); round++) {
        times.push([(await first.ask(question))[0] as number, (await second.ask(question))[0] as number]);
      }
      const [own, other] = [median(times.map(([ms]) => ms)), median(times.map(([, ms]) => ms))];
      const ratio = median(times.map(([ours, theirs]) => theirs / ours));
      const figures = `${names[0]} ${own.toFixed(1)} ms, ${names[1]} ${other.toFixed(1)} ms a step`;
      console.log(`${String(rows).padStart(2)} rows: ${figures}; ${names[1]} / ${names[0]} = ${ratio.toFixed(2)}`);
    }
  }
  await first?.close();
  await second?.close();
}

if (options.worker === undefined) {
  console.log(
    `${threads} threads, ${options.rounds} rounds of ${options.steps} steps, load ${loadavg()[0]?.toFixed(2)}`,
  );
  const folder = mkdtempSync(join(tmpdir(), "ale-bench-"));
  try {
    for (const pair of options.pairs.split(",")) {
      const [one, other, ...more] = pair.split(":");
      if (!one || !other || more.length > 0) throw new Error(`--pairs: ${pair} is not two names, as in int4:float32`);
      await compare([one, other], folder);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(`load ${loadavg()[0]?.toFixed(2)}`);
} else {
  await work(options.worker);
}
