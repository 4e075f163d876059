/**
 * `bun bench/memory.ts [NAME …]`: predicted beside measured peak memory of engines that train and generate, for models of
 * 100 MB and more. Each engine fills its caches, then makes three updates with sequences as long as its context.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EngineClient } from "../src/device/engine-client.ts";
import { planMemory } from "../src/device/memory-plan.ts";
import type { EngineOptions } from "../src/device/protocol.ts";
import { configFromHuggingFace } from "../src/models/config.ts";
import { parameterLayout } from "../src/models/parameters.ts";
import { writeWeights } from "../src/models/weights.ts";

type Shape = Pick<EngineOptions, "executor" | "context" | "microBatchTokens" | "slots" | "sequences"> & {
  readonly hidden: number;
  readonly layers: number;
  readonly vocabulary: number;
  readonly kind: "full" | "lora" | "frozen";
};

const CASES: Readonly<Record<string, Shape>> = {
  "full, one graph": {
    kind: "full",
    executor: "graph",
    hidden: 512,
    layers: 8,
    vocabulary: 4096,
    context: 257,
    microBatchTokens: 1024,
    slots: 8,
    sequences: 8,
  },
  "full, layers": {
    kind: "full",
    executor: "layers",
    hidden: 512,
    layers: 8,
    vocabulary: 4096,
    context: 257,
    microBatchTokens: 2048,
    slots: 8,
    sequences: 8,
  },
  "full, layers, large vocabulary": {
    kind: "full",
    executor: "layers",
    hidden: 384,
    layers: 6,
    vocabulary: 50_000,
    context: 513,
    microBatchTokens: 2048,
    slots: 8,
    sequences: 16,
  },
  "adapters, layers": {
    kind: "lora",
    executor: "layers",
    hidden: 768,
    layers: 5,
    vocabulary: 8192,
    context: 257,
    microBatchTokens: 512,
    slots: 8,
    sequences: 8,
  },
  "generation only": {
    kind: "frozen",
    hidden: 768,
    layers: 10,
    vocabulary: 8192,
    context: 257,
    microBatchTokens: 1,
    slots: 8,
    sequences: 16,
  },
};

function modelConfig({ hidden, layers, vocabulary }: Shape) {
  return {
    model_type: "llama",
    architectures: ["LlamaForCausalLM"],
    vocab_size: vocabulary,
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: hidden / 64,
    num_key_value_heads: hidden / 64,
    intermediate_size: 3 * hidden,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: true,
  };
}

function writeModel(folder: string, shape: Shape): void {
  const json = modelConfig(shape);
  const config = configFromHuggingFace(json, "config.json");
  const layout = parameterLayout(config);
  const flat = new Float32Array(layout.length);
  for (let i = 0; i < flat.length; i++) flat[i] = 0.02 * Math.sin(i * 1.7);
  for (const { kind, offset, size } of layout.entries) if (kind === "norm") flat.fill(1, offset, offset + size);
  writeWeights(join(folder, "model.safetensors"), layout, flat);
  writeFileSync(join(folder, "config.json"), JSON.stringify(json));
}

function engineOptions(shape: Shape, folder: string): EngineOptions {
  const { kind, executor, context, microBatchTokens, slots, sequences } = shape;
  const shared = {
    modelConfig: modelConfig(shape),
    storeFile: join(folder, "store.bin"),
    threads: 2,
    deterministic: false,
  };
  const lora = {
    config: { rank: 16, alpha: 32, targets: ["q_proj", "v_proj", "down_proj"], rslora: false },
    seed: 1,
    base: folder,
  } as const;
  return {
    ...shared,
    ...(executor === undefined ? {} : { executor }),
    ...(kind === "lora" ? { lora } : {}),
    ...(kind === "frozen" ? { frozen: { folder } } : {}),
    weights: { kind: "folder", folder },
    context,
    microBatchTokens,
    updatesPerStep: 1,
    slots,
    sequences,
  };
}

async function measure(name: string, shape: Shape): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "ale-memory-"));
  try {
    writeModel(folder, shape);
    const options = engineOptions(shape, folder);
    const { parts } = planMemory(options);
    const engine = await EngineClient.start(options);
    await generate(engine, shape);
    if (shape.kind !== "frozen") for (let step = 1; step <= 3; step++) await train(engine, shape, step);
    const { peakBytes, predictedBytes } = await engine.stats();
    await engine.stop();
    const mb = (bytes: number) => (bytes / 1e6).toFixed(0);
    const detail = Object.entries(parts).map(([part, bytes]) => `${part} ${mb(bytes)}`);
    console.log(
      `${name.padEnd(32)} predicted ${mb(predictedBytes).padStart(5)} MB  measured ${mb(peakBytes).padStart(5)} MB  ` +
        `${(100 * (predictedBytes / peakBytes - 1)).toFixed(1)} %  (${detail.join(", ")})`,
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Answers that fill the cache of every sequence that may be open. */
async function generate(engine: EngineClient, { context, sequences, vocabulary }: Shape): Promise<void> {
  const sessions = await Promise.all(Array.from({ length: sequences }, (_, i) => engine.open(`memory ${i}`)));
  await Promise.all(
    sessions.map((session, i) => {
      const prompt = Int32Array.from({ length: context - 8 }, (_, t) => (i * 7919 + t * 31) % vocabulary);
      return session.generate(prompt, { maxTokens: 4, temperature: 1, greedy: false, stopIds: [] });
    }),
  );
  for (const session of sessions) await session.close();
}

async function train(
  engine: EngineClient,
  { context, microBatchTokens, vocabulary }: Shape,
  step: number,
): Promise<void> {
  const rows = Math.max(1, Math.floor((2 * microBatchTokens) / (context - 1)));
  const sequences = Array.from({ length: rows }, (_, r) =>
    Int32Array.from({ length: context }, (_, t) => (r * 7919 + t * 104_729) % vocabulary),
  );
  const weights = sequences.map(() => new Float32Array(context).fill(1 / (rows * context)));
  const optimizer = { lr: 1e-4, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 } as const;
  const { slot } = await engine.update({ kind: "supervised", sequences, weights, optimizer }, step);
  await engine.publish(slot, step);
}

const wanted = process.argv.slice(2);
for (const [name, shape] of Object.entries(CASES)) {
  if (wanted.length === 0 || wanted.some((word) => name.includes(word))) await measure(name, shape);
}
