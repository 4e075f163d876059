/** What an engine holds: one model's weights, its generation and its training. No messages here. */

import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import { configFromHuggingFace, configToHuggingFace, type DecoderConfig } from "../models/config.ts";
import { writeDurably } from "../models/durable-files.ts";
import { ParameterStore, type Slot } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../models/parameters.ts";
import { openPolicyFolder } from "../models/policy-folder.ts";
import {
  readFolderWeights,
  readOptimizerState,
  readWeights,
  writeOptimizerState,
  writeWeights,
} from "../models/weights.ts";
import { GenerationEngine } from "../policy/generation/engine.ts";
import { probeParity } from "../policy/generation/parity.ts";
import { ORT_VERSION } from "../runtime/library.ts";
import { Learner } from "../trainer/learner.ts";
import { runUpdate, type UpdateJob, type UpdateResult } from "../trainer/update.ts";
import type { EngineInfo, EngineOptions } from "./protocol.ts";

export const WEIGHTS_FILE = "model.safetensors";
export const OPTIMIZER_FILE = "optimizer.safetensors";

export class EngineCore {
  readonly #config: DecoderConfig;
  readonly #store: ParameterStore;
  readonly #learner: Learner;
  readonly generation: GenerationEngine;
  readonly #determinism: string | undefined;

  private constructor(options: EngineOptions, config: DecoderConfig, store: ParameterStore) {
    this.#config = config;
    this.#store = store;
    const { threads, slots } = options;
    this.#learner = new Learner(config, store, { threads, maxTokensPerMicroBatch: options.microBatchTokens });
    this.generation = new GenerationEngine(config, store, {
      threads,
      slots,
      maxBlocks: Math.ceil(options.sequences / slots),
      context: options.context,
    });
    this.#determinism = options.deterministic ? this.#proveDeterminism() : undefined;
  }

  /** Loads the model. Throws `AleError("model")` when config and weights do not fit. */
  static open(options: EngineOptions): EngineCore {
    const config = configFromHuggingFace(options.modelConfig, "config.json");
    if (options.context > config.contextLength) {
      throw new AleError(
        "config",
        `rollout.maxEpisodeTokens is ${options.context}, but the model's context is ${config.contextLength} tokens`,
        { hint: `set rollout.maxEpisodeTokens to at most ${config.contextLength}` },
      );
    }
    const layout = parameterLayout(config);
    if (options.weights.kind !== "reopen") rmSync(options.storeFile, { force: true });
    const store = ParameterStore.open(options.storeFile, layout);
    loadWeights(options, config, store);
    return new EngineCore(options, config, store);
  }

  info(): EngineInfo {
    const { slot, version } = this.#published();
    return {
      parameters: this.#store.layout.entries.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
      version,
      optimizerStep: this.#store.step(slot),
      runtime: `onnxruntime ${ORT_VERSION}`,
      ...(this.#determinism === undefined ? {} : { determinism: this.#determinism }),
    };
  }

  update(job: UpdateJob): UpdateResult {
    return runUpdate(this.#learner, this.#store, job);
  }

  publish(slot: Slot, version: number): void {
    this.#store.publish(slot, version);
  }

  /** Writes the published weights, their optimizer state and the config. */
  save(folder: string): void {
    const { slot, version } = this.#published();
    mkdirSync(folder, { recursive: true });
    const { layout } = this.#store;
    writeWeights(join(folder, WEIGHTS_FILE), layout, this.#store.parameters(slot), { version: String(version) });
    writeOptimizerState(join(folder, OPTIMIZER_FILE), this.#store, slot);
    writeDurably(join(folder, "config.json"), [`${JSON.stringify(configToHuggingFace(this.#config), null, 2)}\n`]);
  }

  probeParity(sequences: readonly Int32Array[]): number {
    return probeParity(this.generation, this.#learner, sequences, this.#published().slot);
  }

  dispose(): void {
    this.generation.dispose();
  }

  #published(): { slot: Slot; version: number } {
    const published = this.#store.published;
    if (published === null) throw new AleError("engine", "the engine has no published weights");
    return published;
  }

  #proveDeterminism(): string {
    const { ok, detail } = this.generation.selfTestDeterminism();
    if (!ok) {
      throw new AleError("engine", `this machine does not compute reproducibly: ${detail}`, {
        hint: "set deterministic = false, or engine.threads = 1",
      });
    }
    return detail;
  }
}

function loadWeights(options: EngineOptions, config: DecoderConfig, store: ParameterStore): void {
  const { weights } = options;
  const slot: Slot = 0;
  switch (weights.kind) {
    case "reopen":
      if (store.published === null) {
        throw new AleError("engine", `${options.storeFile} holds no published weights`, {
          hint: "run `ale resume` to continue from the last checkpoint",
        });
      }
      return;
    case "random":
      initializeParameters(config, store.layout, store.parameters(slot), weights.seed);
      store.publish(slot, 0);
      return;
    case "folder":
      readWeights(readFolderWeights(openPolicyFolder(weights.folder)), store.layout, store.parameters(slot));
      store.publish(slot, 0);
      return;
    case "checkpoint":
      readWeights(readFolderWeights(openPolicyFolder(weights.folder)), store.layout, store.parameters(slot));
      readOptimizerState(join(weights.folder, OPTIMIZER_FILE), store, slot);
      store.publish(slot, weights.version);
      return;
  }
}
