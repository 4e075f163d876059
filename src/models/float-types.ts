/** Element types of stored weights and their conversion from and to float32. All are little-endian. */

/** Names as in the safetensors format. */
export type FloatType = "F32" | "F16" | "BF16" | "F64";

export const BYTES_PER_ELEMENT: Readonly<Record<FloatType, number>> = { F32: 4, F16: 2, BF16: 2, F64: 8 };

/** Names as in PyTorch and `config.json`. */
export const TORCH_NAMES: Readonly<Record<FloatType, string>> = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  F64: "float64",
};

export function isFloatType(name: string): name is FloatType {
  return Object.hasOwn(BYTES_PER_ELEMENT, name);
}

/** Converts the elements in `bytes` to float32; exact for all types but F64, which is rounded. */
export function widen(type: FloatType, bytes: Uint8Array<ArrayBuffer>, target: Float32Array): void {
  const { buffer, byteOffset } = bytes;
  switch (type) {
    case "F32":
      target.set(new Float32Array(buffer, byteOffset, target.length));
      return;
    case "F64":
      target.set(new Float64Array(buffer, byteOffset, target.length));
      return;
    case "F16": {
      const halves = new Uint16Array(buffer, byteOffset, target.length);
      for (let i = 0; i < halves.length; i++) target[i] = HALVES[halves[i] as number] as number;
      return;
    }
    case "BF16": {
      const brains = new Uint16Array(buffer, byteOffset, target.length);
      const words = new Uint32Array(target.buffer, target.byteOffset, target.length);
      for (let i = 0; i < brains.length; i++) words[i] = (brains[i] as number) << 16;
    }
  }
}

/** Every float16; a look-up is twice as fast as the engine's conversion. */
const HALVES = Float32Array.from(new Float16Array(Uint16Array.from({ length: 65_536 }, (_, bits) => bits).buffer));

/**
 * Converts float32 to `type`, to nearest, ties to even. What was widened before comes back bit by bit, NaN aside.
 * @param target as many elements as `values`, aligned to their size.
 */
export function narrow(type: FloatType, values: Float32Array, target: Uint8Array<ArrayBuffer>): void {
  const { buffer, byteOffset } = target;
  switch (type) {
    case "F32":
      new Float32Array(buffer, byteOffset, values.length).set(values);
      return;
    case "F64":
      new Float64Array(buffer, byteOffset, values.length).set(values);
      return;
    case "F16":
      new Float16Array(buffer, byteOffset, values.length).set(values);
      return;
    case "BF16": {
      const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
      const brains = new Uint16Array(buffer, byteOffset, values.length);
      for (let i = 0; i < words.length; i++) {
        const word = words[i] as number;
        // adding half of the last place, or just less when the kept part is even, carries into it
        brains[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
      }
    }
  }
}

/** Index of the first NaN or infinity, or −1. */
export function firstNotFinite(values: Float32Array): number {
  let sum = 0;
  // 0 · x is 0 for every finite x and NaN for every other
  for (let i = 0; i < values.length; i++) sum += 0 * (values[i] as number);
  return sum === 0 ? -1 : values.findIndex((value) => !Number.isFinite(value));
}
