/** One growing token sequence and the answer being sampled for it. */

import { AleError } from "../../core/errors.ts";
import { firstTokens } from "../../core/generation.ts";
import type { Generation, SamplingOptions, TopLogprobs } from "../../core/ports.ts";
import { hashKey, uniformAt } from "../../core/rng.ts";
import type { CachedPrefix, HomeRow } from "./home-rows.ts";
import { planSampling, type SamplingPlan } from "./sampling.ts";

/** What `GenerationEngine.submit` takes. */
export interface GenerationRequest {
  readonly sequenceId: number;
  /** Tokens to append before sampling: a prompt or an observation. May be empty once the sequence has tokens. */
  readonly context: Int32Array;
  readonly sampling: SamplingOptions;
  /** Tokens to take instead of sampling; they are scored like sampled ones, and all of them are taken. */
  readonly forced?: Int32Array;
}

/** What a decode step gave a sequence. */
export interface SampledToken {
  readonly token: number;
  readonly logprob: number;
  readonly logprobT1: number;
  /** Weight version that sampled it. */
  readonly version: number;
  /** The most likely tokens there, as many as the plan asks for; copied. */
  readonly top?: { readonly ids: Int32Array; readonly logprobs: Float32Array };
}

/** An answer in the making; its tokens are the sequence's from `start` on. */
export class Answer {
  /** Position of the first sampled token. */
  readonly start: number;
  readonly plan: SamplingPlan;
  readonly forced: Int32Array | undefined;
  /** Most tokens this answer may have. */
  readonly limit: number;
  readonly #limitReason: "length" | "context";
  readonly #stopIds: ReadonlySet<number>;
  readonly #logprobs: Float32Array;
  readonly #logprobsT1: Float32Array;
  readonly #versions: Int32Array;
  readonly #kvOldest: Int32Array;
  readonly #top: TopLogprobs | undefined;
  #count = 0;

  /** @param room tokens the sequence may still grow by after the context, at least 1. */
  constructor(request: GenerationRequest, plan: SamplingPlan, start: number, room: number) {
    const wanted = request.forced?.length ?? request.sampling.maxTokens;
    this.start = start;
    this.plan = plan;
    this.forced = request.forced;
    this.limit = Math.min(wanted, room);
    this.#limitReason = wanted <= room ? "length" : "context";
    this.#stopIds = new Set(request.forced === undefined ? request.sampling.stopIds : []);
    this.#logprobs = new Float32Array(this.limit);
    this.#logprobsT1 = new Float32Array(this.limit);
    this.#versions = new Int32Array(this.limit);
    this.#kvOldest = new Int32Array(this.limit);
    const { topLogprobs: count } = plan;
    this.#top =
      count === 0
        ? undefined
        : { count, ids: new Int32Array(this.limit * count), logprobs: new Float32Array(this.limit * count) };
  }

  get count(): number {
    return this.#count;
  }

  /** Logprob of token `index`, if it was sampled. */
  logprobAt(index: number): number | undefined {
    return index < this.#count ? this.#logprobs[index] : undefined;
  }

