/**
 * `bun bench/train-memory.ts [--hidden D] [--layers L] [--heads H] [--vocabulary V] [--rows B] [--length T] [--only KIND]`:
 * peak memory and time of two training steps, whole graph beside layer by layer. Each runs in a process of its own; peak is
 * VmHWM minus the resident memory at its start. Prints the ratio of the peaks and how far the gradients are apart.
 */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ARCHITECTURES, type DecoderConfig } from "../src/models/config.ts";
import { ParameterStore } from "../src/models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../src/models/parameters.ts";
import { Learner } from "../src/trainer/learner.ts";

const { values: options } = parseArgs({
  options: {
    hidden: { type: "string", default: "256" },
    layers: { type: "string", default: "12" },
    heads: { type: "string", default: "4" },
    vocabulary: { type: "string", default: "512" },
    rows: { type: "string", default: "8" },
    length: { type: "string", default: "256" },
    only: { type: "string" },
    worker: { type: "string" },
  },
});
const [hidden, layers, heads, vocabulary, rows, length] = (
  ["hidden", "layers", "heads", "vocabulary", "rows", "length"] as const
).map((name) => Number(options[name])) as [number, number, number, number, number, number];

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: vocabulary,
  hiddenSize: hidden,
  layers,
  heads,
  kvHeads: heads,
  headDim: hidden / heads,
  intermediateSize: 3 * hidden,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: length,
};
const SETTINGS = { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 } as const;

interface Measured {
  readonly peakMb: number;
  readonly seconds: number;
  readonly loss: number;
}

function statusMb(field: "VmHWM" | "VmRSS"): number {
  const line = new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync("/proc/self/status", "utf8"));
  return Number(line?.[1]) / 1024;
}

/** Two steps; the gradients of the first are written to `file`. */
function work(kind: string, file: string): void {
  const idle = statusMb("VmRSS");
  const layout = parameterLayout(CONFIG);
  const store = ParameterStore.inMemory(layout);
  initializeParameters(CONFIG, layout, store.parameters(0), 1);
  const executor = kind === "layers" ? "layers" : "graph";
  const learner = new Learner(CONFIG, store, { threads: 2, maxTokensPerMicroBatch: rows * length, executor });
  const sequences = Array.from({ length: rows }, (_, r) =>
    Int32Array.from({ length: length + 1 }, (_, t) => (r * 7919 + t * 104_729 + ((r * t) % 13) * 31) % vocabulary),
  );
  const weights = sequences.map(() => new Float32Array(length + 1).fill(1 / (rows * length)));
  const { loss } = learner.backward(sequences, weights, 0);
  writeFileSync(file, learner.gradients);
  learner.step(SETTINGS, 0, 1);
  const started = performance.now();
  learner.backward(sequences, weights, 1);
  learner.step(SETTINGS, 1, 2);
  const seconds = (performance.now() - started) / 1000;
  console.log(JSON.stringify({ peakMb: statusMb("VmHWM") - idle, seconds, loss } satisfies Measured));
}

async function measure(kind: string, file: string): Promise<Measured> {
  const command = [process.execPath, import.meta.path, ...process.argv.slice(2), "--worker", `${kind}:${file}`];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
  const measured = JSON.parse(await new Response(child.stdout).text()) as Measured;
  const { peakMb, seconds, loss } = measured;
  console.log(
    `${kind.padEnd(6)} peak ${peakMb.toFixed(0).padStart(6)} MB  step ${seconds.toFixed(2)} s  loss ${loss.toFixed(6)}`,
  );
  return measured;
}

/** rms(a − b) / rms(b). */
function relativeError(a: Float32Array, b: Float32Array): number {
  let difference = 0;
  let size = 0;
  for (const [i, x] of a.entries()) {
    difference += (x - (b[i] as number)) ** 2;
    size += (b[i] as number) ** 2;
  }
  return Math.sqrt(difference / size);
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "ale-train-memory-"));
  try {
    const { parameterCount } = parameterLayout(CONFIG);
    console.log(`${(parameterCount / 1e6).toFixed(1)} M parameters, ${rows} × ${length} tokens`);
    const kinds = ["graph", "layers"].filter((kind) => options.only === undefined || kind === options.only);
    const results: Measured[] = [];
    for (const kind of kinds) results.push(await measure(kind, join(folder, kind)));
    const [graph, layered] = results;
    if (graph === undefined || layered === undefined) return;
    const [a, b] = kinds.map((kind) => new Float32Array(readFileSync(join(folder, kind)).buffer));
    const ratio = (of: (measured: Measured) => number) => (of(layered) / of(graph)).toFixed(2);
    console.log(
      `layers / graph: peak ${ratio(({ peakMb }) => peakMb)}, time ${ratio(({ seconds }) => seconds)}; ` +
        `gradients differ by ${relativeError(b as Float32Array, a as Float32Array).toExponential(1)} of their size`,
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (options.worker === undefined) await main();
else work(...(options.worker.split(":", 2) as [string, string]));
