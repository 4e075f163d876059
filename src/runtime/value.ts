/** A tensor over memory that JavaScript owns: no copy in, no copy out. */

import { AleError } from "../core/errors.ts";
import { ELEMENT_BYTES, ELEMENT_CODES, type ElementType } from "../onnx/model.ts";
import { ortApi } from "./c-api.ts";
import { addressOf, allocateInt64, type NativeArray } from "./memory.ts";

/** What a graph's input or output can be bound to: host memory (`Value`) or memory of a device (`DeviceValue`). */
export interface Bindable {
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** The native `OrtValue*`. */
  readonly handle: number;
  release(): void;
}

export class Value implements Bindable {
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** The elements. Holding it here keeps the memory alive for as long as the value is. */
  readonly data: NativeArray;
  #handle: number;

  /**
   * @param data elements in row-major order; its length must be the product of `shape`.
   * @throws AleError("internal") when `data` and `shape` do not fit.
   */
  constructor(type: ElementType, shape: readonly number[], data: NativeArray) {
    const count = shape.reduce((product, size) => product * size, 1);
    if (count * ELEMENT_BYTES[type] !== data.byteLength) {
      throw new AleError("internal", `a ${type} tensor [${shape}] needs ${count} elements, got ${data.length}`);
    }
    this.type = type;
    this.shape = shape;
    this.data = data;
    const api = ortApi();
    const dims = allocateInt64(Math.max(1, shape.length));
    for (const [i, size] of shape.entries()) dims[i] = BigInt(size);
    this.#handle = api.make("create tensor", (out) =>
      api.call.createTensorWithDataAsOrtValue(
        api.cpuMemory,
        addressOf(data),
        data.byteLength,
        addressOf(dims),
        shape.length,
        ELEMENT_CODES[type],
        out,
      ),
    );
  }

  /** The native `OrtValue*`. @throws AleError("internal") after `release`. */
  get handle(): number {
    if (this.#handle === 0) throw new AleError("internal", "this value was released");
    return this.#handle;
  }

  /** Frees the native object, not the elements. Calls prepared with it must not run afterwards. Safe to call twice. */
  release(): void {
    if (this.#handle !== 0) ortApi().call.releaseValue(this.#handle);
    this.#handle = 0;
  }
}

export function float32Value(data: Float32Array, shape: readonly number[]): Value {
  return new Value("float32", shape, data);
}

export function float64Value(data: Float64Array, shape: readonly number[]): Value {
  return new Value("float64", shape, data);
}

export function int32Value(data: Int32Array, shape: readonly number[]): Value {
  return new Value("int32", shape, data);
}

export function int64Value(data: BigInt64Array, shape: readonly number[]): Value {
  return new Value("int64", shape, data);
}
