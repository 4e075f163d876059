/** Messages between the control process and an engine; they travel by structured clone over Bun's IPC channel. */

import type { MatrixStorage } from "../core/matrix-storage.ts";
import type { Generation, SamplingOptions } from "../core/ports.ts";
import type { ScoreOptions, TeacherScores } from "../core/teacher.ts";
import type { Spans } from "../core/timeline.ts";
import type { LoraConfig } from "../models/lora.ts";
import type { Slot } from "../models/parameter-store.ts";
import type { QuantizationScheme } from "../models/quantization.ts";
import type { ContextStats } from "../policy/generation/contexts.ts";
import type { ParityReport } from "../policy/generation/parity.ts";
import type { Packing } from "../trainer/micro-batches.ts";
import type { NoDecay } from "../trainer/optimizer.ts";
import type { UpdateJob, UpdateResult } from "../trainer/update.ts";
import type { EngineWork, WorkTimes } from "./pool-placement.ts";

/** Adapters on a frozen model. */
export interface LoraStart {
  readonly config: LoraConfig;
  /** Seed of their first values. */
  readonly seed: number;
  /** Folder of the frozen model. */
  readonly base: string;
  /** PEFT folder to start from; fresh adapters when omitted. */
  readonly adapter?: string;
}

/** Where an engine's weights come from. With adapters, a checkpoint holds those and `folder` is their base. `reopen` continues with the published weights of an existing store file. */
export type WeightSource =
  | { readonly kind: "folder"; readonly folder: string }
  | { readonly kind: "checkpoint"; readonly folder: string; readonly version: number }
  | { readonly kind: "random"; readonly seed: number }
  | { readonly kind: "reopen" };

export interface EngineOptions {
  /** Where to compute, as `parseDevice` reads it. Default `cpu`. */
  readonly device?: string;
  /** What to do when the device cannot be used: fail (default), or compute on the processor and say so. */
  readonly fallback?: "none" | "cpu";
  /** `config.json` of the policy, as parsed JSON. */
  readonly modelConfig: Readonly<Record<string, unknown>>;
  readonly weights: WeightSource;
  /** Train adapters and leave the model as it is. */
  readonly lora?: LoraStart;
  /** Train a value head beside the policy. */
  readonly valueHead?: boolean;
  /** Folder of the frozen model that a divergence is measured from; with adapters their base needs no mention. */
  readonly reference?: string;
  /** Whether that divergence is over the whole vocabulary. Default false. */
  readonly divergence?: boolean;
  /** What weight decay leaves alone. */
  readonly noDecay?: readonly NoDecay[];
  /** Form of the frozen model's matrices; needs `lora` or `frozen`. */
  readonly quantization?: QuantizationScheme;
  /** How a GPU keeps weight matrices, see `DeviceParameters`. Default float32. */
  readonly storage?: MatrixStorage;
  /** Train nothing: the model of this folder, kept once, without gradients and optimizer state. */
  readonly frozen?: { readonly folder: string };
  /**
   * One that only trains has no caches and no decode batch, one that only generates no gradients; one that scores has neither
   * and is `frozen`. Default `both`.
   */
  readonly work?: EngineWork;
  /** File of the parameter store, which all engines of a pool map. */
  readonly storeFile: string;
  /** Present when the engine is one of several that train together. */
  readonly pool?: PoolPlace;
  readonly threads: number;
  /** Rows of a decode block. */
  readonly slots: number;
  /** Sequences that may be open at once. */
  readonly sequences: number;
  /** Memory for caches between answers, in bytes; sequences that do not fit are prefilled again. Default 4 GB. */
  readonly cacheBytes?: number;
  /** See `GenerationOptions`. */
  readonly afterSync?: "recompute" | "keep";
  readonly prefillTokens?: number;
  /** Longest sequence in tokens. */
  readonly context: number;
  /** Tokens per forward/backward pass. */
  readonly microBatchTokens: number;
  /** How gradients are computed, see `Learner`; `auto`, the default, chooses by the size of the model. */
  readonly executor?: "auto" | "graph" | "layers";
  /** Whether several sequences share a row of a training batch, see `planMicroBatches`; not on GPUs. Default `off`. */
  readonly packing?: Packing;
  /** Optimizer steps of an update: one reads and writes two slots of the store, more use all three. Default more. */
  readonly updatesPerStep?: number;
  /** Share of its time that training gets while there is something to generate, see `WorkShare`. Default a half. */
  readonly trainShare?: number;
  readonly deterministic: boolean;
  /** Record when each micro-operation began and ended. Default false. */
  readonly timeline?: boolean;
}

/** Which of the engines of a pool an engine is. */
export interface PoolPlace {
  readonly rank: number;
  readonly size: number;
  /** File through which the engines share an update. */
  readonly exchangeFile: string;
}

