import { expect, test } from "bun:test";
import fc from "fast-check";
import type { TokenRecord } from "../core/types.ts";
import { layOutTokens, packTokens, plainBytes, unpackTokens } from "./tokens.ts";

const MAX = 0x7fffffff;

function roundTrip(record: TokenRecord): TokenRecord {
  const count = record.ids.length;
  // An offset that leaves the blocks unaligned, as within a larger message.
  const target = new Uint8Array(plainBytes(count) + 3);
  expect(layOutTokens(record, target, 3)).toBe(target.length);
  return unpackTokens(packTokens(target.subarray(3), count));
}

const records = fc.integer({ min: 0, max: 300 }).chain((length) => {
  const list = <T>(of: fc.Arbitrary<T>) => fc.array(of, { minLength: length, maxLength: length });
  const int = fc.integer({ min: -MAX, max: MAX });
  return fc
    .tuple(list(int), list(fc.nat(1)), list(fc.float()), list(fc.float()), list(int), list(int), list(int))
    .map(([ids, mask, logprobs, logprobsT1, versions, kvOldest, turnIds]) => ({
      ids: Int32Array.from(ids),
      mask: Uint8Array.from(mask),
      logprobs: Float32Array.from(logprobs),
      logprobsT1: Float32Array.from(logprobsT1),
      versions: Int32Array.from(versions),
      kvOldest: Int32Array.from(kvOldest),
      turnIds: Int32Array.from(turnIds),
    }));
});

test("arrays of any length and content come back bit for bit", () => {
  fc.assert(
    fc.property(records, (record) => {
      const back = roundTrip(record);
      for (const key of ["ids", "mask", "logprobs", "logprobsT1", "versions", "kvOldest", "turnIds"] as const) {
        const bytes = (array: TokenRecord[typeof key]) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);
        expect(bytes(back[key]).equals(bytes(record[key]))).toBe(true);
      }
    }),
    { numRuns: 60 },
  );
});

test("constant arrays shrink", () => {
  const count = 2000;
  const packed = packTokens(new Uint8Array(plainBytes(count)), count);
  expect(packed.data.length).toBeLessThan(plainBytes(count) / 50);
});

test("a block from before kvOldest was recorded is read with the sampling versions in its place", () => {
  const words = [
    Int32Array.of(4, 5),
    Float32Array.of(-1, -2),
    Float32Array.of(-3, -4),
    Int32Array.of(8, 9),
    Int32Array.of(0, 1),
  ];
  const plain = Buffer.concat([...words.map(({ buffer }) => Buffer.from(buffer)), Buffer.of(1, 0)]);
  for (const [format, data] of [plain, Bun.zstdCompressSync(plain)].entries()) {
    expect(unpackTokens({ format, count: 2, data })).toEqual({
      ids: Int32Array.of(4, 5),
      mask: Uint8Array.of(1, 0),
      logprobs: Float32Array.of(-1, -2),
      logprobsT1: Float32Array.of(-3, -4),
      versions: Int32Array.of(8, 9),
      kvOldest: Int32Array.of(8, 9),
      turnIds: Int32Array.of(0, 1),
    });
  }
});

test("arrays of different lengths are refused", () => {
  const record = {
    ids: new Int32Array(2),
    mask: new Uint8Array(2),
    logprobs: new Float32Array(1),
    logprobsT1: new Float32Array(2),
    versions: new Int32Array(2),
    kvOldest: new Int32Array(2),
    turnIds: new Int32Array(2),
  };
  expect(() => layOutTokens(record, new Uint8Array(100), 0)).toThrow("different lengths");
});

test("a damaged block and one of a newer format are refused", () => {
  const good = packTokens(new Uint8Array(plainBytes(50)), 50);
  expect(() => unpackTokens({ ...good, data: Buffer.from("not zstd at all") })).toThrow("damaged");
  expect(() => unpackTokens({ ...good, count: 49 })).toThrow("bytes");
  expect(() => unpackTokens({ ...good, format: 9 })).toThrow("unknown format 9");
});
