/** The weights an engine works on: opened from where the run says, written as checkpoints. */

import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import { configToHuggingFace, type DecoderConfig } from "../models/config.ts";
import { writeDurably } from "../models/durable-files.ts";
import type { AdaptedBase } from "../models/frozen-parameters.ts";
import { type Adapters, initializeAdapters } from "../models/lora.ts";
import { ParameterStore, type Slot } from "../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../models/parameters.ts";
import { readAdapterWeights, writeAdapterFolder } from "../models/peft.ts";
import { openPolicyFolder } from "../models/policy-folder.ts";
import type { QuantizationScheme } from "../models/quantization.ts";
import {
  readFolderWeights,
  readOptimizerState,
  readWeights,
  writeOptimizerState,
  writeWeights,
} from "../models/weights.ts";
import { openGenerationBase, openTrainingBase } from "./frozen-model.ts";
import type { EngineOptions, LoraStart } from "./protocol.ts";

const WEIGHTS_FILE = "model.safetensors";
const OPTIMIZER_FILE = "optimizer.safetensors";

export class PolicyWeights {
  readonly config: DecoderConfig;
  /** What is trained: all parameters, or adapters. */
  readonly store: ParameterStore;
  /** The frozen model the adapters belong to. */
  readonly base: AdaptedBase | undefined;
  readonly #lora: LoraStart | undefined;

  private constructor(config: DecoderConfig, store: ParameterStore, base?: AdaptedBase, lora?: LoraStart) {
    this.config = config;
    this.store = store;
    this.base = base;
    this.#lora = lora;
  }

  /** Opens or makes the store and fills it. @throws AleError("model") when weights and config do not fit. */
  static open(options: EngineOptions, config: DecoderConfig): PolicyWeights {
    const { lora, storeFile, frozen, quantization } = options;
    if (frozen !== undefined) return PolicyWeights.#openFrozen(config, frozen.folder, lora, quantization);
    const baseFile = `${storeFile}.base`;
    if (options.weights.kind !== "reopen") for (const file of [storeFile, baseFile]) rmSync(file, { force: true });
    const base = lora === undefined ? undefined : openTrainingBase(config, lora, baseFile, quantization);
    const store = ParameterStore.open(storeFile, base?.adapters.layout ?? parameterLayout(config));
    const weights = new PolicyWeights(config, store, base, lora);
    weights.#load(options);
    return weights;
  }

  /** Weights that are only generated with; they have version 0 and no store file. */
  static #openFrozen(
    config: DecoderConfig,
    folder: string,
    lora: LoraStart | undefined,
    scheme: QuantizationScheme | undefined,
  ): PolicyWeights {
    const base = openGenerationBase(config, folder, lora, scheme);
    const store = ParameterStore.inMemory(base.adapters.layout);
    const weights = new PolicyWeights(config, store, base, lora);
    if (lora !== undefined) weights.#start(folder, 0);
    store.publish(0, 0);
    return weights;
  }

  /**
   * Writes the weights of `slot`, their optimizer state and the config: a Hugging Face folder, or a PEFT folder that names
   * its base. @throws AleError("storage_full") when they cannot be written.
   */
  save(folder: string, slot: Slot, version: number): void {
    mkdirSync(folder, { recursive: true });
    const { store, base } = this;
    if (base === undefined) {
      writeWeights(join(folder, WEIGHTS_FILE), store.layout, store.parameters(slot), { version: String(version) });
    } else {
      writeAdapterFolder(folder, base.adapters, store.parameters(slot), (this.#lora as LoraStart).base);
    }
    writeOptimizerState(join(folder, OPTIMIZER_FILE), store, slot);
    writeDurably(join(folder, "config.json"), [`${JSON.stringify(configToHuggingFace(this.config), null, 2)}\n`]);
  }

  #load({ weights, storeFile }: EngineOptions): void {
    const { store } = this;
    const slot: Slot = 0;
    switch (weights.kind) {
      case "reopen":
        if (store.published === null) {
          throw new AleError("engine", `${storeFile} holds no published weights`, {
            hint: "run `ale resume` to continue from the last checkpoint",
          });
        }
        return;
      case "random":
        if (this.base !== undefined) throw new AleError("internal", "adapters need a model to belong to");
        initializeParameters(this.config, store.layout, store.parameters(slot), weights.seed);
        store.publish(slot, 0);
        return;
      case "folder":
        this.#start(weights.folder, slot);
        store.publish(slot, 0);
        return;
      case "checkpoint":
        this.#read(weights.folder, slot);
        readOptimizerState(join(weights.folder, OPTIMIZER_FILE), store, slot);
        store.publish(slot, weights.version);
        return;
    }
  }

  #start(folder: string, slot: Slot): void {
    const from = this.base === undefined ? folder : this.#lora?.adapter;
    if (from !== undefined) this.#read(from, slot);
    else initializeAdapters(this.base?.adapters as Adapters, this.store.parameters(slot), this.#lora?.seed as number);
  }

  /** What is trained, from a folder that `save` wrote or one like it. */
  #read(path: string, slot: Slot): void {
    const folder = openPolicyFolder(path);
    const flat = this.store.parameters(slot);
    if (this.base === undefined) readWeights(readFolderWeights(folder), this.store.layout, flat);
    else readAdapterWeights(folder, this.base.adapters, flat);
  }
}
