/**
 * The generation engine: sequences stay open, with their context cached, from turn to turn. Each answer is prefilled in
 * the sequence's home row and sampled in the decode batch, which sequences join and leave at any step. What a sequence
 * computes depends on its own tokens, noise and weights only, never on its seat or its company: to the last bit with
 * `bitEqual`, else up to the rounding of cells that were copied, or computed again after they were given up.
 */

import { AleError } from "../../core/errors.ts";
import type { Generation } from "../../core/ports.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { DeviceParameters } from "../../models/device-parameters.ts";
import type { AdaptedBase } from "../../models/frozen-parameters.ts";
import type { ParameterStore, Publication } from "../../models/parameter-store.ts";
import { type ContextStats, Contexts, zeroContextStats } from "./contexts.ts";
import { DecodeBatch } from "./decode-batch.ts";
import { HomeRows } from "./home-rows.ts";
import { devicePlace, type GenerationPlace, processorPlace } from "./place.ts";
import { cellsFor, Prefiller } from "./prefiller.ts";
import { type DeterminismReport, testDeterminism } from "./self-test.ts";
import { type GenerationRequest, NO_ROOM, planRequest, Sequence } from "./sequence.ts";

export interface GenerationOptions {
  readonly threads: number;
  /** Rows of the largest decode step, at least 2. */
  readonly slots: number;
  /**
   * Sequences whose caches are kept between answers. Open sequences beyond that lose theirs, least recently used first, and
   * are prefilled again when they go on.
   */
  readonly rows: number;
  /** Longest sequence in tokens. */
  readonly context: number;
  /**
   * What to do at a turn boundary with a cache that older weights wrote: compute it again (default) or keep it
   * (DESIGN D8).
   */
  readonly afterSync?: "recompute" | "keep" | undefined;
  /**
   * What a sequence computes must not depend on the others to the last bit: only whole first contexts are copied, no cache is
   * given up, and `rows` is the most sequences that may be open; products are computed in the same way for every number of
   * rows, of which there are at least four. Default false.
   */
  readonly bitEqual?: boolean | undefined;
  /** Tokens that may be prefilled between two decode steps, in whole chunks of up to 512. Default 512. */
  readonly prefillTokens?: number | undefined;
  /** Nothing is trained meanwhile: threads may wait for each other a moment instead of sleeping. Default false. */
  readonly alone?: boolean | undefined;
  /** The frozen model whose adapters the store holds; without it the store holds all parameters. */
  readonly base?: AdaptedBase | undefined;
  /** The store's slots on the GPU that generates; the processor does when omitted. */
  readonly device?: DeviceParameters | undefined;
}

export interface Finished {
  readonly sequenceId: number;
  readonly generation: Generation;
}

export interface StepResult {
  readonly finished: readonly Finished[];
  /** Sequences that got a token. */
  readonly sampled: readonly number[];
  /** False when there was nothing to do. */
  readonly worked: boolean;
}

/** Work done since the engine was made. */
export interface GenerationStats extends ContextStats {
  decodeSteps: number;
  /** Tokens sampled or scored: rows that were not padding, over all steps. */
  decodeRows: number;
  decodeMs: number;
}

const PREFILL_TOKENS = 512;
/** What ONNX Runtime's GroupQueryAttention asks of head sizes. */
const HEAD_MULTIPLE = 16;

export class GenerationEngine {
  readonly config: DecoderConfig;
  readonly options: GenerationOptions;
  readonly stats: GenerationStats = { decodeSteps: 0, decodeRows: 0, decodeMs: 0, ...zeroContextStats() };
  readonly #store: ParameterStore;
  readonly #place: GenerationPlace;
  readonly #batch: DecodeBatch;
  readonly #prefiller: Prefiller;
  readonly #homes: HomeRows;
  readonly #sequences = new Map<number, Sequence>();
  readonly #contexts: Contexts;
  /** Sequences that only need a seat. */
  readonly #ready = new Set<Sequence>();
  #finished: Finished[] = [];
  /** Tokens prefilled since the latest decode step. */
  #prefilled = 0;

