/**
 * The compiled graph that all decode steps and prefill chunks of a quantised model share, whatever their shape. MatMulNBits
 * repacks its weights for the processor and keeps the result to itself: with a session per shape there would be as many
 * copies of the model, and ONNX Runtime's container for sharing such copies does not take these. BlockProduct has one copy in
 * any case.
 */

import type { DecoderConfig } from "../../models/config.ts";
import type { QuantizedBase } from "../../models/quantized-base.ts";
import { Session } from "../../runtime/session.ts";
import type { Value } from "../../runtime/value.ts";
import { forwardGraph } from "./graphs.ts";
import { productOperators, quantizedConstants } from "./quantized-operators.ts";
import type { SlotWeights } from "./weight-values.ts";

/**
 * Idle threads wait this long, in microseconds, before they sleep: long enough for the small operators between two products.
 * A decode step of half a billion int4 weights takes 19 ms instead of 21 that way (two cores; medians of three runs each, on a shared machine).
 */
const BRIEF_SPINNING = { "session.intra_op.spin_duration_us": "100" };

export class SharedForward {
  readonly session: Session;
  readonly weightNames: readonly string[];
  readonly #constants: Readonly<Record<string, Value>>;

  /** Repacking takes about a second for half a billion weights. */
  constructor(config: DecoderConfig, weights: SlotWeights, base: QuantizedBase, shape: ForwardShape) {
    const { model, weightNames } = forwardGraph(config, weights, shape.cells);
    this.#constants = quantizedConstants(config, base);
    this.session = new Session(model, {
      threads: shape.threads,
      initializers: this.#constants,
      operators: productOperators(),
      ...(shape.alone ? { spinning: true, config: BRIEF_SPINNING } : {}),
    });
    this.weightNames = weightNames;
  }

  release(): void {
    this.session.release();
    for (const value of Object.values(this.#constants)) value.release();
  }
}

export interface ForwardShape {
  /** Positions of every cache. */
  readonly cells: number;
  readonly threads: number;
  /** See `GenerationOptions.alone`. */
  readonly alone: boolean;
}
