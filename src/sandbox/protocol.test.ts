import { describe, expect, test } from "bun:test";
import {
  decodeResult,
  encodeCommand,
  encodeFiles,
  encodeImport,
  encodeMessage,
  encodePath,
  encodeSettings,
  encodeText,
  Flag,
  FrameReader,
  Op,
} from "./protocol.ts";

const bytes = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 31 + 7) & 255);

describe("frames", () => {
  test.each([0, 1, 1000, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 1 << 20])(
    "a message of %d bytes survives any cut",
    (length) => {
      const payload = bytes(length);
      const stream = encodeMessage(Op.import, 0xfffffffe, 7, payload);
      for (const cut of [1 + (length % 3), 17, 4096, stream.length]) {
        const reader = new FrameReader();
        const frames = [];
        const step = length > 10_000 ? Math.max(cut, 5000) : cut;
        for (let at = 0; at < stream.length; at += step) frames.push(...reader.push(stream.subarray(at, at + step)));
        expect(Buffer.concat(frames.map((frame) => frame.payload)).equals(payload)).toBe(true);
        expect(frames.map((frame) => frame.flags & Flag.more)).toEqual(
          frames.map((_, i) => (i + 1 < frames.length ? 1 : 0)),
        );
        for (const { op, request, sandbox } of frames)
          expect([op, request, sandbox]).toEqual([Op.import, 0xfffffffe, 7]);
      }
    },
  );

  test("several messages in one chunk", () => {
    const chunk = Buffer.concat([1, 2, 3].map((n) => encodeMessage(Op.run, n, n, bytes(n))));
    expect(new FrameReader().push(chunk).map((frame) => [frame.request, frame.payload.length])).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
  });

  test("payloads are copies", () => {
    const chunk = encodeMessage(Op.run, 1, 1, bytes(4));
    const [frame] = new FrameReader().push(chunk);
    chunk.fill(0);
    expect([...(frame?.payload ?? [])]).toEqual([...bytes(4)]);
  });

  test("nonsense is refused instead of waited for", () => {
    expect(() => new FrameReader().push(new Uint8Array(16).fill(255))).toThrow("frame of 4294967295 bytes");
  });
});

describe("payloads", () => {
  test("NUL is refused, since the launcher's strings end there", () => {
    expect(() => encodeText("the command", "a\0b")).toThrow("the command contains a NUL character");
    expect(() => encodeSettings([["mask", "/a\0root=/"]])).toThrow("setting mask contains a NUL character");
    expect(() => encodeFiles([{ path: "a\0b", mode: 0o644, content: bytes(1) }])).toThrow("NUL");
    expect(() => encodePath(1, "/a\0")).toThrow("NUL");
  });

  test("layouts are those of the launcher's structures", () => {
    expect(
      encodeSettings([
        ["a", 1],
        ["b", "x y"],
      ]),
    ).toEqual(Buffer.from("a=1\0b=x y\0"));
    const command = { timeoutMs: 1500, maxOutputBytes: 64, text: Buffer.from("ls") };
    expect(Buffer.from(encodeCommand(command))).toEqual(
      Buffer.from([0xdc, 5, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 108, 115]),
    );
    expect(Buffer.from(encodeCommand({ ...command, shell: 3, interactive: true })).subarray(8, 12)).toEqual(
      Buffer.from([3, 0, 1, 0]),
    );
    expect(Buffer.from(encodePath(2 ** 33, "/x"))).toEqual(Buffer.from([0, 0, 0, 0, 2, 0, 0, 0, 47, 120]));
    expect(Buffer.from(encodeImport("/d", bytes(2), true))).toEqual(Buffer.from([1, 0, 2, 0, 47, 100, 7, 38]));
    const archive = encodeFiles([{ path: "f", mode: 0o755, content: Buffer.from("hi") }]);
    expect(archive.length).toBe(40 + 1 + 2 + 40);
    const view = new DataView(archive.buffer);
    expect([view.getUint8(0), view.getUint32(4, true), view.getUint32(24, true), view.getUint8(43)]).toEqual([
      1, 0o755, 1, 0,
    ]);
    expect([view.getBigInt64(16, true), view.getBigUint64(32, true)]).toEqual([-1n, 2n]);
  });

  test("limits out of range are brought into it", () => {
    const view = (timeout: number, output: number) =>
      new DataView(encodeCommand({ timeoutMs: timeout, maxOutputBytes: output, text: new Uint8Array(0) }).buffer);
    expect(view(0, 1e12).getUint32(0, true)).toBe(1);
    expect(view(0, 1e12).getUint32(4, true)).toBe(0xffffffff);
  });

  test("results", () => {
    const payload = new Uint8Array(44);
    const view = new DataView(payload.buffer);
    payload.set([2, 1, 1], 0);
    view.setInt32(4, -3, true);
    view.setBigUint64(8, 5_000_000_000n, true);
    view.setBigUint64(16, 1500n, true);
    view.setBigUint64(24, 7n, true);
    view.setUint32(32, 3, true);
    payload.set([104, 105, 10, 33], 40);
    expect(decodeResult(payload)).toEqual({
      status: "output_limit",
      truncated: true,
      restarted: true,
      code: -3,
      outputBytes: 5e9,
      ms: 1.5,
      output: payload.subarray(40, 43),
      errorOutput: payload.subarray(43),
      errorOutputBytes: 7,
    });
    expect(() => decodeResult(payload.subarray(0, 20))).toThrow("short result");
    payload[0] = 9;
    expect(() => decodeResult(payload)).toThrow("unknown status");
  });
});