  /**
   * @param store must have published weights by the first `step`.
   * @throws AleError("engine") for options, AleError("model") for a model that the generation graphs cannot do.
   */
  constructor(config: DecoderConfig, store: ParameterStore, options: GenerationOptions) {
    const { slots, context, threads, rows, bitEqual = false } = options;
    if (slots < 2) throw new AleError("engine", `generation needs at least 2 slots, not ${slots}`);
    if (context < 2 || rows < 1) {
      throw new AleError("engine", `generation cannot work with context ${context} and ${rows} rows`);
    }
    if (config.headDim % HEAD_MULTIPLE !== 0) {
      throw new AleError(
        "model",
        `a head size of ${config.headDim} is not supported: it must be a multiple of ${HEAD_MULTIPLE}`,
      );
    }
    this.config = config;
    this.options = options;
    this.#store = store;
    // GPUs read four numbers at a time where a length is a multiple of four.
    const cells = options.device === undefined ? cellsFor(context) : 4 * Math.ceil(cellsFor(context) / 4);
    const { base, device, alone = false } = options;
    this.#place =
      device === undefined
        ? processorPlace(config, store, base, { cells, threads, alone })
        : devicePlace(config, device, base, cells);
    this.#batch = new DecodeBatch(config, this.#place, { slots, cells, threads, bitEqual });
    this.#prefiller = new Prefiller(config, this.#place, { context, cells, threads });
    this.#homes = new HomeRows(rows, slots, () => this.#place.makeCache(1));
    this.#contexts = new Contexts(this.#homes, this.#prefiller, this.stats, bitEqual);
  }

