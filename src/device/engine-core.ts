/** What an engine holds: one model's weights, its generation and its training. No messages here. */

import { AleError } from "../core/errors.ts";
import type { RecordSpan } from "../core/timeline.ts";
import { configFromHuggingFace, type DecoderConfig } from "../models/config.ts";
import type { DeviceParameters } from "../models/device-parameters.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import { parameterLayout } from "../models/parameters.ts";
import { GenerationEngine } from "../policy/generation/engine.ts";
import { kvBytes } from "../policy/generation/kv-block.ts";
import { type ParityReport, probeParity } from "../policy/generation/parity.ts";
import { cellsFor } from "../policy/generation/prefiller.ts";
import { ORT_VERSION } from "../runtime/library.ts";
import { DeviceLearner } from "../trainer/device-learner.ts";
import { Learner } from "../trainer/learner.ts";
import { type PolicyLearner, runUpdate, type UpdateJob, type UpdateResult } from "../trainer/update.ts";
import { type DeviceParts, deviceParameters, openDevice } from "./device-parts.ts";
import { Exchange } from "./exchange.ts";
import { CACHE_BYTES, planMemory } from "./memory-plan.ts";
import { PolicyWeights } from "./policy-weights.ts";
import type { EngineInfo, EngineOptions } from "./protocol.ts";
import { SharedLearner } from "./shared-learner.ts";

export class EngineCore {
  readonly #weights: PolicyWeights;
  /** None in an engine that trains nothing. */
  readonly #learner: Learner | DeviceLearner | undefined;
  readonly #device: DeviceParts;
  /** The weights on the GPU, if the engine computes on one. */
  readonly #parameters: DeviceParameters | undefined;
  /** With other engines, or alone. */
  readonly #exchange: Exchange | undefined;
  readonly #trainer: PolicyLearner | undefined;
  readonly generation: GenerationEngine;
  readonly #determinism: string | undefined;
  /** Peak memory that was expected before anything was loaded. */
  readonly predictedBytes: number;

  private constructor(options: EngineOptions, weights: PolicyWeights, device: DeviceParts, record: RecordSpan) {
    this.#weights = weights;
    this.#device = device;
    const parameters = deviceParameters(device, weights, options.storage);
    this.#parameters = parameters;
    const { config, store, base, reference } = weights;
    const { threads, slots, noDecay, packing } = options;
    const { executor, predictedBytes } = planMemory(options);
    this.predictedBytes = predictedBytes;
    this.#exchange = options.frozen === undefined ? openExchange(options, store, record) : undefined;
    if (options.frozen === undefined) {
      const shared = {
        maxTokensPerMicroBatch: options.microBatchTokens,
        executor,
        base,
        reference,
        noDecay,
        record,
        ...(this.#exchange === undefined ? {} : { gradients: this.#exchange.gradients(this.#exchange.rank) }),
      };
      this.#learner =
        parameters === undefined
          ? new Learner(config, store, { ...shared, threads, packing })
          : new DeviceLearner(config, store, parameters, shared);
      this.#trainer =
        this.#exchange === undefined
          ? this.#learner
          : new SharedLearner(this.#learner, store, this.#exchange, {
              threads,
              noDecay,
              record,
              onStep: (slot) => parameters?.storeChanged(slot),
            });
    }
    this.generation = new GenerationEngine(config, store, {
      threads,
      slots,
      rows: cacheRows(options, config),
      context: options.context,
      base,
      device: parameters,
      bitEqual: options.deterministic,
      alone: options.frozen !== undefined,
      afterSync: options.afterSync,
      prefillTokens: options.prefillTokens,
    });
    this.#determinism = options.deterministic ? this.#proveDeterminism() : undefined;
  }

