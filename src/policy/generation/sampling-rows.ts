/** Inputs and outputs of sampling, one row per seat of the decode batch. */

import { allocateBytes, allocateFloat32, allocateInt32 } from "../../runtime/memory.ts";
import { float32Value, int32Value, Value } from "../../runtime/value.ts";
import { logprobAt, type SamplingPlan, sampleTruncated } from "./sampling.ts";
import { candidateCount, reportedCount, type SamplingVariant } from "./sampling-graph.ts";
import type { Sequence } from "./sequence.ts";

/** What sampling reads of a sequence. */
export type SampledSequence = Pick<Sequence, "answer" | "tokens" | "length" | "uniform">;

/** Whose tokens a row of `seen` holds, and how many of them. */
interface Seen {
  readonly sequence: SampledSequence;
  readonly start: number;
  count: number;
}

/** Inputs and outputs of the part of a graph that samples. */
export interface SamplingValues {
  readonly feeds: Readonly<Record<string, Value>>;
  readonly fetches: Readonly<Record<string, Value>>;
}

export class SamplingRows {
  /** Outputs of the latest step, per seat. */
  readonly tokens: Int32Array;
  /** Log-probability of the token under the distribution it was sampled from. */
  readonly logprobs: Float32Array;
  readonly logprobsT1: Float32Array;
  readonly #slots: number;
  readonly #vocabulary: number;
  readonly #uniform: Float32Array;
  readonly #inverseTemperature: Float32Array;
  readonly #greedy: Uint8Array;
  readonly #forced: Int32Array;
  readonly #truncate: Uint8Array;
  readonly #topK: Int32Array;
  readonly #topP: Float32Array;
  readonly #minP: Float32Array;
  readonly #undecided: Uint8Array;
  readonly #topIds: Int32Array;
  readonly #topLogprobs: Float32Array;
  readonly #penalty: Float32Array;
  /** [slots, vocabulary], made when the first penalty is asked for: 1 for tokens of the seat's sequence. */
  #seen: Uint8Array | undefined;
  readonly #seenBy: (Seen | undefined)[];

  constructor(slots: number, vocabulary: number) {
    this.#slots = slots;
    this.#vocabulary = vocabulary;
    this.tokens = allocateInt32(slots);
    this.logprobs = allocateFloat32(slots);
    this.logprobsT1 = allocateFloat32(slots);
    this.#uniform = allocateFloat32(slots).fill(0.5);
    this.#inverseTemperature = allocateFloat32(slots).fill(1);
    this.#greedy = allocateBytes(slots);
    this.#forced = allocateInt32(slots);
    this.#truncate = allocateBytes(slots);
    this.#topK = allocateInt32(slots);
    this.#topP = allocateFloat32(slots);
    this.#minP = allocateFloat32(slots);
    this.#undecided = allocateBytes(slots);
    this.#topIds = allocateInt32(slots * reportedCount(vocabulary));
    this.#topLogprobs = allocateFloat32(slots * reportedCount(vocabulary));
    this.#penalty = allocateFloat32(slots).fill(1);
    this.#seenBy = new Array(slots).fill(undefined);
  }

  /** Sets what a seat's sequence is to be sampled with; an empty seat takes token 0. */
  fill(seat: number, sequence: SampledSequence | undefined, variant: SamplingVariant): void {
    const answer = sequence?.answer;
    if (sequence === undefined || answer === undefined) {
      this.#forced[seat] = 0;
      this.#truncate[seat] = 0;
      return;
    }
    const { plan } = answer;
    this.#greedy[seat] = plan.greedy ? 1 : 0;
    this.#inverseTemperature[seat] = plan.inverseTemperature;
    this.#forced[seat] = answer.forced?.[answer.count] ?? -1;
    this.#uniform[seat] = plan.greedy ? 0.5 : sequence.uniform();
    if (variant === "plain") return;
    this.#truncate[seat] = plan.truncate ? 1 : 0;
    this.#topK[seat] = plan.topK;
    this.#topP[seat] = plan.topP;
    this.#minP[seat] = plan.minP;
    if (variant !== "penalized") return;
    this.#penalty[seat] = plan.penalty;
    this.#noteSeen(seat, sequence, plan);
  }

