// llama.cpp peer of bench/quant-decode.ts, run by node: node quant_decode_llama.mjs LIBRARY FILE THREADS SEQUENCES
// Reads lines of two numbers (rows, steps), answers with milliseconds of wall and of CPU time per step. Sequences that are
// evaluated at the same time are batched by node-llama-cpp; greedy, which is its cheapest way of sampling.

import { createInterface } from "node:readline";

const [library, modelPath, threads, sequences] = process.argv.slice(2);
const CONTEXT_TOKENS = 40;

let context;
try {
  const { getLlama, LlamaLogLevel } = await import(library);
  const llama = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    progressLogs: false,
    logLevel: LlamaLogLevel.error,
    maxThreads: Number(threads),
  });
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
  context = await model.createContext({
    sequences: Number(sequences),
    contextSize: 256,
    threads: { ideal: Number(threads), min: Number(threads) },
  });
  console.log("llama");
} catch (error) {
  console.error(String(error));
  console.log("missing");
  process.exit(0);
}

for await (const line of createInterface({ input: process.stdin })) {
  const [rows, steps] = line.split(" ").map(Number);
  const own = Array.from({ length: rows }, () => context.getSequence());
  const answers = own.map((sequence, row) => {
    const prompt = Array.from({ length: CONTEXT_TOKENS }, (_, i) => (i * 37 + row * 11) % 150_000);
    return sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true });
  });
  const next = () => Promise.all(answers.map((answer) => answer.next()));
  await next();
  await next();
  const wall = performance.now();
  const cpu = process.cpuUsage();
  for (let step = 0; step < steps; step++) await next();
  const ms = (performance.now() - wall) / steps;
  const used = process.cpuUsage(cpu);
  for (const answer of answers) await answer.return();
  for (const sequence of own) sequence.dispose();
  console.log(`${ms.toFixed(4)} ${((used.user + used.system) / 1000 / steps).toFixed(4)}`);
}
process.exit(0);