  /**
   * Loads the model. `record` hears of the micro-operations of training.
   * @throws AleError("model") when config and weights do not fit.
   */
  static open(options: EngineOptions, record: RecordSpan): EngineCore {
    const config = configFromHuggingFace(options.modelConfig, "config.json");
    if (options.context > config.contextLength) {
      throw new AleError(
        "config",
        `rollout.maxEpisodeTokens is ${options.context}, but the model's context is ${config.contextLength} tokens`,
        { hint: `set rollout.maxEpisodeTokens to at most ${config.contextLength}` },
      );
    }
    // Before the weights are read: a device that cannot be used is said at once.
    const device = openDevice(options);
    return new EngineCore(options, PolicyWeights.open(options, config), device, record);
  }

  info(): EngineInfo {
    const { slot, version } = this.#published();
    const { config, store } = this.#weights;
    return {
      parameters: parameterLayout(config).parameterCount,
      trainable: store.layout.parameterCount,
      version,
      optimizerStep: store.step(slot),
      runtime: `onnxruntime ${ORT_VERSION}`,
      device: this.#device.name,
      ...(this.#device.fallback === undefined ? {} : { fallback: this.#device.fallback }),
      ...(this.#determinism === undefined ? {} : { determinism: this.#determinism }),
    };
  }

  /** Rejects when `abandon` is called for this attempt. */
  async update(job: UpdateJob, attempt: number): Promise<UpdateResult> {
    this.#exchange?.begin(attempt);
    return runUpdate(trains(this.#trainer), this.#weights.store, job);
  }

  abandon(attempt: number): void {
    this.#exchange?.abandon(attempt);
  }

  /** Time that updates spent waiting for other engines since the last call, in ms. */
  takeSyncMs(): number {
    return this.#exchange?.takeWaitedMs() ?? 0;
  }

  /** What was computed on a GPU comes to the store first: it outlives this process. */
  publish(slot: Slot, version: number): void {
    this.#parameters?.toStore(slot);
    this.#weights.store.publish(slot, version);
  }

  /** Writes the published weights, their optimizer state and the config. */
  save(folder: string): void {
    const { slot, version } = this.#published();
    this.#weights.save(folder, slot, version);
  }

  probeParity(sequences: readonly Int32Array[]): ParityReport {
    return probeParity(this.generation, trains(this.#learner), sequences, this.#published().slot);
  }

  dispose(): void {
    this.generation.dispose();
  }

  #published(): { slot: Slot; version: number } {
    const { published } = this.#weights.store;
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

/** @throws AleError("internal") when asked of an engine that only generates. */
function trains<T>(part: T | undefined): T {
  if (part === undefined) throw new AleError("internal", "this engine only generates");
  return part;
}

function openExchange({ pool }: EngineOptions, store: ParameterStore, record: RecordSpan): Exchange | undefined {
  if (pool === undefined) return undefined;
  const { rank, size, exchangeFile } = pool;
  return Exchange.open(exchangeFile, { rank, size, length: store.layout.length, record });
}

/** Sequences whose caches fit `options.cacheBytes`; never more than may be open. */
function cacheRows(options: EngineOptions, config: DecoderConfig): number {
  const { sequences, cacheBytes = CACHE_BYTES, context, deterministic } = options;
  const rowBytes = kvBytes(config, 1, cellsFor(context));
  const rows = Math.min(sequences, Math.floor(cacheBytes / rowBytes));
  const needed = deterministic ? sequences : 1;
  if (rows >= needed) return rows;
  const gigabytes = (bytes: number) => (bytes / 1e9).toPrecision(3);
  throw new AleError(
    "config",
    `engine.cacheGb is ${gigabytes(cacheBytes)}; ${needed} × ${context} tokens of cache take ${gigabytes(needed * rowBytes)}`,
    {
      hint: deterministic
        ? "raise engine.cacheGb, or lower rollout.concurrency: deterministic runs keep the cache of every open sequence"
        : "raise engine.cacheGb, or lower rollout.maxEpisodeTokens",
    },
  );
}
