/** The operator ale::AdamW (`kernels/adamw.c`): an update in one pass over its arrays; see docs/adr/0032-large-gradients.md. */

import { dlopen } from "bun:ffi";
import type { Attributes } from "../onnx/model.ts";
import { ownOperators } from "./own-operators.ts";

/** Sets of instructions by the operator's attribute `instructions`; results have the same bits with each. */
const INSTRUCTIONS = { baseline: 0, avx2: 2, avx512: 512 } as const;
export type AdamWInstructions = keyof typeof INSTRUCTIONS;

export interface AdamWOperator {
  /** What the processor can do, best last. */
  readonly instructions: readonly AdamWInstructions[];
  /** `OwnOperators.domain`. */
  readonly domain: number;
}

let loaded: AdamWOperator | undefined;

/**
 * `undefined` in a checkout on a machine without a C compiler.
 * @throws AleError("engine") as `ownOperators` does.
 */
export function adamWOperator(): AdamWOperator | undefined {
  loaded ??= load();
  return loaded;
}

function load(): AdamWOperator | undefined {
  const own = ownOperators();
  if (own === undefined) return undefined;
  const { symbols } = dlopen(own.path, { ale_adamw_instructions: { args: [], returns: "i32" } });
  const level = symbols.ale_adamw_instructions();
  const names = Object.keys(INSTRUCTIONS) as AdamWInstructions[];
  return { instructions: names.filter((name) => INSTRUCTIONS[name] <= level), domain: own.domain };
}

/**
 * Attributes of a node of the operator.
 * @param pastCaches write to memory directly, without reading first what is replaced: for arrays too large to find again in caches.
 */
export function adamWAttributes(instructions: AdamWInstructions, pastCaches: boolean): Attributes {
  return { instructions: { int: INSTRUCTIONS[instructions] }, past_caches: { int: pastCaches ? 1 : 0 } };
}
