import { expect, test } from "bun:test";
import {
  decodeRead,
  decodeStat,
  decodeStatistics,
  decodeTerminalOutput,
  encodeChange,
  encodeLaunch,
  encodeRead,
  encodeStat,
  encodeTerminalSize,
  encodeWrite,
} from "./requests.ts";

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const words = (bytes: Uint8Array, count: number) =>
  Array.from({ length: count }, (_, i) => new DataView(bytes.buffer, bytes.byteOffset).getUint32(i * 4, true));

test("a program to start: head, strings, input", () => {
  const bytes = encodeLaunch({
    ...{ first: 1, second: 2, cwd: "/w", user: "ann", env: { A: "x=y" }, argv: ["ls", "-l"], separate: true },
    ...{ input: new Uint8Array([9]), log: { path: "/l", maxBytes: 5 } },
  });
  expect(words(bytes, 8)).toEqual([1, 2, 1 | 2, 1, 1, 0, 5, 0]);
  expect(text(bytes.subarray(32, -1))).toBe("/w\0ann\0/l\0A=x=y\0ls\0-l\0");
  expect(bytes.at(-1)).toBe(9);
  const plain = encodeLaunch({ first: 0, second: 0, cwd: "/", argv: [], console: true });
  expect([words(plain, 5), text(plain.subarray(32))]).toEqual([[0, 0, 4, 0, 0], "/\0\0\0"]);
  for (const name of ["A B", "1A", "", "A="]) {
    const wrong = { first: 0, second: 0, cwd: "/", argv: [], env: { [name]: "" } };
    expect(() => encodeLaunch(wrong)).toThrow("no name of an environment");
  }
  expect(() => encodeLaunch({ first: 0, second: 0, cwd: "/", argv: ["a\0b"] })).toThrow("NUL");
});

test("files: what is asked for, and the answers", () => {
  const read = encodeRead({ path: "/f", maxBytes: 10, follow: true, partial: true, offset: 3 });
  expect([words(read, 7), text(read.subarray(32))]).toEqual([[10, 0, 3, 0, 0, 0, 1 | 2], "/f"]);
  expect(words(encodeRead({ path: "/f", maxBytes: 1, lines: { first: 2, count: 4 } }), 7)).toEqual([
    1, 0, 2, 0, 4, 0, 4,
  ]);
  expect(decodeRead(new Uint8Array([5, 0, 0, 0, 0, 0, 0, 0, 104, 105]))).toEqual({
    size: 5,
    content: new Uint8Array([104, 105]),
  });
  const write = encodeWrite({ path: "/f", content: new Uint8Array([1]), offset: 7, truncate: true, mode: 0o600 });
  expect([words(write, 5), [...write.subarray(24)]]).toEqual([
    [7, 0, 0o600, 1 | 8 | 16, 2],
    [47, 102, 1],
  ]);
  expect(words(encodeWrite({ path: "/f", content: new Uint8Array(0), offset: 0, truncate: false }), 4)[2]).toBe(
    0xffffffff,
  );
  expect(words(encodeStat("/f", true), 1)).toEqual([1]);
  const change = encodeChange({ path: "/f", owner: "a:b", recursive: true });
  expect([words(change, 2), text(change.subarray(8))]).toEqual([[2 | 4, 0], "a:b\0/f"]);
  const stat = new Uint8Array(32);
  new DataView(stat.buffer).setUint32(0, 100, true);
  new DataView(stat.buffer).setBigInt64(24, 1_500_000_000n, true);
  expect(decodeStat(stat)).toMatchObject({ kind: "folder", modifiedMs: 1500 });
});

test("terminals and statistics", () => {
  expect([...encodeTerminalSize(3, 40, 300)]).toEqual([3, 0, 0, 0, 40, 0, 44, 1]);
  expect(decodeTerminalOutput(new Uint8Array([1, 0, 0, 0, 7, 0, 0, 0, 65]))).toEqual({
    ...{ ended: true, exitCode: 7, output: new Uint8Array([65]) },
  });
  expect(decodeTerminalOutput(new Uint8Array(8))).toMatchObject({ ended: false, exitCode: null });
  const unknown = new Uint8Array(72).fill(0xff);
  expect(Object.values(decodeStatistics(unknown))).toEqual(Array(9).fill(null));
  unknown.set([64, 66, 15, 0, 0, 0, 0, 0], 0);
  expect(decodeStatistics(unknown).cpuSeconds).toBe(1);
});
