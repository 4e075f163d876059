/** What an engine holds: one model's weights, its generation and its training. No messages here. */

import { AleError } from "../core/errors.ts";
import type { TeacherScores } from "../core/teacher.ts";
import type { RecordSpan } from "../core/timeline.ts";
import { configFromHuggingFace, type DecoderConfig } from "../models/config.ts";
import type { DeviceParameters } from "../models/device-parameters.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import { parameterLayout } from "../models/parameters.ts";
import { GenerationEngine } from "../policy/generation/engine.ts";
import { kvBytes } from "../policy/generation/kv-block.ts";
import { type ParityReport, probedSequences, probeParity } from "../policy/generation/parity.ts";
import { cellsFor } from "../policy/generation/prefiller.ts";
import { ORT_VERSION } from "../runtime/library.ts";
import { DeviceLearner } from "../trainer/device-learner.ts";
import { Learner } from "../trainer/learner.ts";
import type { Pause } from "../trainer/micro-operations.ts";
import { PausingLearner } from "../trainer/pausing-learner.ts";
import { type PolicyLearner, runUpdate, type UpdateResult } from "../trainer/update.ts";
import { type DeviceParts, deviceParameters, openDevice } from "./device-parts.ts";
import { Exchange, MEETING_DEADLINE_MS } from "./exchange.ts";
import { CACHE_BYTES, planMemory } from "./memory-plan.ts";
import { PolicyWeights } from "./policy-weights.ts";
import type { EngineInfo, EngineOptions, ParityRequest, ScoreRequest, UpdateRequest } from "./protocol.ts";
import { SharedLearner } from "./shared-learner.ts";
import { DEFAULT_TRAIN_SHARE } from "./work-share.ts";

