/** The weights an engine works on: opened from where the run says, written as checkpoints. */

import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import { configToHuggingFace, type DecoderConfig } from "../models/config.ts";
import { trainableLayout } from "../models/decoder-graph.ts";
import { writeDurably } from "../models/durable-files.ts";
import type { AdaptedBase, FrozenParameters } from "../models/frozen-parameters.ts";
import { type Adapters, initializeAdapters } from "../models/lora.ts";
import { ParameterStore, type Slot } from "../models/parameter-store.ts";
import { initializeParameters, type ParameterLayout, parameterView } from "../models/parameters.ts";
import { readAdapterWeights, writeAdapterFolder } from "../models/peft.ts";
import { openPolicyFolder } from "../models/policy-folder.ts";
import type { QuantizationScheme } from "../models/quantization.ts";
import { type OutputTensor, readSafetensors, writeSafetensors } from "../models/safetensors.ts";
import { copyTensor } from "../models/stored-tensor.ts";
import {
  readFolderWeights,
  readOptimizerState,
  readWeights,
  writeOptimizerState,
  writeWeights,
} from "../models/weights.ts";
import { openGenerationBase, openReference, openTrainingBase } from "./frozen-model.ts";
import type { EngineOptions, LoraStart } from "./protocol.ts";

const WEIGHTS_FILE = "model.safetensors";
const OPTIMIZER_FILE = "optimizer.safetensors";
const VALUE_HEAD_FILE = "value_head.safetensors";

interface WeightParts {
  readonly base: AdaptedBase | undefined;
  readonly reference?: FrozenParameters | undefined;
  readonly lora: LoraStart | undefined;
}

export class PolicyWeights {
  readonly config: DecoderConfig;
  /** What is trained: all parameters or adapters, and a value head where there is one. */
  readonly store: ParameterStore;
  /** The frozen model the adapters belong to. */
  readonly base: AdaptedBase | undefined;
  /** The frozen model that a divergence is measured from, where it is not `base`. */
  readonly reference: FrozenParameters | undefined;
  readonly #lora: LoraStart | undefined;
  /** The policy's part of the store's layout, which begins with it. */
  readonly #policy: ParameterLayout;

  private constructor(config: DecoderConfig, store: ParameterStore, parts: WeightParts) {
    this.config = config;
    this.store = store;
    this.base = parts.base;
    this.reference = parts.reference;
    this.#lora = parts.lora;
    this.#policy = trainableLayout(config, { adapters: parts.base?.adapters, valueHead: false });
  }

  /** Opens or makes the store and fills it. @throws AleError("model") when weights and config do not fit. */
  static open(options: EngineOptions, config: DecoderConfig): PolicyWeights {
    const { lora, storeFile, frozen, quantization } = options;
    if (frozen !== undefined) return PolicyWeights.#openFrozen(config, frozen.folder, lora, quantization);
    const baseFile = `${storeFile}.base`;
    const referenceFile = `${storeFile}.reference`;
    if (options.weights.kind !== "reopen") {
      for (const file of [storeFile, baseFile, referenceFile]) rmSync(file, { force: true });
    }
    const base = lora && openTrainingBase(config, lora, baseFile, quantization);
    const reference =
      options.reference === undefined ? undefined : openReference(config, options.reference, referenceFile);
    const { valueHead = false } = options;
    const store = ParameterStore.open(storeFile, trainableLayout(config, { adapters: base?.adapters, valueHead }));
    const weights = new PolicyWeights(config, store, { base, reference, lora });
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
    const weights = new PolicyWeights(config, store, { base, lora });
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
      writeWeights(join(folder, WEIGHTS_FILE), this.#policy, store.parameters(slot), { version: String(version) });
    } else {
      writeAdapterFolder(folder, base.adapters, store.parameters(slot), (this.#lora as LoraStart).base);
    }
    const valueHead = this.#valueHead(slot);
    if (valueHead.length > 0) writeSafetensors(join(folder, VALUE_HEAD_FILE), valueHead);
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
        initializeParameters(this.config, this.#policy, store.parameters(slot), weights.seed);
        store.publish(slot, 0);
        return;
      case "folder":
        this.#start(weights.folder, slot);
        store.publish(slot, 0);
        return;
      case "checkpoint":
        this.#read(weights.folder, slot);
        this.#readValueHead(weights.folder, slot);
        readOptimizerState(join(weights.folder, OPTIMIZER_FILE), store, slot);
        store.publish(slot, weights.version);
        return;
    }
  }

  /** The tensors of the value head; none where there is no head. */
  #valueHead(slot: Slot): OutputTensor[] {
    const { layout } = this.store;
    const flat = this.store.parameters(slot);
    return layout.entries
      .filter(({ kind }) => kind === "value-head")
      .map(({ name, shape }) => ({ name, shape, data: parameterView(layout, flat, name) }));
  }

  #readValueHead(folder: string, slot: Slot): void {
    const tensors = this.#valueHead(slot);
    if (tensors.length === 0) return;
    const file = readSafetensors(join(folder, VALUE_HEAD_FILE));
    for (const { name, shape, data } of tensors) copyTensor(file, name, shape, data);
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
    if (this.base === undefined) readWeights(readFolderWeights(folder), this.#policy, flat);
    else readAdapterWeights(folder, this.base.adapters, flat);
  }
}
