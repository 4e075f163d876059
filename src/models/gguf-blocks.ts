/**
 * Element types of GGUF and what they stand for in float32. Quantised types store blocks of elements that share scales; the
 * arithmetic and its rounding are those of the `gguf` Python package, https://github.com/ggml-org/llama.cpp/tree/master/gguf-py.
 */

import { widen } from "./float-types.ts";

export interface BlockType {
  readonly name: string;
  /** Elements of a block, and its bytes. */
  readonly elements: number;
  readonly bytes: number;
  /** Writes the elements of whole blocks. `view` covers `bytes`. */
  dequantize(bytes: Uint8Array<ArrayBuffer>, view: DataView, target: Float32Array): void;
}

const { fround } = Math;

/** Float16 at a byte offset. */
const half = (view: DataView, offset: number): number => view.getFloat16(offset, true);

/** A type whose blocks are independent: `block` writes the elements of the one that starts at byte `at`. */
function blocks(
  name: string,
  elements: number,
  bytes: number,
  block: (view: DataView, at: number, target: Float32Array) => void,
): BlockType {
  return {
    name,
    elements,
    bytes,
    dequantize: (_, view, target) => {
      for (let i = 0; i < target.length / elements; i++) {
        block(view, i * bytes, target.subarray(i * elements, (i + 1) * elements));
      }
    },
  };
}

/** Scale, 32 signed bytes. */
const Q8_0 = blocks("Q8_0", 32, 34, (view, at, target) => {
  const scale = half(view, at);
  for (let i = 0; i < 32; i++) target[i] = scale * view.getInt8(at + 2 + i);
});

/** Scale, 16 bytes: low halves are elements 0 … 15, high halves 16 … 31, less 8. */
const Q4_0 = blocks("Q4_0", 32, 18, (view, at, target) => {
  const scale = half(view, at);
  for (let i = 0; i < 16; i++) {
    const pair = view.getUint8(at + 2 + i);
    target[i] = scale * ((pair & 15) - 8);
    target[i + 16] = scale * ((pair >> 4) - 8);
  }
});

/** As Q4_0 with a fifth bit of each element in a u32 after the scale, less 16. */
const Q5_0 = blocks("Q5_0", 32, 22, (view, at, target) => {
  const scale = half(view, at);
  const high = view.getUint32(at + 2, true);
  for (let i = 0; i < 16; i++) {
    const pair = view.getUint8(at + 6 + i);
    target[i] = scale * (((pair & 15) | (((high >>> i) & 1) << 4)) - 16);
    target[i + 16] = scale * (((pair >> 4) | (((high >>> (i + 16)) & 1) << 4)) - 16);
  }
});

/**
 * Six-bit scale and minimum of part `j` of 8 in a K block, packed in 12 bytes: the first four of each in the low bits of bytes
 * 0 … 7, the others with four bits in bytes 8 … 11 and two in the high bits of bytes 0 … 7.
 */
function scaleAndMinimum(view: DataView, at: number, j: number): readonly [scale: number, minimum: number] {
  const byte = (i: number) => view.getUint8(at + i);
  if (j < 4) return [byte(j) & 63, byte(j + 4) & 63];
  return [(byte(j + 4) & 15) | ((byte(j - 4) >> 6) << 4), (byte(j + 4) >> 4) | ((byte(j) >> 6) << 4)];
}

/** Q4_K and Q5_K: 8 parts of 32 with a scale and a minimum each; `extra` gives bits above the fourth. */
function kBlock(view: DataView, at: number, nibbles: number, target: Float32Array, extra: (i: number) => number): void {
  const scale = half(view, at);
  const minimum = half(view, at + 2);
  for (let part = 0; part < 8; part++) {
    const [partScale, partMinimum] = scaleAndMinimum(view, at + 4, part);
    const step = fround(scale * partScale);
    const shift = fround(minimum * partMinimum);
    for (let i = 0; i < 32; i++) {
      const pair = view.getUint8(nibbles + (part >> 1) * 32 + i);
      const low = part % 2 === 0 ? pair & 15 : pair >> 4;
      const value = low | (extra(part * 32 + i) << 4);
      target[part * 32 + i] = fround(step * value) - shift;
    }
  }
}

const Q4_K = blocks("Q4_K", 256, 144, (view, at, target) => kBlock(view, at, at + 16, target, () => 0));

const Q5_K = blocks("Q5_K", 256, 176, (view, at, target) =>
  kBlock(view, at, at + 48, target, (i) => (view.getUint8(at + 16 + (i % 32)) >> (i >> 5)) & 1),
);

/** 128 bytes of low nibbles, 64 of high pairs of bits, 16 signed scales, one scale of the scales; elements less 32. */
const Q6_K = blocks("Q6_K", 256, 210, (view, at, target) => {
  const scale = half(view, at + 208);
  for (let i = 0; i < 256; i++) {
    const [part, within] = [i >> 7, i & 127];
    const nibbles = view.getUint8(at + part * 64 + (within & 63));
    const low = within < 64 ? nibbles & 15 : nibbles >> 4;
    const high = (view.getUint8(at + 128 + part * 32 + (within & 31)) >> (2 * (within >> 5))) & 3;
    const step = fround(scale * view.getInt8(at + 192 + (i >> 4)));
    target[i] = step * ((low | (high << 4)) - 32);
  }
});

function plain(name: "F32" | "F16" | "BF16" | "F64", bytes: number): BlockType {
  return { name, elements: 1, bytes, dequantize: (data, _, target) => widen(name, data, target) };
}

/** The types that are read, by their number in the file. */
export const BLOCK_TYPES: ReadonlyMap<number, BlockType> = new Map([
  [0, plain("F32", 4)],
  [1, plain("F16", 2)],
  [2, Q4_0],
  [6, Q5_0],
  [8, Q8_0],
  [12, Q4_K],
  [13, Q5_K],
  [14, Q6_K],
  [28, plain("F64", 8)],
  [30, plain("BF16", 2)],
]);
