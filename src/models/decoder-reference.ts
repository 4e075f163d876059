/** The decoder in float64 with ONNX's plain operators: what every faster path is compared with. Slow; for tests. */

import { allocateFloat64, allocateInt64 } from "../runtime/memory.ts";
import { Session } from "../runtime/session.ts";
import { float64Value, int64Value, type Value } from "../runtime/value.ts";
import type { DecoderConfig } from "./config.ts";
import {
  accumulatedName,
  decoderGraph,
  EMBEDDED_GRADIENT,
  ENTROPY,
  ENTROPY_WEIGHTS,
  gradientName,
  IDS,
  INVERSE_TEMPERATURE,
  LABELS,
  LOGPROBS,
  WEIGHTS,
} from "./decoder-graph.ts";
import { EMBEDDING, type ParameterLayout, parameterLayout, parameterView } from "./parameters.ts";

/** One sequence at a time: loss −Σ weight · logprob − Σ entropyWeight · entropy, and its gradients. */
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
  readonly #entropyWeights: Float64Array;
  readonly #inverseTemperature = allocateFloat64(1);
  readonly #embeddedGradient: Float64Array;
  readonly #session: Session;
  readonly #call: () => void;

  /** @param length predictions per sequence: its tokens less one. */
  constructor(config: DecoderConfig, length: number) {
    this.#config = config;
    this.#length = length;
    this.layout = parameterLayout(config);
    this.parameters = allocateFloat64(this.layout.length);
    this.gradients = allocateFloat64(this.layout.length);
    this.logprobs = allocateFloat64(length);
    this.entropy = allocateFloat64(length);
    this.#ids = allocateInt64(length);
    this.#labels = allocateInt64(length);
    this.#weights = allocateFloat64(length);
    this.#entropyWeights = allocateFloat64(length);
    this.#embeddedGradient = allocateFloat64(length * config.hiddenSize);
    const model = decoderGraph(config, { profile: "ref64", rows: 1, length, mode: "entropy-gradients" });
    this.#session = new Session(model, { threads: 1, optimization: "basic" });
    this.#call = this.#prepare();
  }

  /**
   * @param sequence up to length + 1 tokens; what is missing is padding. @param weights, entropyWeights one per token;
   * element 0 is ignored.
   * @returns the loss; gradients, logprobs and entropy are in the fields.
   */
  run(
    sequence: ArrayLike<number>,
    weights: ArrayLike<number>,
    temperature = 1,
    entropyWeights: ArrayLike<number> = new Float64Array(sequence.length),
  ): number {
    this.gradients.fill(0);
    this.#inverseTemperature[0] = 1 / temperature;
    for (let t = 0; t < this.#length; t++) {
      this.#ids[t] = BigInt(sequence[t] ?? 0);
      this.#labels[t] = BigInt(sequence[t + 1] ?? 0);
      this.#weights[t] = weights[t + 1] ?? 0;
      this.#entropyWeights[t] = entropyWeights[t + 1] ?? 0;
    }
    this.#call();
    this.#scatter();
    let loss = 0;
    for (let t = 0; t < this.#length; t++) {
      loss -= (this.#weights[t] as number) * (this.logprobs[t] as number);
      loss -= (this.#entropyWeights[t] as number) * (this.entropy[t] as number);
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
