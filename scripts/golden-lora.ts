/** The `lora` part of a golden model: a PEFT folder, and what the model computes with its adapters. */

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import type { DecoderConfig } from "../src/models/config.ts";
import { decoderGraph, IDS, LOGITS } from "../src/models/decoder-graph.ts";
import type { AdaptedBase, FrozenParameters } from "../src/models/frozen-parameters.ts";
import { adaptersFor } from "../src/models/lora.ts";
import { ParameterStore } from "../src/models/parameter-store.ts";
import { parameterValues } from "../src/models/parameter-values.ts";
import { parameterView } from "../src/models/parameters.ts";
import { ADAPTER_WEIGHTS_FILE, readAdapterConfig, readAdapterWeights, writeAdapterFolder } from "../src/models/peft.ts";
import { openPolicyFolder } from "../src/models/policy-folder.ts";
import { rawBytes, readSafetensors, type SafetensorsFile, type SafetensorsTensor } from "../src/models/safetensors.ts";
import { copyTensor } from "../src/models/stored-tensor.ts";
import { allocateFloat32, allocateInt64 } from "../src/runtime/memory.ts";
import { Session } from "../src/runtime/session.ts";
import { float32Value, int64Value } from "../src/runtime/value.ts";
import { Learner } from "../src/trainer/learner.ts";
import type { GoldenCase } from "./golden.ts";
import { l2, within } from "./golden-compare.ts";

const numbers = z.array(z.number());
const LossSchema = z.object({ loss: z.number(), grad_norm: z.number() });
const GoldenSchema = z.object({
  prompts: z.array(z.object({ ids: numbers, loss_mask: numbers, pg_weights: numbers })),
  sft: z.object({ label_count: z.number() }),
  lora: z.object({ logprobs: z.array(numbers), sft: LossSchema, pg: LossSchema }),
});

const LOGIT_LIMIT = 2e-4;
const GRADIENT_LIMIT = 1e-3;

/** @param folder the model's folder. @param parameters its weights. */
export function checkLora(folder: string, config: DecoderConfig, parameters: FrozenParameters): GoldenCase[] {
  if (!existsSync(join(folder, "lora"))) return [];
  const checks = new LoraChecks(folder, config, parameters);
  return checks.cases();
}

class LoraChecks {
  readonly #folder: string;
  readonly #config: DecoderConfig;
  readonly #golden: z.infer<typeof GoldenSchema>;
  readonly #base: AdaptedBase;
  readonly #store: ParameterStore;
  readonly #learner: Learner;

