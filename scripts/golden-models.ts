/** Golden models: a Hugging Face folder with the numbers that must come out of it. */

import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { configFromHuggingFace, type DecoderConfig } from "../src/models/config.ts";
import { decoderGraph, IDS, LOGITS } from "../src/models/decoder-graph.ts";
import { FrozenParameters } from "../src/models/frozen-parameters.ts";
import { ParameterStore } from "../src/models/parameter-store.ts";
import { parameterValues } from "../src/models/parameter-values.ts";
import { parameterLayout, parameterView } from "../src/models/parameters.ts";
import { openPolicyFolder } from "../src/models/policy-folder.ts";
import { readSafetensors } from "../src/models/safetensors.ts";
import { copyTensor } from "../src/models/stored-tensor.ts";
import { readFolderWeights, readWeights } from "../src/models/weights.ts";
import { allocateFloat32, allocateInt64 } from "../src/runtime/memory.ts";
import { Session } from "../src/runtime/session.ts";
import { float32Value, int64Value } from "../src/runtime/value.ts";
import { Learner } from "../src/trainer/learner.ts";
import type { StepSettings } from "../src/trainer/store-optimizer.ts";
import type { GoldenCase } from "./golden.ts";
import { l2, within } from "./golden-compare.ts";
import { checkLora } from "./golden-lora.ts";
import { checkText } from "./golden-text.ts";

const numbers = z.array(z.number());
const StepSchema = z.object({
  gradients: z.string(),
  values: z.record(z.string(), z.object({ first: numbers, last: numbers })),
  checksums: z.record(z.string(), z.object({ sum: z.number(), l2: z.number(), dot_sin: z.number() })),
});
const LossSchema = z.object({ loss: z.number(), grad_norm: z.number() });
const GoldenSchema = z.object({
  prompts: z.array(
    z.object({
      ids: numbers,
      loss_mask: numbers,
      pg_weights: numbers,
      logprobs: numbers,
      greedy: numbers,
      greedy_logprobs: numbers,
    }),
  ),
  sft: LossSchema.extend({ label_count: z.number() }),
  pg: LossSchema,
  adamw: z.object({
    lr: z.number(),
    betas: z.tuple([z.number(), z.number()]),
    eps: z.number(),
    weight_decay: z.number(),
    steps: z.array(StepSchema),
  }),
});
type Golden = z.infer<typeof GoldenSchema>;

const LOGIT_LIMIT = 2e-4;
const GRADIENT_LIMIT = 1e-3;
/** Share of its value by which a gradient must be off for its weight's move not to be compared, and how many may be. */
const UNSURE = 2e-3;
const MOST_UNSURE = 0.01;

function countUnsure(unsure: ReadonlyMap<string, ReadonlySet<number>>): number {
  return [...unsure.values()].reduce((sum, elements) => sum + elements.size, 0);
}

interface StepLimits {
  readonly limit: number;
  readonly l2Limit: number;
  /** What sums over the tensor may be off by more, for its unsure elements. */
  readonly room: (name: string) => number;
}

export function checkModel(folder: string): GoldenCase[] {
  return [...checkNumbers(folder), ...checkText(folder)];
}

function checkNumbers(folder: string): GoldenCase[] {
  const model = basename(folder);
  try {
    const path = join(folder, "config.json");
    const config = configFromHuggingFace(JSON.parse(readFileSync(path, "utf8")), path);
    const checks = new ModelChecks(folder, config);
    const cases = [...checks.cases(), ...checkLora(folder, config, checks.frozenWeights())];
    return cases.map((item) => ({ ...item, name: `${model} ${item.name}` }));
  } catch (error) {
    const fail = () => {
      throw error;
    };
    return [{ name: `${model} load`, run: fail }];
  }
}

class ModelChecks {
  readonly #folder: string;
  readonly #config: DecoderConfig;
  readonly #golden: Golden;
  readonly #store: ParameterStore;
  readonly #learner: Learner;