  /**
   * `noiseKey` names the sampling noise: same key and position, same noise. Negative ids are for probes, which use rows of
   * their own. With `shares` false nothing is copied from or to the sequence's cache.
   * @throws AleError("engine") when the id is open, or with `bitEqual` when no row is free.
   */
  open(sequenceId: number, noiseKey: string, { shares = true }: { readonly shares?: boolean } = {}): void {
    if (this.#sequences.has(sequenceId)) throw new AleError("engine", `sequence ${sequenceId} is already open`);
    const sequence = new Sequence(sequenceId, noiseKey, this.options.context, shares);
    if (this.options.bitEqual && !this.#contexts.house(sequence, this.#store.published?.version ?? -1)) {
      throw new AleError("engine", `all ${this.#homes.limit} generation rows are taken by open sequences`, {
        hint: "close finished sequences, or allow fewer episodes at once",
      });
    }
    this.#sequences.set(sequenceId, sequence);
  }

  /**
   * Asks for an answer; `step` delivers it. A context that leaves no room for an answer is not appended and gives an
   * empty answer with stop `"context"`. Greedy answers report log-probabilities at temperature 1.
   * @throws AleError("engine") for an unknown or busy sequence, an id outside the vocabulary, bad sampling options.
   */
  submit(request: GenerationRequest): void {
    const sequence = this.#open(request.sequenceId);
    if (sequence.answer !== undefined) {
      throw new AleError("engine", `sequence ${sequence.id} is still waiting for its last answer`);
    }
    const plan = planRequest(request, sequence.length, this.config.vocabularySize);
    if (sequence.length + request.context.length >= this.options.context) {
      this.#finished.push({ sequenceId: sequence.id, generation: NO_ROOM });
      return;
    }
    sequence.begin(request, plan);
    const stale = sequence.cached > 0 && sequence.cacheVersion !== this.#published().version;
    if (stale && this.options.afterSync !== "keep") this.#contexts.outdate(sequence);
    if (sequence.ready) this.#ready.add(sequence);
    else this.#contexts.add(sequence);
  }

  /** Takes back a request whose answer was not delivered yet; the sequence is as before it. Otherwise does nothing. */
  cancel(sequenceId: number): void {
    const sequence = this.#sequences.get(sequenceId);
    if (sequence === undefined) return;
    this.#contexts.delete(sequence);
    this.#ready.delete(sequence);
    if (sequence.seat >= 0) this.#batch.unseat(sequence, false);
    const undelivered = this.#finished.find((finished) => finished.sequenceId === sequenceId);
    this.#finished = this.#finished.filter((finished) => finished !== undelivered);
    if (sequence.answer !== undefined || (undelivered?.generation.ids.length ?? 0) > 0) sequence.rollBack();
  }

  /** Whether there is an answer to compute or to deliver. */
  get busy(): boolean {
    return this.#batch.taken > 0 || this.#ready.size > 0 || this.#contexts.waiting > 0 || this.#finished.length > 0;
  }

  /** Token `index` of the answer a sequence is being sampled, with its logprob, once it is there. */
  sampledToken(sequenceId: number, index: number): { readonly id: number; readonly logprob: number } | undefined {
    return this.#sequences.get(sequenceId)?.sampled(index);
  }

  /**
   * Ends the answer being sampled after its first `count` tokens; the next `step` delivers it. An answer that was delivered
   * already is shortened to them, so that the sequence goes on from there. What was sampled beyond is forgotten.
   */
  cut(sequenceId: number, count: number): void {
    const sequence = this.#sequences.get(sequenceId);
    if (sequence === undefined) return;
    this.#contexts.delete(sequence);
    this.#ready.delete(sequence);
    if (sequence.seat >= 0) this.#batch.unseat(sequence, true);
    const generation = sequence.cut(count);
    if (generation !== undefined) this.#finished.push({ sequenceId, generation });
  }

  /** Frees a sequence's row. Safe to call twice. */
  close(sequenceId: number): void {
    const sequence = this.#sequences.get(sequenceId);
    if (sequence === undefined) return;
    this.cancel(sequenceId);
    this.#sequences.delete(sequenceId);
    this.#contexts.leave(sequence);
  }

  /**
   * One micro-operation: a chunk of prefill or a decode step of all sequences that have a seat. Contexts go first, up to
   * `prefillTokens` between two decode steps, so that a long one does not keep the others from their tokens.
   * @throws AleError("engine") naming sequence, seat and step when the model computes NaN; that request is taken back.
   */
  step(): StepResult {
    const decoding = this.#batch.taken > 0 || this.#ready.size > 0;
    const mayPrefill = !decoding || this.#prefilled < (this.options.prefillTokens ?? PREFILL_TOKENS);
    const prefilled = this.#contexts.waiting > 0 && mayPrefill && this.#prefill();
    const sampled = prefilled ? [] : this.#decode();
    const finished = this.#finished;
    this.#finished = [];
    return { finished, sampled, worked: prefilled || sampled.length > 0 || finished.length > 0 };
  }

  /**
   * Steps until `pending` is empty: the sequences in it whose answers are awaited. `onAnswer` is called with each of
   * them, taken out of `pending`, and may submit again and put it back. `onDecode` is called after each decode step
   * with the sequences it gave a token. Answers of other sequences are kept for `step`.
   */
  drain(
    pending: Set<number>,
    onAnswer: (finished: Finished) => void,
    onDecode: (sampled: readonly number[]) => void = () => {},
  ): void {
    const foreign: Finished[] = [];
    try {
      while (pending.size > 0) {
        const { finished, worked, sampled } = this.step();
        if (sampled.length > 0) onDecode(sampled);
        if (!worked) throw new AleError("internal", `nobody computes answers for sequences ${[...pending].join(", ")}`);
        for (const item of finished) {
          if (pending.delete(item.sequenceId)) onAnswer(item);
          else foreign.push(item);
        }
      }
    } finally {
      this.#finished.push(...foreign);
    }
  }

  /** Logits [vocabulary] behind the sequence's latest token, if the latest decode step gave it one; shared memory. */
  logits(sequenceId: number): Float32Array {
    return this.#batch.logits(this.#open(sequenceId).lastSeat);
  }

  /** Row of the decode batch a sequence has at present, or -1. */
  seatOf(sequenceId: number): number {
    return this.#open(sequenceId).seat;
  }

  /** A copy of an idle sequence's cache: keys and values of each layer in turn, [kvHeads, cells, headDim]. */
  readCache(sequenceId: number): readonly Float32Array[] {
    const { home, cached } = this.#open(sequenceId);
    return home?.block.readCells(0, cached) ?? [];
  }

  /** Checks on this machine, with this thread count and the published weights, what `deterministic = true` relies on. */
  selfTestDeterminism(): DeterminismReport {
    return testDeterminism(this);
  }

  /** Decode steps always have `slots` rows from now on. */
  fixBatchSize(): void {
    this.#batch.fixSize();
  }

  /** Frees graphs and caches; the engine must not be used afterwards. */
  dispose(): void {
    this.#sequences.clear();
    this.#contexts.clear();
    this.#ready.clear();
    this.#finished = [];
    this.#homes.dispose();
    this.#prefiller.release();
    this.#batch.release();
    this.#place.release();
  }

  #open(sequenceId: number): Sequence {
    const sequence = this.#sequences.get(sequenceId);
    if (sequence === undefined) throw new AleError("engine", `sequence ${sequenceId} is not open`);
    return sequence;
  }

