import { expect, test } from "bun:test";
import { readClientHello } from "./client-hello.ts";

const u16 = (value: number) => [value >> 8, value & 255];
const extension = (type: number, content: number[]) => [...u16(type), ...u16(content.length), ...content];
const names = (...list: string[]) => {
  const entries = list.flatMap((name) => [0, ...u16(name.length), ...Buffer.from(name)]);
  return extension(0, [...u16(entries.length), ...entries]);
};

/** A ClientHello with these extensions, in records of at most `size` bytes. */
function hello(extensions: number[], size = 16_384): Uint8Array {
  const body = [3, 3, ...Array(32).fill(7), 0, ...u16(2), 0x13, 1, 1, 0, ...u16(extensions.length), ...extensions];
  const message = [1, 0, ...u16(body.length), ...body];
  const records: number[] = [];
  for (let at = 0; at < message.length; at += size) {
    const part = message.slice(at, at + size);
    records.push(22, 3, 1, ...u16(part.length), ...part);
  }
  return Uint8Array.from(records);
}

test("the name, in one record or in many, and not before all has come", () => {
  for (const size of [16_384, 40, 8]) {
    const bytes = hello([...extension(43, [2, 3, 4]), ...names("a.example")], size);
    expect(readClientHello(bytes)).toEqual({ kind: "hello", serverName: "a.example" });
    for (let length = 0; length < bytes.length; length++)
      expect(readClientHello(bytes.subarray(0, length)).kind).toBe("more");
    expect(readClientHello(Uint8Array.from([...bytes, 23, 3, 3, 0, 1, 9]))).toEqual({
      kind: "hello",
      serverName: "a.example",
    });
  }
  expect(readClientHello(hello([]))).toEqual({ kind: "hello", serverName: undefined });
});

test("what hides the name, gives several, or is no TLS", () => {
  const reasons: readonly (readonly [Uint8Array, RegExp])[] = [
    [hello([...names("a.example"), ...extension(0xfe0d, [0, 1, 2])]), /hides the name/],
    [hello([...extension(0xffce, []), ...names("a.example")]), /hides the name/],
    [hello(names("a.example", "b.example")), /several names/],
    [hello([...names("a.example"), ...names("b.example")]), /several names/],
    [hello(extension(0, [0, 9, 0, 0, 3])), /malformed/],
    [hello([0, 0, 255, 255]), /malformed/],
    [new TextEncoder().encode("GET / HTTP/1.1"), /not TLS/],
    [new TextEncoder().encode("SSH-2.0-x"), /not TLS/],
    [Uint8Array.from([22, 3, 1, 0, 0]), /bad length/],
    [Uint8Array.from([22, 3, 1, 0, 4, 2, 0, 0, 0]), /begin with a ClientHello/],
    [Uint8Array.from([22, 3, 1, 0, 4, 1, 255, 255, 255]), /too long/],
    [hello(names("a.example"), 1), /too many records/],
  ];
  for (const [bytes, reason] of reasons)
    expect(readClientHello(bytes)).toEqual({ kind: "bad", reason: expect.stringMatching(reason) });
});