/** What each request asks for, by type; `id` pairs it with its reply. */
export interface EngineCalls {
  start: { readonly request: EngineOptions; readonly reply: EngineInfo };
  generate: { readonly request: GenerateRequest; readonly reply: Generation };
  update: { readonly request: UpdateRequest; readonly reply: UpdateResult };
  /**
   * Others have written a slot of the store, or are going to write the ones that are not published: the reply says that no
   * micro-operation reads one of those, and that the next one sees what was written.
   */
  settle: { readonly request: { readonly written?: Slot }; readonly reply: WorkTimes };
  publish: {
    readonly request: { readonly slot: Slot; readonly version: number };
    readonly reply: { version: number };
  };
  save: { readonly request: { readonly folder: string }; readonly reply: Record<string, never> };
  probeParity: { readonly request: ParityRequest; readonly reply: ParityReport };
  /** What training says about sequences that another engine probes. */
  probedLogprobs: { readonly request: ProbedRequest; readonly reply: readonly Float32Array[] };
  /** What the model of an engine that scores says about sequences. */
  score: { readonly request: ScoreRequest; readonly reply: TeacherScores };
  stats: { readonly request: Record<string, never>; readonly reply: EngineStats };
  stop: { readonly request: Record<string, never>; readonly reply: Record<string, never> };
}

export interface GenerateRequest {
  readonly sequence: number;
  readonly context: Int32Array;
  readonly sampling: SamplingOptions;
  /** Send each token as it is sampled; the reply still holds them all. */
  readonly stream: boolean;
}

/** All engines that take part get the same request. */
export interface UpdateRequest {
  readonly job: UpdateJob;
  /** Names what they do together; from 1. */
  readonly attempt: number;
  /** Ranks of those that take part, in order; all of the pool when omitted. */
  readonly members?: readonly number[];
}

export interface ScoreRequest {
  readonly sequences: readonly Int32Array[];
  readonly options: ScoreOptions;
}

export interface ProbedRequest {
  readonly sequences: readonly Int32Array[];
}

export interface ParityRequest extends ProbedRequest {
  /** What `probedLogprobs` of an engine that trains said; omitted where the engine trains itself. */
  readonly expected?: readonly Float32Array[];
}

export interface EngineInfo {
  /** Parameters of the model, and of what is trained. */
  readonly parameters: number;
  readonly trainable: number;
  readonly version: number;
  /** Optimizer steps the weights have had. */
  readonly optimizerStep: number;
  readonly runtime: string;
  /** Where the engine computes; with `fallback`, why not on the device it was told to. */
  readonly device: string;
  readonly fallback?: string;
  /** Result of the determinism self-test; present when it was asked for. */
  readonly determinism?: string;
}

/** What an engine did since it was last asked; times in ms. They add up to `wallMs` with loading, saving and probing. */
export interface EngineStats {
  readonly wallMs: number;
  readonly trainMs: number;
  readonly generateMs: number;
  /** Waiting for other engines in the middle of an update, with nothing to generate. */
  readonly syncMs: number;
  /** Neither training nor generation had work. */
  readonly idleMs: number;
  readonly sampledTokens: number;
  /** Resident memory: the most there was since the process started, less what there was then; and what was expected. */
  readonly peakBytes: number;
  readonly predictedBytes: number;
  /** What caching contexts cost. */
  readonly contexts: ContextStats;
  /** What happened when, where `EngineOptions.timeline` asks for it. */
  readonly spans?: Spans;
}

export type EngineCall = keyof EngineCalls;

export type ToEngine =
  | {
      [K in EngineCall]: { readonly type: K; readonly id: number; readonly body: EngineCalls[K]["request"] };
    }[EngineCall]
  | { readonly type: "open"; readonly sequence: number; readonly noiseKey: string }
  | { readonly type: "cancel"; readonly sequence: number }
  /** Ends the answer being sampled, or shortens the latest one, to `count` tokens. */
  | { readonly type: "cut"; readonly sequence: number; readonly count: number }
  | { readonly type: "close"; readonly sequence: number }
  /** Ends an attempt at an update that another engine cannot finish. */
  | { readonly type: "abandon"; readonly attempt: number };

export type FromEngine =
  | { readonly type: "reply"; readonly id: number; readonly body: EngineCalls[EngineCall]["reply"] }
  /** The next token of an answer that was asked for with `stream`; `id` is the request's. */
  | { readonly type: "token"; readonly id: number; readonly token: number; readonly logprob: number }
  | {
      readonly type: "error";
      readonly id: number;
      readonly code: string;
      readonly message: string;
      readonly hint?: string;
    };