/** What training does besides: both are called for every micro-operation. */
export interface TrainingHooks {
  readonly record: RecordSpan;
  /** Between two of them other work goes on, except what needs the learner: another update, a probe. */
  readonly pause: Pause;
}

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
  /** None in an engine that only trains. */
  readonly generation: GenerationEngine | undefined;
  readonly #context: number;
  readonly #determinism: string | undefined;
  /** Peak memory that was expected before anything was loaded. */
  readonly predictedBytes: number;

  private constructor(
    options: EngineOptions,
    weights: PolicyWeights,
    device: DeviceParts,
    { record, pause }: TrainingHooks,
  ) {
    this.#weights = weights;
    this.#device = device;
    const parameters = deviceParameters(device, weights, options.storage);
    this.#parameters = parameters;
    const { config, store, base, reference } = weights;
    const { threads, noDecay, packing } = options;
    const { executor, predictedBytes } = planMemory(options);
    this.predictedBytes = predictedBytes;
    const goOn = async () => {
      await pause();
      this.#exchange?.assertGoesOn();
    };
    const { work = "both" } = options;
    const doesTrain = options.frozen === undefined && work !== "generate";
    const doesScore = work === "score";
    this.#context = options.context;
    this.#exchange = doesTrain ? openExchange(options, store, goOn) : undefined;
    if (doesTrain || doesScore) {
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
      const learner = doesTrain ? new PausingLearner(this.#learner, goOn) : undefined;
      this.#trainer =
        this.#exchange === undefined || learner === undefined
          ? learner
          : new SharedLearner(learner, store, this.#exchange, {
              threads,
              noDecay,
              record,
              pause: goOn,
              onStep: (slot) => parameters?.storeChanged(slot),
            });
    }
    this.generation = work === "train" || doesScore ? undefined : makeGeneration(options, weights, parameters);
    this.#determinism = options.deterministic && !doesScore ? this.#proveDeterminism() : undefined;
  }

  /**
   * Loads the model.
   * @throws AleError("model") when config and weights do not fit.
   */
  static open(options: EngineOptions, hooks: TrainingHooks): EngineCore {
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
    return new EngineCore(options, PolicyWeights.open(options, config), device, hooks);
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

  /**
   * Rejects when `abandon` is called for this attempt. What was computed on a GPU comes to the store at its end: from then on
   * any process can publish it, also one that is started after this one died.
   */
  async update({ job, attempt, members }: UpdateRequest): Promise<UpdateResult> {
    this.#exchange?.begin(attempt, members);
    const result = await runUpdate(trains(this.#trainer), this.#weights.store, job);
    this.#parameters?.toStore(result.slot);
    return result;
  }

  abandon(attempt: number): void {
    this.#exchange?.abandon(attempt);
  }

  publish(slot: Slot, version: number): void {
    this.#weights.store.publish(slot, version);
  }

  /** Writes the published weights, their optimizer state and the config. */
  save(folder: string): void {
    const { slot, version } = this.#published();
    this.#weights.save(folder, slot, version);
  }

  /** Others wrote to the store's copy of `slot`. */
  storeChanged(slot: Slot): void {
    this.#parameters?.storeChanged(slot);
  }

  /** @param expected what an engine that trains said; asked of this one's learner when omitted. */
  probeParity({ sequences, expected }: ParityRequest): ParityReport {
    const training = expected === undefined ? trains(this.#learner) : { logprobs: () => expected };
    return probeParity(generates(this.generation), training, sequences, this.#published().slot);
  }

  /** The training side of a probe that another engine makes. */
  probedLogprobs(sequences: readonly Int32Array[]): Float32Array[] {
    return trains(this.#learner).logprobs(probedSequences(sequences, this.#context), this.#published().slot);
  }

  /** Log-probabilities under the published weights, and the most likely tokens where they are asked for. */
  score({ sequences, options }: ScoreRequest): TeacherScores {
    const { temperature, top: count, vocabularySize } = options;
    const among = Math.min(vocabularySize, this.#weights.config.vocabularySize);
    const terms = count === 0 ? {} : { top: { count: Math.min(count, among), among } };
    const { slot } = this.#published();
    const { logprobs, topIds, topLogprobs } = trains(this.#learner).forward(sequences, slot, temperature, terms);
    if (terms.top === undefined) return { logprobs };
    const ids = topIds.map((row) => Int32Array.from(row));
    return { logprobs, top: { count: terms.top.count, ids, logprobs: topLogprobs } };
  }

  dispose(): void {
    this.generation?.dispose();
  }

  #published(): { slot: Slot; version: number } {
    const { published } = this.#weights.store;
    if (published === null) throw new AleError("engine", "the engine has no published weights");
    return published;
  }

  #proveDeterminism(): string {
    const { ok, detail } = generates(this.generation).selfTestDeterminism();
    if (!ok) {
      throw new AleError("engine", `this machine does not compute reproducibly: ${detail}`, {
        hint: "set deterministic = false, or engine.threads = 1",
      });
    }
    return detail;
  }
}

/** @throws AleError("internal") when asked of an engine that only trains. */
export function generates(generation: GenerationEngine | undefined): GenerationEngine {
  if (generation === undefined) throw new AleError("internal", "this engine only trains");
  return generation;
}

/** @throws AleError("internal") when asked of an engine that only generates. */
function trains<T>(part: T | undefined): T {
  if (part === undefined) throw new AleError("internal", "this engine only generates");
  return part;
}

function makeGeneration(
  options: EngineOptions,
  { config, store, base }: PolicyWeights,
  device: DeviceParameters | undefined,
): GenerationEngine {
  const { threads, slots, context, deterministic, afterSync, prefillTokens, frozen } = options;
  return new GenerationEngine(config, store, {
    ...{ threads, slots, context, base, device, afterSync, prefillTokens },
    rows: cacheRows(options, config),
    bitEqual: deterministic,
    alone: frozen !== undefined,
  });
}

function openExchange(options: EngineOptions, store: ParameterStore, pause: Pause): Exchange | undefined {
  const { pool, trainShare = DEFAULT_TRAIN_SHARE } = options;
  if (pool === undefined) return undefined;
  const { rank, size, exchangeFile } = pool;
  // Others may have to generate meanwhile.
  const deadlineMs = MEETING_DEADLINE_MS / trainShare;
  return Exchange.open(exchangeFile, { rank, size, length: store.layout.length, pause, deadlineMs });
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
