/**
 * Counter-based random numbers: a value depends only on its key and counter, never on how many were drawn before, so
 * a sample can be replayed whatever the batching.
 *
 * Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 */

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High 32 bits of an unsigned 32×32-bit product. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = aLow * bLow;
  const middle = aHigh * bLow + (low >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(cross / 0x10000)) >>> 0;
}

/** Four 32-bit outputs for a 128-bit counter under a 64-bit key. */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(M0, c0 >>> 0);
    const low0 = Math.imul(M0, c0);
    const high1 = mulHigh(M1, c2 >>> 0);
    const low1 = Math.imul(M1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + W0) | 0;
    k1 = (k1 + W1) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** 64-bit FNV-1a of a string as two 32-bit halves; turns a label such as an episode id into a key. */
export function hashKey(label: string): [number, number] {
  let low = 0x84222325;
  let high = 0xcbf29ce4;
  for (const byte of new TextEncoder().encode(label)) {
    low = (low ^ byte) >>> 0;
    // 64-bit multiplication by the FNV prime 0x100000001b3, in halves
    const carry = mulHigh(low, 0x1b3);
    const shifted = (low << 8) >>> 0;
    high = (Math.imul(high, 0x1b3) + carry + shifted) >>> 0;
    low = Math.imul(low, 0x1b3) >>> 0;
  }
  return [low, high];
}

/** Uniform in the open interval (0, 1) with 24 bits: the noise of one sampled token. */
export function uniformAt(key: readonly [number, number], position: number): number {
  const [x] = philox4x32([position >>> 0, 0, 0, 0], key);
  return ((x >>> 8) + 0.5) / 0x1000000;
}

/** A stream of random numbers under one label; its state is the label and `position`. */
export class Rng {
  readonly #key: [number, number];
  position: number;

  constructor(label: string, position = 0) {
    this.#key = hashKey(label);
    this.position = position;
  }

  /** Uniform in [0, 1) with 53 bits. */
  next(): number {
    const [a, b] = philox4x32([this.position >>> 0, Math.floor(this.position / 0x100000000), 1, 0], this.#key);
    this.position++;
    return ((a >>> 5) * 0x4000000 + (b >>> 6)) / 0x20000000000000;
  }

  /** Integer in [min, max], both included. */
  int(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  /** Standard normal (Box-Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.next()));
    return radius * Math.cos(2 * Math.PI * this.next());
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.int(0, items.length - 1)];
    if (item === undefined) throw new RangeError("pick from an empty list");
    return item;
  }

  /** A shuffled copy (Fisher-Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const copy = [...items];
    for (let i = copy.length - 1; i > 0; i--) {
      const j = this.int(0, i);
      [copy[i], copy[j]] = [copy[j] as T, copy[i] as T];
    }
    return copy;
  }
}