  constructor(folder: string, config: DecoderConfig) {
    this.#folder = folder;
    this.#config = config;
    this.#golden = GoldenSchema.parse(JSON.parse(readFileSync(join(folder, "golden.json"), "utf8")));
    this.#store = ParameterStore.inMemory(parameterLayout(this.#config));
    readWeights(readFolderWeights(openPolicyFolder(folder)), this.#store.layout, this.#store.parameters(0));
    this.#store.publish(0, 0);
    this.#learner = new Learner(this.#config, this.#store, { threads: 2 });
  }

  /** The model's weights as the base of adapters. */
  frozenWeights(): FrozenParameters {
    const weights = this.#store.parameters(0);
    return FrozenParameters.inMemory(this.#store.layout, (flat) => flat.set(weights));
  }

  cases(): (GoldenCase & { run: () => string })[] {
    const prompts = this.#golden.prompts.map((_, i) => i);
    return [
      ...prompts.map((i) => ({ name: `logits.${i}`, run: () => this.#logits(i) })),
      { name: "logprobs", run: () => this.#logprobs() },
      ...prompts.map((i) => ({ name: `greedy.${i}`, run: () => this.#greedy(i) })),
      ...(["sft", "pg"] as const).flatMap((kind) => [
        { name: `${kind} loss`, run: () => this.#loss(kind) },
        { name: `${kind} gradients`, run: () => this.#gradients(kind) },
        { name: `${kind} grad_norm`, run: () => this.#gradNorm(kind) },
      ]),
      { name: "adamw, stored gradients", run: () => this.#adamW((step) => this.#loadGradients(step), 2e-6, 1e-6) },
      { name: "adamw, own gradients", run: () => this.#adamW((step) => this.#ownGradients(step), 1e-5, 1e-5) },
    ];
  }

  #logits(prompt: number): string {
    const { ids } = this.#golden.prompts[prompt] as Golden["prompts"][number];
    const expected = new Float32Array(ids.length * this.#config.vocabularySize);
    const file = readSafetensors(join(this.#folder, "golden.safetensors"));
    copyTensor(file, `logits.${prompt}`, [ids.length, this.#config.vocabularySize], expected);
    return within("logits", this.#forward(ids), expected, LOGIT_LIMIT);
  }

  /** Logits of every position, [length, V]. */
  #forward(ids: readonly number[]): Float32Array {
    const { vocabularySize } = this.#config;
    const model = decoderGraph(this.#config, { profile: "cpu", rows: 1, length: ids.length, mode: "logits" });
    const session = new Session(model, { threads: 2 });
    const input = allocateInt64(ids.length);
    for (const [t, id] of ids.entries()) input[t] = BigInt(id);
    const logits = allocateFloat32(ids.length * vocabularySize);
    session.prepare(
      { ...parameterValues(this.#store, 0), [IDS]: int64Value(input, [ids.length]) },
      { [LOGITS]: float32Value(logits, [ids.length, vocabularySize]) },
    )();
    session.release();
    return logits;
  }

  #logprobs(): string {
    const sequences = this.#golden.prompts.map(({ ids }) => Int32Array.from(ids));
    const got = this.#learner.logprobs(sequences, 0).map((logprobs) => logprobs.subarray(1));
    const worst = got.map((logprobs, i) =>
      within(`prompt ${i}`, logprobs, this.#golden.prompts[i]?.logprobs as number[], LOGIT_LIMIT),
    );
    return worst.join(", ");
  }

  #greedy(prompt: number): string {
    const { ids, greedy, greedy_logprobs } = this.#golden.prompts[prompt] as Golden["prompts"][number];
    const { vocabularySize } = this.#config;
    const sequence = [...ids];
    const logprobs: number[] = [];
    for (const expected of greedy) {
      const last = this.#forward(sequence).subarray((sequence.length - 1) * vocabularySize);
      const best = last.indexOf(Math.max(...last));
      if (best !== expected) throw new Error(`token ${sequence.length - ids.length} is ${best}, expected ${expected}`);
      logprobs.push(-Math.log(last.reduce((sum, logit) => sum + Math.exp(logit - (last[best] as number)), 0)));
      sequence.push(best);
    }
    return within("greedy logprobs", logprobs, greedy_logprobs, LOGIT_LIMIT);
  }

  /** Runs forward and backward of one of the two losses into the learner's gradients. */
  #backward(kind: "sft" | "pg"): number {
    const { prompts, sft } = this.#golden;
    const factor = kind === "sft" ? 1 / sft.label_count : 1;
    const weights = prompts.map(({ loss_mask, pg_weights }) =>
      Float32Array.from([0, ...(kind === "sft" ? loss_mask : pg_weights)], (weight) => weight * factor),
    );
    this.#learner.clearGradients();
    return this.#learner.backward(
      prompts.map(({ ids }) => Int32Array.from(ids)),
      weights,
      0,
    ).loss;
  }

  #loss(kind: "sft" | "pg"): string {
    return within("loss", [this.#backward(kind)], [this.#golden[kind].loss], LOGIT_LIMIT);
  }

  #gradients(kind: "sft" | "pg"): string {
    this.#backward(kind);
    const file = readSafetensors(join(this.#folder, `grads_${kind}.safetensors`));
    let worst = 0;
    for (const { name, shape, size } of this.#store.layout.entries) {
      const expected = new Float32Array(size);
      copyTensor(file, name, shape, expected);
      const got = parameterView(this.#store.layout, this.#learner.gradients, name);
      const error = l2(got.map((g, i) => g - (expected[i] as number))) / l2(expected);
      if (!(error <= GRADIENT_LIMIT)) throw new Error(`${name}: relative error ${error.toExponential(2)}`);
      worst = Math.max(worst, error);
    }
    return `worst tensor ${worst.toExponential(1)}`;
  }

  #gradNorm(kind: "sft" | "pg"): string {
    this.#backward(kind);
    const { gradNorm } = this.#learner.step(this.#settings(), 0, 1);
    const expected = this.#golden[kind].grad_norm;
    return within("grad_norm", [gradNorm], [expected], GRADIENT_LIMIT * expected);
  }

  #settings(): StepSettings {
    const { lr, betas, eps, weight_decay: weightDecay } = this.#golden.adamw;
    return { lr, betas, eps, weightDecay, clip: 0 };
  }

  /** Two steps, 0 → 1 → 2, each with gradients at the initial weights. */
  #adamW(loadGradients: (step: z.infer<typeof StepSchema>) => void, limit: number, l2Limit: number): string {
    const measured: string[] = [];
    const unsure = new Map<string, Set<number>>();
    this.#store.firstMoment(0).fill(0);
    for (const [i, step] of this.#golden.adamw.steps.entries()) {
      loadGradients(step);
      this.#addUnsure(step, unsure);
      const target = (i + 1) as 1 | 2;
      this.#learner.step(this.#settings(), i, target);
      const room = 2 * (i + 1) * this.#golden.adamw.lr;
      const limits = { limit, l2Limit, room: (name: string) => room * (unsure.get(name)?.size ?? 0) };
      const isSure = (name: string, element: number) => unsure.get(name)?.has(element) !== true;
      measured.push(this.#compareStep(step, this.#store.parameters(target), limits, isSure));
    }
    const count = countUnsure(unsure);
    return `${measured.join(", ")}${count === 0 ? "" : `, ${count} of ${this.#store.layout.parameterCount} elements unsure`}`;
  }

  /**
   * AdamW moves a weight by the learning rate times a ratio of its gradients, however small they are. So where float32 leaves
   * a gradient uncertain by more than `UNSURE` of itself, the weight's move is uncertain too, in any float32 implementation
   * (PyTorch's fails the plain limits on some seeds). Such an element is not compared by itself, and sums leave room for it.
   */
  #addUnsure(step: z.infer<typeof StepSchema>, unsure: Map<string, Set<number>>): void {
    const file = readSafetensors(join(this.#folder, step.gradients));
    const { layout } = this.#store;
    for (const { name, shape, size } of layout.entries) {
      const expected = new Float32Array(size);
      copyTensor(file, name, shape, expected);
      const own = parameterView(layout, this.#learner.gradients, name);
      const elements = unsure.get(name) ?? new Set();
      for (const [i, value] of expected.entries()) {
        if (Math.abs((own[i] as number) - value) > UNSURE * Math.abs(value)) elements.add(i);
      }
      unsure.set(name, elements);
    }
    const count = countUnsure(unsure);
    if (count > MOST_UNSURE * layout.parameterCount) {
      throw new Error(
        `gradients of ${count} of ${layout.parameterCount} elements are off by more than ${UNSURE} of them`,
      );
    }
  }

  #loadGradients(step: z.infer<typeof StepSchema>): void {
    const file = readSafetensors(join(this.#folder, step.gradients));
    const { layout } = this.#store;
    this.#learner.clearGradients();
    for (const { name, shape } of layout.entries) {
      copyTensor(file, name, shape, parameterView(layout, this.#learner.gradients, name));
    }
  }

  #ownGradients(step: z.infer<typeof StepSchema>): void {
    this.#backward(step.gradients.includes("sft") ? "sft" : "pg");
  }

  #compareStep(
    step: z.infer<typeof StepSchema>,
    flat: Float32Array,
    { limit, l2Limit, room }: StepLimits,
    isSure: (name: string, element: number) => boolean,
  ): string {
    const { layout } = this.#store;
    for (const [name, { first, last }] of Object.entries(step.values)) {
      const view = parameterView(layout, flat, name);
      for (const [what, values, begin] of [
        ["first", first, 0],
        ["last", last, view.length - last.length],
      ] as const) {
        const sure = [...values.keys()].filter((i) => isSure(name, begin + i));
        const pick = (from: ArrayLike<number>, offset: number) => sure.map((i) => from[offset + i] as number);
        within(`${name} ${what}`, pick(view, begin), pick(values, 0), limit);
      }
    }
    let worst = 0;
    for (const [name, expected] of Object.entries(step.checksums)) {
      const view = parameterView(layout, flat, name);
      const root = Math.sqrt(view.length);
      const sum = view.reduce((total, p) => total + p, 0);
      const dotSin = view.reduce((total, p, i) => total + p * Math.sin(i + 1), 0);
      within(`${name} sum`, [sum], [expected.sum], limit * root + room(name));
      within(`${name} dot_sin`, [dotSin], [expected.dot_sin], limit * root + room(name));
      within(`${name} l2`, [l2(view)], [expected.l2], l2Limit * expected.l2);
      worst = Math.max(worst, Math.abs(sum - expected.sum) / root);
    }
    return `sums within ${worst.toExponential(1)} · √n`;
  }
}
