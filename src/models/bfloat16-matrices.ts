/** Which of a model's tensors a GPU may keep in bfloat16, and their way from the float32 that everything else holds. */

import type { MatrixStorage } from "../core/matrix-storage.ts";
import type { Bfloat16Form } from "../onnx/bfloat16.ts";
import { allocateBytes } from "../runtime/memory.ts";
import { narrow } from "./float-types.ts";
import type { ParameterEntry } from "./parameters.ts";

/**
 * Embedding and projections; norms, biases, adapters and value heads are small and stay as they are, as does a matrix with an
 * odd number of columns, which no published model has and which cannot be packed.
 */
export function keptInBfloat16(
  storage: MatrixStorage,
  { kind, shape }: Pick<ParameterEntry, "kind" | "shape">,
): boolean {
  if (storage !== "bfloat16" || (shape[1] ?? 1) % 2 !== 0) return false;
  return kind === "embedding" || kind === "projection" || kind === "residual-projection";
}

/**
 * `values`, rows of `columns` elements, as the memory of a stored matrix; rounded to nearest, ties to even.
 * @param bytes where to write it; new memory when omitted.
 */
export function bfloat16Bytes(
  form: Bfloat16Form,
  values: Float32Array,
  columns: number,
  bytes = allocateBytes(2 * values.length),
): Uint8Array<ArrayBuffer> {
  narrow("BF16", values, bytes);
  if (form === "native") return bytes;
  const codes = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length);
  const row = new Uint16Array(columns);
  const half = columns / 2;
  for (let begin = 0; begin < values.length; begin += columns) {
    row.set(codes.subarray(begin, begin + columns));
    for (let j = 0; j < half; j++) {
      codes[begin + 2 * j] = row[j] as number;
      codes[begin + 2 * j + 1] = row[half + j] as number;
    }
  }
  return bytes;
}
