/** The decoder in float64 with ONNX's plain operators: what every faster path is compared with. Slow; for tests. */

import { allocateFloat64, allocateInt64 } from "../runtime/memory.ts";
import { Session } from "../runtime/session.ts";
import { float64Value, int64Value, type Value } from "../runtime/value.ts";
import type { DecoderConfig } from "./config.ts";
import {
  accumulatedName,
  decoderGraph,
  EMBEDDED_GRADIENT,
  gradientName,
  IDS,
  trainableLayout,
} from "./decoder-graph.ts";
import {
  CANDIDATE_LOGPROBS,
  CANDIDATE_WEIGHTS,
  CANDIDATES,
  ENTROPY,
  ENTROPY_WEIGHTS,
  INVERSE_TEMPERATURE,
  LABELS,
  LOGPROBS,
  type LossTerms,
  VALUE_WEIGHTS,
  VALUES,
  WEIGHTS,
} from "./decoder-head.ts";
import { EMBEDDING, type ParameterLayout, parameterView } from "./parameters.ts";

/** What a run takes besides the weights of the log-probabilities: one element per token, K where there are K candidates. */
export interface ReferenceTerms {
  readonly entropyWeights?: ArrayLike<number>;
  readonly valueWeights?: ArrayLike<number>;
  readonly candidates?: ArrayLike<number>;
  readonly candidateWeights?: ArrayLike<number>;
}

/** One sequence at a time: loss −Σ weight · term over log-probabilities and the other terms, and its gradients. */
export class DecoderReference {
  readonly layout: ParameterLayout;
  /** Flat parameters, to be filled by the caller. */
  readonly parameters: Float64Array;
  /** Flat gradients of the last `run`. */
  readonly gradients: Float64Array;
  readonly logprobs: Float64Array;
  readonly entropy: Float64Array;
  readonly #config: DecoderConfig;
  readonly #length: number;
  readonly #ids: BigInt64Array;
  readonly #labels: BigInt64Array;
  readonly #weights: Float64Array;
  readonly values: Float64Array;
  readonly candidateLogprobs: Float64Array;
  readonly #terms: LossTerms;
  readonly #entropyWeights: Float64Array;
  readonly #valueWeights: Float64Array;
  readonly #candidates: BigInt64Array;
  readonly #candidateWeights: Float64Array;
  readonly #inverseTemperature = allocateFloat64(1);
  readonly #embeddedGradient: Float64Array;
  readonly #session: Session;
  readonly #call: () => void;