  #published(): Publication {
    const { published } = this.#store;
    if (published === null) throw new AleError("engine", "no weights have been published yet");
    return published;
  }

  /** False when nothing had to be computed. */
  #prefill(): boolean {
    const { computed, ready } = this.#contexts.step(this.#published());
    for (const sequence of ready) this.#ready.add(sequence);
    this.#prefilled += computed;
    return computed > 0;
  }

  /** Returns the sequences that got a token. */
  #decode(): number[] {
    for (const sequence of this.#ready) {
      if (this.#batch.full) break;
      this.#ready.delete(sequence);
      this.#batch.seat(sequence);
    }
    this.#prefilled = 0;
    if (this.#batch.taken === 0) return [];
    const started = performance.now();
    const { slot, version } = this.#published();
    const active = this.#batch.run(slot);
    this.stats.decodeSteps++;
    this.stats.decodeRows += active.length;
    // All rows are checked before any is taken: after an error the step is simply run again for the others.
    for (const sequence of active) this.#checkFinite(sequence, version);
    for (const sequence of active) this.#take(sequence, version);
    this.stats.decodeMs += performance.now() - started;
    return active.map(({ id }) => id);
  }

  /** Reads a row's outputs into its sequence and files the answer when it ends. */
  #take(sequence: Sequence, version: number): void {
    const { seat, answer } = sequence;
    const { sampling } = this.#batch;
    const count = answer?.plan.topLogprobs ?? 0;
    const generation = sequence.append({
      token: sampling.tokens[seat] as number,
      logprob: sampling.logprobs[seat] as number,
      logprobT1: sampling.logprobsT1[seat] as number,
      version,
      ...(count > 0 ? { top: sampling.top(seat, count) } : {}),
    });
    if (generation === undefined) return;
    this.#batch.unseat(sequence, true);
    this.#finished.push({ sequenceId: sequence.id, generation });
  }

  #checkFinite(sequence: Sequence, version: number): void {
    const { id, seat, length } = sequence;
    const { logprobs, logprobsT1 } = this.#batch.sampling;
    const values = [logprobs[seat] as number, logprobsT1[seat] as number];
    if (values.every(Number.isFinite)) return;
    this.cancel(id);
    const where = `sequence ${id} (decode row ${seat}, position ${length})`;
    const when = `decode step ${this.stats.decodeSteps} under weight version ${version}`;
    throw new AleError("engine", `the model gave ${where} a log-probability of ${values.join(" / ")} in ${when}`, {
      hint: "the weights hold NaN or infinity, or have grown too large: resume from a checkpoint with a lower optimizer.lr",
    });
  }
}
