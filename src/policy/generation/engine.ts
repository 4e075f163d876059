/**
 * The generation engine: sequences own rows of decode blocks for as long as they are open, so their context stays cached
 * from turn to turn. A decode step always runs a whole block at its fixed shape; rows that are not sampling are fed
 * padding into a cell nobody reads. A row's arithmetic therefore never depends on what the other rows do.
 */

import { AleError } from "../../core/errors.ts";
import type { Generation } from "../../core/ports.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { ParameterStore, Publication } from "../../models/parameter-store.ts";
import { DecodeBlock, Decoder } from "./decoder.ts";
import { cellsFor, Prefiller } from "./prefiller.ts";
import { type Block, freeCell, RowPool } from "./rows.ts";
import { type DeterminismReport, testDeterminism } from "./self-test.ts";
import { checkRequest, type GenerationRequest, NO_ROOM, Sequence } from "./sequence.ts";
import { SlotWeights } from "./weight-values.ts";

export interface GenerationOptions {
  readonly threads: number;
  /** Rows of a decode block, at least 2: products with a single row are computed differently from batched ones. */
  readonly slots: number;
  readonly maxBlocks: number;
  /** Longest sequence in tokens. */
  readonly context: number;
  /**
   * What to do at a turn boundary with a cache that older weights wrote: compute it again (default) or keep it
   * (DESIGN D8).
   */
  readonly afterSync?: "recompute" | "keep";
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

export interface GenerationStats {
  decodeSteps: number;
  /** Tokens sampled or scored: rows that were not padding, over all steps. */
  decodeRows: number;
  prefillTokens: number;
  /** First contexts that were copied from another row instead of computed. */
  copiedPrefixes: number;
  decodeMs: number;
  prefillMs: number;
}

/** A block with rows to run is passed over at most this often in favour of fuller ones. */
const LONGEST_WAIT = 64;

export class GenerationEngine {
  readonly config: DecoderConfig;
  readonly options: GenerationOptions;
  readonly stats: GenerationStats = {
    decodeSteps: 0,
    decodeRows: 0,
    prefillTokens: 0,
    copiedPrefixes: 0,
    decodeMs: 0,
    prefillMs: 0,
  };
  readonly #store: ParameterStore;
  readonly #weights: SlotWeights;
  readonly #decoder: Decoder;
  readonly #prefiller: Prefiller;
  readonly #pool: RowPool;
  readonly #sequences = new Map<number, Sequence>();
  /** Sequences whose context is not cached yet, in the order of their requests. */
  readonly #waiting = new Set<Sequence>();
  #finished: Finished[] = [];

  /**
   * @param store must have published weights by the first `step`.
   * @throws AleError("engine") for options or a model that the generation graphs cannot do.
   */
  constructor(config: DecoderConfig, store: ParameterStore, options: GenerationOptions) {
    const { slots, context, threads, maxBlocks } = options;
    if (slots < 2) throw new AleError("engine", `generation needs at least 2 slots, not ${slots}`);
    if (context < 2 || maxBlocks < 1) {
      throw new AleError("engine", `generation cannot work with context ${context} and ${maxBlocks} blocks`);
    }
    this.config = config;
    this.options = options;
    this.#store = store;
    this.#weights = new SlotWeights(config, store);
    const cells = cellsFor(context);
    this.#decoder = new Decoder(config, store, this.#weights, { rows: slots, cells, threads });
    this.#prefiller = new Prefiller(config, store, this.#weights, { context, cells, threads });
    this.#pool = new RowPool(maxBlocks, () => new DecodeBlock(this.#decoder));
  }