  constructor(folder: string, config: DecoderConfig, parameters: FrozenParameters) {
    this.#folder = folder;
    this.#config = config;
    this.#golden = GoldenSchema.parse(JSON.parse(readFileSync(join(folder, "golden.json"), "utf8")));
    const adapterFolder = openPolicyFolder(join(folder, "lora"));
    const adapters = adaptersFor(config, readAdapterConfig(adapterFolder).lora);
    this.#base = { parameters, adapters };
    this.#store = ParameterStore.inMemory(adapters.layout);
    readAdapterWeights(adapterFolder, adapters, this.#store.parameters(0));
    this.#store.publish(0, 0);
    this.#learner = new Learner(config, this.#store, { threads: 2, base: this.#base });
  }

  cases(): GoldenCase[] {
    return [
      ...this.#golden.prompts.map((_, i) => ({ name: `lora logits.${i}`, run: () => this.#logits(i) })),
      { name: "lora logprobs", run: () => this.#logprobs() },
      ...(["sft", "pg"] as const).flatMap((kind) => [
        { name: `lora ${kind} loss`, run: () => this.#loss(kind) },
        { name: `lora ${kind} gradients`, run: () => this.#gradients(kind) },
        { name: `lora ${kind} grad_norm`, run: () => this.#gradNorm(kind) },
      ]),
      { name: "lora round trip", run: () => this.#roundTrip() },
    ];
  }

  #logits(prompt: number): string {
    const ids = this.#golden.prompts[prompt]?.ids as number[];
    const { vocabularySize } = this.#config;
    const shape = [ids.length, vocabularySize];
    const expected = new Float32Array(ids.length * vocabularySize);
    copyTensor(readSafetensors(join(this.#folder, "golden.safetensors")), `lora.logits.${prompt}`, shape, expected);
    const { adapters, parameters } = this.#base;
    const model = decoderGraph(this.#config, { profile: "cpu", rows: 1, length: ids.length, mode: "logits", adapters });
    const session = new Session(model, { threads: 2 });
    const input = allocateInt64(ids.length);
    for (const [t, id] of ids.entries()) input[t] = BigInt(id);
    const logits = allocateFloat32(expected.length);
    session.prepare(
      { ...parameters.values, ...parameterValues(this.#store, 0), [IDS]: int64Value(input, [ids.length]) },
      { [LOGITS]: float32Value(logits, shape) },
    )();
    session.release();
    return within("logits", logits, expected, LOGIT_LIMIT);
  }

  #logprobs(): string {
    const sequences = this.#golden.prompts.map(({ ids }) => Int32Array.from(ids));
    const got = this.#learner.logprobs(sequences, 0).map((logprobs) => logprobs.subarray(1));
    const worst = got.map((logprobs, i) =>
      within(`prompt ${i}`, logprobs, this.#golden.lora.logprobs[i] as number[], LOGIT_LIMIT),
    );
    return worst.join(", ");
  }

  #backward(kind: "sft" | "pg"): number {
    const { prompts, sft } = this.#golden;
    const factor = kind === "sft" ? 1 / sft.label_count : 1;
    const weights = prompts.map(({ loss_mask, pg_weights }) =>
      Float32Array.from([0, ...(kind === "sft" ? loss_mask : pg_weights)], (weight) => weight * factor),
    );
    const sequences = prompts.map(({ ids }) => Int32Array.from(ids));
    this.#learner.clearGradients();
    return this.#learner.backward(sequences, weights, 0).loss;
  }

  #loss(kind: "sft" | "pg"): string {
    return within("loss", [this.#backward(kind)], [this.#golden.lora[kind].loss], LOGIT_LIMIT);
  }

  #gradients(kind: "sft" | "pg"): string {
    this.#backward(kind);
    const file = readSafetensors(join(this.#folder, "lora", `grads_${kind}.safetensors`));
    const { layout } = this.#store;
    let worst = 0;
    for (const { name, shape, size } of layout.entries) {
      const expected = new Float32Array(size);
      copyTensor(file, name, shape, expected);
      const got = parameterView(layout, this.#learner.gradients, name);
      const error = l2(got.map((g, i) => g - (expected[i] as number))) / l2(expected);
      if (!(error <= GRADIENT_LIMIT)) throw new Error(`${name}: relative error ${error.toExponential(2)}`);
      worst = Math.max(worst, error);
    }
    return `worst tensor ${worst.toExponential(1)}`;
  }

  #gradNorm(kind: "sft" | "pg"): string {
    this.#backward(kind);
    const expected = this.#golden.lora[kind].grad_norm;
    return within("grad_norm", [l2(this.#learner.gradients)], [expected], GRADIENT_LIMIT * expected);
  }

  /** Read, written and compared tensor by tensor, to the bit. */
  #roundTrip(): string {
    const target = mkdtempSync(join(tmpdir(), "ale-golden-"));
    try {
      const { adapters } = this.#base;
      const { base = "" } = readAdapterConfig(openPolicyFolder(join(this.#folder, "lora")));
      writeAdapterFolder(target, adapters, this.#store.parameters(0), base);
      const before = readSafetensors(join(this.#folder, "lora", ADAPTER_WEIGHTS_FILE));
      const after = readSafetensors(join(target, ADAPTER_WEIGHTS_FILE));
      if (before.tensors.size !== after.tensors.size) throw new Error("the number of tensors changed");
      for (const [name, tensor] of before.tensors) {
        const written = after.tensors.get(name);
        if (written === undefined || !bytesOf(after, written).equals(bytesOf(before, tensor))) {
          throw new Error(`${name} changed`);
        }
      }
      const again = readAdapterConfig(openPolicyFolder(target)).lora;
      if (!Bun.deepEquals(again, adapters.config)) throw new Error("adapter_config.json changed");
      return `${before.tensors.size} tensors to the bit`;
    } finally {
      rmSync(target, { recursive: true });
    }
  }
}

function bytesOf(file: SafetensorsFile, tensor: SafetensorsTensor): Buffer {
  return Buffer.concat([...rawBytes(file, tensor)]);
}