  /** @param length predictions per sequence: its tokens less one. */
  constructor(config: DecoderConfig, length: number, terms: LossTerms = {}) {
    this.#config = config;
    this.#length = length;
    this.#terms = { ...terms, entropy: true };
    this.layout = trainableLayout(config, { valueHead: terms.values !== undefined });
    this.parameters = allocateFloat64(this.layout.length);
    this.gradients = allocateFloat64(this.layout.length);
    this.logprobs = allocateFloat64(length);
    this.entropy = allocateFloat64(length);
    this.#ids = allocateInt64(length);
    this.#labels = allocateInt64(length);
    this.#weights = allocateFloat64(length);
    this.#entropyWeights = allocateFloat64(length);
    const candidates = length * (terms.candidates ?? 0);
    this.values = allocateFloat64(length);
    this.candidateLogprobs = allocateFloat64(candidates);
    this.#valueWeights = allocateFloat64(length);
    this.#candidates = allocateInt64(candidates);
    this.#candidateWeights = allocateFloat64(candidates);
    this.#embeddedGradient = allocateFloat64(length * config.hiddenSize);
    const model = decoderGraph(config, { profile: "ref64", rows: 1, length, mode: "gradients", terms: this.#terms });
    this.#session = new Session(model, { threads: 1, optimization: "basic" });
    this.#call = this.#prepare();
  }

  /**
   * @param sequence up to length + 1 tokens; what is missing is padding. @param weights, terms one per token;
   * element 0 is ignored.
   * @returns the loss; gradients, logprobs and entropy are in the fields.
   */
  run(sequence: ArrayLike<number>, weights: ArrayLike<number>, temperature = 1, terms: ReferenceTerms = {}): number {
    this.gradients.fill(0);
    this.#inverseTemperature[0] = 1 / temperature;
    for (let t = 0; t < this.#length; t++) {
      this.#ids[t] = BigInt(sequence[t] ?? 0);
      this.#labels[t] = BigInt(sequence[t + 1] ?? 0);
      this.#weights[t] = weights[t + 1] ?? 0;
      this.#entropyWeights[t] = terms.entropyWeights?.[t + 1] ?? 0;
      this.#valueWeights[t] = terms.valueWeights?.[t + 1] ?? 0;
    }
    const width = this.#terms.candidates ?? 0;
    for (let i = 0; i < this.#candidates.length; i++) {
      this.#candidates[i] = BigInt(terms.candidates?.[i + width] ?? 0);
      this.#candidateWeights[i] = terms.candidateWeights?.[i + width] ?? 0;
    }
    this.#call();
    this.#scatter();
    let loss = 0;
    for (const [weights, term] of [
      [this.#weights, this.logprobs],
      [this.#entropyWeights, this.entropy],
      [this.#valueWeights, this.values],
      [this.#candidateWeights, this.candidateLogprobs],
    ] as const) {
      for (const [i, weight] of weights.entries()) loss -= weight * (term[i] as number);
    }
    return loss;
  }

  release(): void {
    this.#session.release();
  }

  #scatter(): void {
    const width = this.#config.hiddenSize;
    const table = parameterView(this.layout, this.gradients, EMBEDDING);
    for (let t = 0; t < this.#length; t++) {
      const row = Number(this.#ids[t]) * width;
      for (let j = 0; j < width; j++) {
        table[row + j] = (table[row + j] as number) + (this.#embeddedGradient[t * width + j] as number);
      }
    }
  }

  #prepare(): () => void {
    const length = this.#length;
    const column = (data: Float64Array) => float64Value(data, [length, 1]);
    const feeds: Record<string, Value> = {
      [IDS]: int64Value(this.#ids, [length]),
      [LABELS]: int64Value(this.#labels, [length]),
      [INVERSE_TEMPERATURE]: float64Value(this.#inverseTemperature, []),
      [WEIGHTS]: column(this.#weights),
      [ENTROPY_WEIGHTS]: column(this.#entropyWeights),
    };
    const fetches: Record<string, Value> = {
      [LOGPROBS]: column(this.logprobs),
      [ENTROPY]: column(this.entropy),
      [EMBEDDED_GRADIENT]: float64Value(this.#embeddedGradient, [length, this.#config.hiddenSize]),
    };
    if (this.#terms.values !== undefined) {
      feeds[VALUE_WEIGHTS] = column(this.#valueWeights);
      fetches[VALUES] = column(this.values);
    }
    if (this.#terms.candidates !== undefined) {
      const shape = [length, this.#terms.candidates];
      feeds[CANDIDATES] = int64Value(this.#candidates, shape);
      feeds[CANDIDATE_WEIGHTS] = float64Value(this.#candidateWeights, shape);
      fetches[CANDIDATE_LOGPROBS] = float64Value(this.candidateLogprobs, shape);
    }
    for (const { name, shape } of this.layout.entries) {
      feeds[name] = float64Value(parameterView(this.layout, this.parameters, name), shape);
      if (name === EMBEDDING && !this.#config.tiedEmbeddings) continue;
      const gradient = float64Value(parameterView(this.layout, this.gradients, name), shape);
      feeds[accumulatedName(name)] = gradient;
      fetches[gradientName(name)] = gradient;
    }
    return this.#session.prepare(feeds, fetches);
  }
}