  /**
   * Claims a row. `noiseKey` names the sampling noise: same key and position, same noise. Negative ids are for probes;
   * they may use one block more than `maxBlocks`.
   * @throws AleError("engine") when no row is free or the id is open.
   */
  open(sequenceId: number, noiseKey: string): void {
    if (this.#sequences.has(sequenceId)) throw new AleError("engine", `sequence ${sequenceId} is already open`);
    const row = this.#pool.claim(sequenceId < 0);
    const sequence = new Sequence(sequenceId, noiseKey, row, this.options.context);
    row.sequence = sequence;
    this.#pool.forget(row);
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
    checkRequest(request, sequence.length, this.config.vocabularySize);
    if (sequence.length + request.context.length >= this.options.context) {
      this.#finished.push({ sequenceId: sequence.id, generation: NO_ROOM });
      return;
    }
    sequence.begin(request);
    const stale = sequence.cached > 0 && sequence.cacheVersion !== this.#published().version;
    if (stale && this.options.afterSync !== "keep") {
      this.#pool.forget(sequence.row);
      sequence.cached = 0;
    }
    if (!sequence.ready) this.#waiting.add(sequence);
  }

  /** Takes back a request whose answer was not delivered yet; the sequence is as before it. Otherwise does nothing. */
  cancel(sequenceId: number): void {
    const sequence = this.#sequences.get(sequenceId);
    if (sequence === undefined) return;
    this.#waiting.delete(sequence);
    const undelivered = this.#finished.find((finished) => finished.sequenceId === sequenceId);
    this.#finished = this.#finished.filter((finished) => finished !== undelivered);
    if (sequence.answer !== undefined || (undelivered?.generation.ids.length ?? 0) > 0) sequence.rollBack();
    if (sequence.cached < (sequence.row.prefix?.cells ?? 0)) this.#pool.forget(sequence.row);
  }

  /** Frees a sequence's row. Safe to call twice. */
  close(sequenceId: number): void {
    const sequence = this.#sequences.get(sequenceId);
    if (sequence === undefined) return;
    this.cancel(sequenceId);
    this.#sequences.delete(sequenceId);
    this.#pool.release(sequence.row);
  }

  /**
   * One micro-operation: a chunk of prefill if a context waits, else a decode step of the block with the most rows to run.
   * @throws AleError("engine") naming sequence, block and step when the model computes NaN; that request is taken back.
   */
  step(): StepResult {
    const prefilled = this.#waiting.size > 0 && this.#prefill();
    const block = prefilled ? undefined : this.#busiest();
    const sampled = block === undefined ? [] : this.#decode(block);
    const finished = this.#finished;
    this.#finished = [];
    return { finished, sampled, worked: prefilled || block !== undefined || finished.length > 0 };
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

  /** Logits [vocabulary] of the sequence's latest token, if the latest decode step was one of its block; shared memory. */
  logits(sequenceId: number): Float32Array {
    const { row } = this.#open(sequenceId);
    return row.block.decode.rowLogits(row.index);
  }

  /** A copy of the sequence's cache: keys and values of each layer in turn, [kvHeads, cells, headDim]. */
  readCache(sequenceId: number): readonly Float32Array[] {
    const { row, cached } = this.#open(sequenceId);
    return row.block.decode.cache.readCells(row.index, cached);
  }

  /** Block and row a sequence lives in. */
  place(sequenceId: number): { readonly block: number; readonly row: number } {
    const { row } = this.#open(sequenceId);
    return { block: row.block.index, row: row.index };
  }

  /** Checks on this machine, with this thread count and the published weights, what `deterministic = true` relies on. */
  selfTestDeterminism(): DeterminismReport {
    return testDeterminism(this);
  }

  /** Makes the next contexts be computed even where an equal one could be copied. */
  forgetPrefixes(): void {
    this.#pool.forgetAll();
  }

  /** Frees graphs and caches; the engine must not be used afterwards. */
  dispose(): void {
    this.#sequences.clear();
    this.#waiting.clear();
    this.#finished = [];
    this.#pool.dispose();
    this.#prefiller.release();
    this.#decoder.release();
    this.#weights.release();
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

  /** Serves waiting sequences in order until one chunk was computed; false when copies were all it took. */
  #prefill(): boolean {
    const started = performance.now();
    const { slot, version } = this.#published();
    let computed = false;
    for (const sequence of this.#waiting) {
      const shared = sequence.cached === 0 ? this.#copyPrefix(sequence, version) : false;
      if (!shared && computed) break;
      if (!sequence.ready) {
        if (computed) break;
        this.#prefillChunk(sequence, slot, version);
        computed = true;
      }
      if (sequence.ready) this.#waiting.delete(sequence);
    }
    this.stats.prefillMs += performance.now() - started;
    return computed;
  }

  #copyPrefix(sequence: Sequence, version: number): boolean {
    const cells = sequence.sharedCells;
    if (cells === 0) return false;
    const source = this.#pool.find(prefixKey(sequence), version);
    if (source === undefined) return false;
    const { row } = sequence;
    row.block.decode.cache.copyCells(row.index, source.block.decode.cache, source.index, cells);
    sequence.cached = cells;
    sequence.cacheVersion = version;
    this.#pool.remember(row, { key: prefixKey(sequence), version, cells });
    this.stats.copiedPrefixes++;
    return true;
  }

  /** The first context is computed on its own, so that its cells are the same whatever follows it. */
  #prefillChunk(sequence: Sequence, slot: Publication["slot"], version: number): void {
    const { row, cached, sharedCells } = sequence;
    const end = cached < sharedCells ? sharedCells : sequence.length - 1;
    if (cached === 0) sequence.cacheVersion = version;
    const { cache } = row.block.decode;
    const taken = this.#prefiller.run(cache, row.index, slot, sequence.tokens, cached, end);
    sequence.cached += taken;
    this.stats.prefillTokens += taken;
    // A context of which some chunk was computed under older weights is nobody else's.
    if (sequence.cached === sharedCells && sequence.cacheVersion === version) {
      this.#pool.remember(row, { key: prefixKey(sequence), version, cells: sharedCells });
    }
  }