  /** Records a token; returns why the answer ends with it, or `undefined` when it goes on. */
  add(sampled: SampledToken, kvOldest: number): Generation["stop"] | undefined {
    this.#logprobs[this.#count] = sampled.logprob;
    this.#logprobsT1[this.#count] = sampled.logprobT1;
    this.#versions[this.#count] = sampled.version;
    this.#kvOldest[this.#count] = kvOldest;
    if (this.#top !== undefined && sampled.top !== undefined) {
      this.#top.ids.set(sampled.top.ids, this.#count * this.#top.count);
      this.#top.logprobs.set(sampled.top.logprobs, this.#count * this.#top.count);
    }
    this.#count++;
    if (this.#stopIds.has(sampled.token)) return "stop";
    return this.#count === this.limit ? this.#limitReason : undefined;
  }

  finish(tokens: Int32Array, stop: Generation["stop"]): Generation {
    const generation = {
      ids: tokens.slice(this.start, this.start + this.#count),
      logprobs: this.#logprobs.slice(0, this.#count),
      logprobsT1: this.#logprobsT1.slice(0, this.#count),
      versions: this.#versions.slice(0, this.#count),
      kvOldest: this.#kvOldest.slice(0, this.#count),
      stop,
    };
    if (this.#top === undefined) return generation;
    const { count, ids, logprobs } = this.#top;
    const length = this.#count * count;
    return { ...generation, topLogprobs: { count, ids: ids.slice(0, length), logprobs: logprobs.slice(0, length) } };
  }
}

/** What a request gets whose context leaves no room for an answer. */
export const NO_ROOM: Generation = {
  ids: new Int32Array(0),
  logprobs: new Float32Array(0),
  logprobsT1: new Float32Array(0),
  versions: new Int32Array(0),
  kvOldest: new Int32Array(0),
  stop: "context",
};

export class Sequence {
  readonly id: number;
  /** Others may copy from its cache, and it from theirs. */
  readonly shares: boolean;
  /** The row its cache lives in between answers; none before its first request and after it lost it to others. */
  home: HomeRow | undefined;
  /** Its row of the decode batch while an answer is sampled, else -1. */
  seat = -1;
  /** Its row in the latest decode step it took part in. */
  lastSeat = 0;
  /** How many of its cached cells the home row has while it is seated. */
  cellsAtHome = 0;
  /** Tokens so far in the first `length` elements. */
  readonly tokens: Int32Array;
  length = 0;
  /** Cells of the cache that hold keys and values of the first `cached` tokens; at most `length − 1` between steps. */
  cached = 0;
  /** Oldest weight version that wrote one of these cells. */
  cacheVersion = -1;
  /** How many cells, from the first on, were computed under `cacheVersion`. */
  #pureCells = 0;
  /** How many cells, from the first on, were ever computed. */
  computedCells = 0;
  /** Cells of the first context that other sequences may share: all but its last token. */
  sharedCells = 0;
  answer: Answer | undefined;
  /** Length before the latest request. */
  #requestStart = 0;
  /** Length before the latest answer. */
  #answerStart = 0;
  readonly #noiseKey: readonly [number, number];
  /** Noise key of the answer in work, if its request named a seed. */
  #seedKey: readonly [number, number] | undefined;

  /** @param context most tokens it may have. */
  constructor(id: number, noiseKey: string, context: number, shares = true) {
    this.id = id;
    this.shares = shares;
    this.tokens = new Int32Array(context);
    this.#noiseKey = hashKey(noiseKey);
  }

  /** Opened by a probe of the engine itself: such sequences have negative ids. */
  get isProbe(): boolean {
    return this.id < 0;
  }

  /** Waits for its next request. */
  get isIdle(): boolean {
    return this.answer === undefined;
  }

  /** All but the last token are in the cache: the next decode step samples. */
  get ready(): boolean {
    return this.answer !== undefined && this.home !== undefined && this.cached === this.length - 1;
  }

  /** What its home row holds that others can use. */
  cachedPrefix(): CachedPrefix {
    const atHome = this.seat >= 0 ? this.cellsAtHome : this.cached;
    const cells = Math.min(this.#pureCells, atHome);
    return { tokens: this.tokens, cells, version: this.cacheVersion, sharedCells: this.sharedCells };
  }

  /** Notes that cells [from, to), the next ones, have been written under `version`. */
  cacheCells(from: number, to: number, version: number): void {
    if (from === 0) {
      this.cacheVersion = version;
      this.#pureCells = 0;
    }
    if (version === this.cacheVersion && this.#pureCells >= from) this.#pureCells = to;
    this.cacheVersion = Math.min(this.cacheVersion, version);
    this.computedCells = Math.max(this.computedCells, to);
    this.cached = to;
  }

  /** Noise of the next token; depends on the request's seed or else the noise key, and on the position, only. */
  uniform(): number {
    return uniformAt(this.#seedKey ?? this.#noiseKey, this.length);
  }

  /** Appends a request's context. The caller has checked that it fits. */
  begin(request: GenerationRequest, plan: SamplingPlan): void {
    const start = this.length + request.context.length;
    this.tokens.set(request.context, this.length);
    if (this.length === 0) this.sharedCells = request.context.length - 1;
    this.#requestStart = this.length;
    this.#answerStart = start;
    this.length = start;
    const { seed } = request.sampling;
    this.#seedKey = seed === undefined ? undefined : hashKey(`seed/${seed}`);
    this.answer = new Answer(request, plan, start, this.tokens.length - start);
  }

  /** Appends what a decode step gave; returns the answer when it ends with it. */
  append(sampled: SampledToken): Generation | undefined {
    const { version, token } = sampled;
    // The step wrote a cell, too, and the token attended to all of them.
    this.cacheCells(this.cached, this.cached + 1, version);
    this.tokens[this.length] = token;
    this.length++;
    const stop = this.answer?.add(sampled, this.cacheVersion);
    if (stop === undefined) return undefined;
    const generation = this.answer?.finish(this.tokens, stop);
    this.answer = undefined;
    return generation;
  }

  /** The token and logprob number `index` of the answer being sampled, if it has come so far. */
  sampled(index: number): { readonly id: number; readonly logprob: number } | undefined {
    const logprob = this.answer?.logprobAt(index);
    return logprob === undefined ? undefined : { id: this.tokens[this.#answerStart + index] as number, logprob };
  }

  /** Ends the answer being sampled after its first `count` tokens and returns it, or shortens the latest one to them. */
  cut(count: number): Generation | undefined {
    const generation = this.answer?.finish(this.tokens, "stop");
    this.answer = undefined;
    this.#shorten(Math.min(this.length, this.#answerStart + count));
    return generation && firstTokens(generation, count);
  }

  /** Takes back the latest request, as if it had never been made. */
  rollBack(): void {
    this.#shorten(this.#requestStart);
    if (this.length === 0) this.sharedCells = 0;
    this.answer = undefined;
  }

  #shorten(length: number): void {
    this.length = length;
    this.cached = Math.min(this.cached, Math.max(0, length - 1));
    this.#pureCells = Math.min(this.#pureCells, this.cached);
    this.computedCells = Math.min(this.computedCells, length);
  }
}

/**
 * Checks a request for a sequence of `length` tokens and returns how to sample for it.
 * @throws AleError("engine") naming the sequence and what is wrong.
 */
export function planRequest(request: GenerationRequest, length: number, vocabularySize: number): SamplingPlan {
  const { sequenceId, context, sampling, forced } = request;
  const refuse = (why: string): never => {
    throw new AleError("engine", `generation for sequence ${sequenceId}: ${why}`);
  };
  if (length + context.length === 0) refuse("the first context is empty");
  for (const [what, ids] of [
    ["context", context],
    ["forced", forced ?? []],
  ] as const) {
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] as number;
      if (id < 0 || id >= vocabularySize) {
        refuse(`${what} token ${i} is ${id}, but the vocabulary has ${vocabularySize} tokens`);
      }
    }
  }
  if (forced?.length === 0) refuse("there are no forced tokens");
  const plan = planSampling(sampling, vocabularySize);
  // What truncation leaves out has no log-probability to report.
  if (forced !== undefined && plan.variant !== "plain") refuse("forced tokens are scored under the whole distribution");
  return plan;
}
