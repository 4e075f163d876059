/** Tensors in files, whatever the format, read as float32 piece by piece. */

import { AleError } from "../core/errors.ts";
import { firstNotFinite } from "./float-types.ts";

export interface StoredTensor {
  readonly name: string;
  /** The file it lies in. */
  readonly path: string;
  /** As the format calls it, e.g. `BF16` or `Q4_K`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** @throws AleError("model") when its type is not supported or its bytes do not fit its shape. */
  check(): void;
  /** Writes elements begin … begin + target.length − 1 (row-major) into `target`; whole rows, or whole pieces of `PIECE`. */
  readElements(begin: number, target: Float32Array): void;
}

/** Tensors by name, of one file or of several. */
export interface StoredTensors {
  /** File, index or folder, for messages. */
  readonly path: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** Elements read at a time: a quarter of a megabyte of float32, a multiple of every format's block. */
export const PIECE = 1 << 16;

/** No element type is wider than a float64. */
const scratch = new Uint8Array(new ArrayBuffer(8 * PIECE));

/**
 * Memory for the stored form of a piece, good until the next call: a fresh buffer for each would pile up faster than it is
 * collected. `length` is that of at most `PIECE` elements.
 */
export function scratchBytes(length: number): Uint8Array<ArrayBuffer> {
  return scratch.subarray(0, length);
}

const WRONG_MODEL = { hint: "config.json and weights must be of the same model" };

/**
 * The tensor called `name`.
 * @throws AleError("model") naming file, tensor, expected and found shape when it is missing or does not fit.
 */
export function findTensor(stored: StoredTensors, name: string, shape: readonly number[]): StoredTensor {
  const tensor = stored.tensors.get(name);
  if (tensor === undefined) {
    throw new AleError("model", `${stored.path} has no tensor "${name}" (expected shape [${shape}])`, WRONG_MODEL);
  }
  if (tensor.shape.length !== shape.length || tensor.shape.some((dimension, i) => dimension !== shape[i])) {
    const found = `"${name}" should have shape [${shape}], but has [${tensor.shape}]`;
    throw new AleError("model", `${tensor.path}: ${found}`, WRONG_MODEL);
  }
  tensor.check();
  return tensor;
}

/**
 * Reads a tensor into `target` as float32. No more than a piece of it is held besides `target`.
 * @throws AleError("model") as `findTensor` does, and for an element that is not finite.
 */
export function copyTensor(stored: StoredTensors, name: string, shape: readonly number[], target: Float32Array): void {
  const tensor = findTensor(stored, name, shape);
  for (let begin = 0; begin < target.length; begin += PIECE) {
    const piece = target.subarray(begin, begin + PIECE);
    tensor.readElements(begin, piece);
    const odd = firstNotFinite(piece);
    if (odd !== -1) {
      throw new AleError("model", `${tensor.path}: element ${begin + odd} of "${name}" is ${piece[odd]}`, {
        hint: "such weights compute nothing: copy the file again, or use an earlier checkpoint",
      });
    }
  }
}