  /** The block with the most rows to run, unless one has been passed over too often. */
  #busiest(): Block | undefined {
    let busiest: Block | undefined;
    let most = 0;
    for (const block of this.#pool.blocks) {
      const ready = block.readyRows;
      if (ready === 0) continue;
      block.waited++;
      if (block.waited > LONGEST_WAIT) {
        busiest = block;
        break;
      }
      if (ready > most) {
        most = ready;
        busiest = block;
      }
    }
    if (busiest !== undefined) busiest.waited = 0;
    return busiest;
  }

  /** Returns the sequences that got a token. */
  #decode(block: Block): number[] {
    const started = performance.now();
    const { slot, version } = this.#published();
    const active = fillInputs(block);
    block.decode.run(slot);
    this.stats.decodeSteps++;
    this.stats.decodeRows += active.length;
    // All rows are checked before any is taken: after an error the step is simply run again for the others.
    for (const sequence of active) this.#checkFinite(block, sequence, version);
    for (const sequence of active) this.#take(block, sequence, version);
    this.stats.decodeMs += performance.now() - started;
    return active.map(({ id }) => id);
  }

  /** Reads a row's outputs into its sequence and files the answer when it ends. */
  #take(block: Block, sequence: Sequence, version: number): void {
    const { index } = sequence.row;
    const { tokens, logprobs, logprobsT1 } = block.decode.outputs;
    const generation = sequence.append(
      tokens[index] as number,
      logprobs[index] as number,
      logprobsT1[index] as number,
      version,
    );
    if (generation !== undefined) this.#finished.push({ sequenceId: sequence.id, generation });
  }

  #checkFinite(block: Block, sequence: Sequence, version: number): void {
    const { id, row, length } = sequence;
    const { logprobs, logprobsT1 } = block.decode.outputs;
    const values = [logprobs[row.index] as number, logprobsT1[row.index] as number];
    if (values.every(Number.isFinite)) return;
    this.cancel(id);
    const where = `sequence ${id} (block ${block.index}, row ${row.index}, position ${length})`;
    const when = `decode step ${this.stats.decodeSteps} under weight version ${version}`;
    throw new AleError("engine", `the model gave ${where} a log-probability of ${values.join(" / ")} in ${when}`, {
      hint: "the weights hold NaN or infinity, or have grown too large: resume from a checkpoint with a lower optimizer.lr",
    });
  }
}

function prefixKey(sequence: Sequence): string {
  return sequence.tokens.subarray(0, sequence.sharedCells).join(" ");
}

/** Writes a block's inputs and returns the sequences that sample in this step. */
function fillInputs(block: Block): Sequence[] {
  const { inputs } = block.decode;
  const active: Sequence[] = [];
  for (const row of block.rows) {
    const { index, sequence } = row;
    inputs.lengths[index] = freeCell(row);
    const answer = sequence?.answer;
    if (sequence === undefined || answer === undefined || !sequence.ready) {
      inputs.tokens[index] = 0;
      inputs.greedy[index] = 0;
      inputs.forced[index] = 0;
      continue;
    }
    const { greedy, temperature } = answer.sampling;
    inputs.tokens[index] = sequence.tokens[sequence.length - 1] as number;
    inputs.greedy[index] = greedy ? 1 : 0;
    inputs.inverseTemperature[index] = greedy ? 1 : 1 / temperature;
    inputs.forced[index] = answer.forced?.[answer.count] ?? -1;
    inputs.uniform[index] = greedy ? 0.5 : sequence.uniform();
    active.push(sequence);
  }
  return active;
}
