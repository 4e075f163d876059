/** The operator ale::DecoderLayer (`kernels/decoder-layer.c`): a decode step of one layer; see docs/adr/0033-small-layers-in-one.md. */

import { dlopen } from "bun:ffi";
import type { Attributes } from "../onnx/model.ts";
import { ownOperators } from "./own-operators.ts";

/** Sets of instructions by the operator's attribute `instructions`; results differ in their last bits. */
const INSTRUCTIONS = { avx2: 2, avx512: 512 } as const;
export type LayerInstructions = keyof typeof INSTRUCTIONS;

export interface LayerOperator {
  /** What the processor can do, best last; at least one. */
  readonly instructions: readonly LayerInstructions[];
  /** `OwnOperators.domain`. */
  readonly domain: number;
}

/** Widths of a layer; all but the numbers of heads are multiples of `LAYER_LANES`. */
export interface LayerShape {
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Of the feed-forward part. */
  readonly inner: number;
  readonly epsilon: number;
}

export const LAYER_LANES = 16;

let loaded: LayerOperator | "none" | undefined;

/**
 * `undefined` where the processor lacks all instructions, in a checkout on a machine without a C compiler, and while the
 * environment says `ALE_DECODER_LAYER=0`, for comparisons; with `ALE_DECODER_LAYER=avx2` it does no more than that.
 * @throws AleError("engine") as `ownOperators` does.
 */
export function layerOperator(): LayerOperator | undefined {
  const wish = process.env.ALE_DECODER_LAYER;
  if (wish === "0") return undefined;
  loaded ??= load() ?? "none";
  if (loaded === "none") return undefined;
  return wish === "avx2" ? { ...loaded, instructions: ["avx2"] } : loaded;
}

function load(): LayerOperator | undefined {
  const own = ownOperators();
  if (own === undefined) return undefined;
  const { symbols } = dlopen(own.path, { ale_decoder_layer_instructions: { args: [], returns: "i32" } });
  const level = symbols.ale_decoder_layer_instructions();
  const names = Object.keys(INSTRUCTIONS) as LayerInstructions[];
  const instructions = names.filter((name) => INSTRUCTIONS[name] <= level);
  return instructions.length === 0 ? undefined : { instructions, domain: own.domain };
}

/**
 * Attributes of a node of the operator.
 * @param pieces into how many runs of rows a step is cut, for as many threads.
 */
export function layerAttributes(shape: LayerShape, instructions: LayerInstructions, pieces: number): Attributes {
  return {
    hidden: { int: shape.hidden },
    heads: { int: shape.heads },
    kv_heads: { int: shape.kvHeads },
    head_dim: { int: shape.headDim },
    inner: { int: shape.inner },
    epsilon: { float: shape.epsilon },
    instructions: { int: INSTRUCTIONS[instructions] },
    pieces: { int: pieces },
  };
}