  /** Inputs and outputs of a graph of `size` rows, by name. */
  values(size: number, variant: SamplingVariant): SamplingValues {
    const perRow = [size, 1];
    const int32 = (array: Int32Array) => int32Value(array.subarray(0, size), perRow);
    const float32 = (array: Float32Array) => float32Value(array.subarray(0, size), perRow);
    const bool = (array: Uint8Array) => new Value("bool", perRow, array.subarray(0, size));
    const feeds: Record<string, Value> = {
      uniform: float32(this.#uniform),
      inverse_temperature: float32(this.#inverseTemperature),
      greedy: bool(this.#greedy),
      forced: int32(this.#forced),
    };
    const fetches: Record<string, Value> = {
      token: int32(this.tokens),
      logprob: float32(this.logprobs),
      logprob_t1: float32(this.logprobsT1),
    };
    if (variant === "plain") return { feeds, fetches };
    feeds.truncate = bool(this.#truncate);
    feeds.top_k = int32(this.#topK);
    feeds.top_p = float32(this.#topP);
    feeds.min_p = float32(this.#minP);
    fetches.undecided = bool(this.#undecided);
    const reported = reportedCount(this.#vocabulary);
    fetches.top_ids = int32Value(this.#topIds.subarray(0, size * reported), [size, reported]);
    fetches.top_logprobs = float32Value(this.#topLogprobs.subarray(0, size * reported), [size, reported]);
    if (variant === "truncated") return { feeds, fetches };
    feeds.penalty = float32(this.#penalty);
    const seen = this.#seenRows().subarray(0, size * this.#vocabulary);
    feeds.seen = new Value("bool", [size, this.#vocabulary], seen);
    return { feeds, fetches };
  }

  /**
   * Samples a seat outside the graph if its truncation allows more tokens than the graph looked at; to be called after a step
   * of another variant than `plain`.
   * @param logits_V of the seat, before the penalty.
   */
  settle(seat: number, plan: SamplingPlan, logits_V: Float32Array): void {
    const looked = candidateCount(this.#vocabulary);
    if (!plan.truncate || looked === this.#vocabulary || plan.topK <= looked) return;
    const cutByRank = plan.topK < this.#vocabulary;
    if (this.#undecided[seat] === 0 && !(cutByRank && plan.topP < 1)) return;
    const sample = sampleTruncated(this.#penalize(seat, plan, logits_V), plan, this.#uniform[seat] as number);
    this.tokens[seat] = sample.token;
    this.logprobs[seat] = sample.logprob;
    this.logprobsT1[seat] = logprobAt(logits_V, sample.token);
    const reported = reportedCount(this.#vocabulary);
    for (let i = 0; i < reported; i++) {
      this.#topLogprobs[seat * reported + i] = sample.logprobs[i] ?? Number.NEGATIVE_INFINITY;
    }
  }

  /** The `count` most likely tokens of a seat after the latest step, and their log-probabilities; shared memory. */
  top(seat: number, count: number): { readonly ids: Int32Array; readonly logprobs: Float32Array } {
    const start = seat * reportedCount(this.#vocabulary);
    return {
      ids: this.#topIds.subarray(start, start + count),
      logprobs: this.#topLogprobs.subarray(start, start + count),
    };
  }

  #penalize(seat: number, { penalty }: SamplingPlan, logits_V: Float32Array): Float32Array {
    if (penalty === 1) return logits_V;
    const seen = this.#seenRows().subarray(seat * this.#vocabulary, (seat + 1) * this.#vocabulary);
    return logits_V.map((logit, id) => (seen[id] === 0 ? logit : logit < 0 ? logit * penalty : logit / penalty));
  }

  #seenRows(): Uint8Array {
    this.#seen ??= allocateBytes(this.#slots * this.#vocabulary);
    return this.#seen;
  }

  /** Marks the tokens of the sequence, of which those that stood there at its last step are marked already. */
  #noteSeen(seat: number, sequence: SampledSequence, { penalty }: SamplingPlan): void {
    const start = sequence.answer?.start ?? 0;
    const row = this.#seenRows().subarray(seat * this.#vocabulary, (seat + 1) * this.#vocabulary);
    let seen = this.#seenBy[seat];
    if (seen?.sequence !== sequence || seen.start !== start) {
      row.fill(0);
      seen = { sequence, start, count: 0 };
      this.#seenBy[seat] = seen;
    }
    if (penalty !== 1) for (const id of sequence.tokens.subarray(seen.count, sequence.length)) row[id] = 1;
    seen.count = sequence.length;
  }
}
