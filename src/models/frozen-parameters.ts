/**
 * Weights that training leaves alone: one flat copy that nobody writes once it is filled. The base of adapters, or the
 * reference that a policy is kept near to.
 *
 * In a file, so that engines share it: one header page, then the array. Header words (u64): 0 magic, written when the
 * array is complete, 1 layout hash, 2 layout length.
 */

import { existsSync, statSync } from "node:fs";
import { allocateFloat32, mapSharedFile } from "../runtime/memory.ts";
import type { Value } from "../runtime/value.ts";
import type { Adapters } from "./lora.ts";
import { tensorValues } from "./parameter-values.ts";
import type { ParameterLayout } from "./parameters.ts";
import type { QuantizedBase } from "./quantized-base.ts";

const PAGE = 4096;
const MAGIC = 0x4e5a5246454c41n; // "ALEFRZN" in memory
const MAGIC_WORD = 0;
const HASH_WORD = 1;
const LENGTH_WORD = 2;

export class FrozenParameters {
  readonly layout: ParameterLayout;
  /** Not to be written. */
  readonly flat: Float32Array;
  #values: Readonly<Record<string, Value>> | undefined;

  private constructor(layout: ParameterLayout, flat: Float32Array) {
    this.layout = layout;
    this.flat = flat;
  }

  /** A copy in this process's memory; `fill` writes the weights. */
  static inMemory(layout: ParameterLayout, fill: (flat: Float32Array) => void): FrozenParameters {
    const flat = allocateFloat32(layout.length);
    fill(flat);
    return new FrozenParameters(layout, flat);
  }

  /**
   * Maps the copy in the file `path`; `fill` writes the weights when the file does not hold them yet.
   * @throws AleError("storage_full") when the disk cannot hold it.
   */
  static open(path: string, layout: ParameterLayout, fill: (flat: Float32Array) => void): FrozenParameters {
    const bytes = PAGE + layout.length * 4;
    const usable = existsSync(path) && statSync(path).size === bytes;
    const memory = mapSharedFile(path, bytes);
    const header = new BigUint64Array(memory.buffer, memory.byteOffset, PAGE / 8);
    const flat = new Float32Array(memory.buffer, memory.byteOffset + PAGE, layout.length);
    const complete =
      usable &&
      Atomics.load(header, MAGIC_WORD) === MAGIC &&
      header[HASH_WORD] === layout.hash &&
      header[LENGTH_WORD] === BigInt(layout.length);
    if (!complete) {
      Atomics.store(header, MAGIC_WORD, 0n);
      fill(flat);
      header[HASH_WORD] = layout.hash;
      header[LENGTH_WORD] = BigInt(layout.length);
      Atomics.store(header, MAGIC_WORD, MAGIC);
    }
    return new FrozenParameters(layout, flat);
  }

  /** Values over the tensors, to feed graphs whose inputs are named like the parameters; made once. */
  get values(): Readonly<Record<string, Value>> {
    this.#values ??= tensorValues(this.layout, this.flat);
    return this.#values;
  }
}

/** A frozen model with trainable adapters; the adapters' numbers are in a `ParameterStore`. */
export interface AdaptedBase {
  readonly parameters: FrozenParameters;
  readonly adapters: Adapters;
  /** The matrices generation multiplies with in place of `parameters`, which then need only hold norms and biases. */
  readonly quantized?: QuantizedBase | undefined;
}
