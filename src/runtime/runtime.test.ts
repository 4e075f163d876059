import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OnnxBuilder } from "../onnx/builder.ts";
import { addressOf, allocateFloat32, allocateInt64, mapSharedFile } from "./memory.ts";
import { Session } from "./session.ts";
import { float32Value, int64Value, Value } from "./value.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-runtime-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** y = x · 2 + 1 over n elements. */
function affine(n: number, threads = 1): Session {
  const graph = new OnnxBuilder();
  const x = graph.input("x", "float32", [n]);
  const doubled = graph.node("Mul", [x, graph.scalar("float32", 2)]);
  graph.node("Add", [doubled, graph.scalar("float32", 1)], { outputs: ["y"] });
  graph.output("y", "float32", [n]);
  return new Session(graph.encode(), { threads });
}

describe("memory", () => {
  test("addresses stay put for every size from 1 to 2000, however the array was made", () => {
    for (let size = 1; size <= 2000; size++) {
      for (const array of [
        new Float32Array(size),
        allocateFloat32(size),
        Float32Array.from({ length: size }, () => 1),
      ]) {
        const before = addressOf(array);
        array.subarray(0, 1).fill(7);
        const whole = array.buffer;
        expect(addressOf(array)).toBe(before);
        expect(addressOf(new Uint8Array(whole)) + array.byteOffset).toBe(before);
        expect(addressOf(array.subarray(size - 1))).toBe(before + (size - 1) * 4);
      }
    }
  });

  test("native code writes where JavaScript reads, also after collection and slicing", () => {
    for (const size of [1, 2, 31, 32, 250, 999, 1000, 1001, 2000]) {
      const session = affine(size);
      const x = new Float32Array(size).fill(3);
      const y = new Float32Array(size);
      const call = session.prepare({ x: float32Value(x, [size]) }, { y: float32Value(y, [size]) });
      y.subarray(0, 1);
      x.subarray(0, 1);
      Bun.gc(true);
      call();
      expect(y.every((value) => value === 7)).toBe(true);
      session.release();
    }
  });

  test("a shared file mapping is seen by every mapping and by readers of the file", () => {
    const path = join(folder, "shared.bin");
    const first = new Float32Array(mapSharedFile(path, 4096).buffer, 0, 1024);
    const second = new Float32Array(mapSharedFile(path, 4096).buffer, 0, 1024);
    first[1000] = 4.5;
    expect(second[1000]).toBe(4.5);
    expect(new Float32Array(new Uint8Array(readFileSync(path)).buffer)[1000]).toBe(4.5);
    expect(readFileSync(path).length).toBe(4096);
  });

  test("no other file of the source tree asks for addresses", async () => {
    const root = join(import.meta.dir, "..");
    const offenders: string[] = [];
    for await (const path of new Bun.Glob("**/*.{ts,tsx}").scan(root)) {
      const imports = /import[^;]*\bptr\b[^;]*"bun:ffi"/.test(await Bun.file(join(root, path)).text());
      if (imports && path !== "runtime/memory.ts") offenders.push(path);
    }
    expect(offenders).toEqual([]);
  });

  test("a folder that does not exist is an engine error that names the file", () => {
    expect(() => mapSharedFile(join(folder, "none", "x"), 64)).toThrow(/cannot open .*none/);
  });
});

describe("session", () => {
  test("a prepared call reads fresh inputs at every run", () => {
    const session = affine(4);
    const x = allocateFloat32(4);
    const y = allocateFloat32(4);
    const call = session.prepare({ x: float32Value(x, [4]) }, { y: float32Value(y, [4]) });
    for (const value of [1, -2, 10]) {
      x.fill(value);
      call();
      expect([...y]).toEqual(Array(4).fill(value * 2 + 1));
    }
    session.release();
    session.release();
    expect(call).toThrow("released");
  });

  test("a background run overlaps with others of the same session and ends before wait returns", () => {
    const session = affine(1000, 2);
    const runs = [1, 2].map((value) => {
      const x = allocateFloat32(1000).fill(value);
      const y = allocateFloat32(1000);
      return { x, y, feeds: { x: float32Value(x, [1000]) }, fetches: { y: float32Value(y, [1000]) } };
    });
    const [first, second] = runs as [(typeof runs)[0], (typeof runs)[0]];
    const background = session.prepareBackground(first.feeds, first.fetches);
    const foreground = session.prepare(second.feeds, second.fetches);
    for (let i = 0; i < 100; i++) {
      first.y.fill(0);
      second.y.fill(0);
      background.start();
      foreground();
      background.wait();
      expect(first.y[999]).toBe(3);
      expect(second.y[0]).toBe(5);
    }
    session.release();
    expect(() => background.start()).toThrow("released");
  });

  test("a background run that fails leaves its outputs unwritten; one needs two threads", () => {
    const session = affine(8, 2);
    const y = allocateFloat32(8).fill(7);
    const broken = session.prepareBackground({}, { y: float32Value(y, [8]) });
    broken.start();
    broken.wait();
    expect(y[0]).toBe(7);
    session.release();
    const single = affine(8, 1);
    const value = float32Value(allocateFloat32(8), [8]);
    expect(() => single.prepareBackground({ x: value }, { y: value }).start()).toThrow("start graph");
    single.release();
  });

  test("numbers too small to be normal count as 0, on the caller's thread and in the background", () => {
    const x = new Float32Array([1e-40]);
    const y = new Float32Array(1);
    const feeds = { x: float32Value(x, [1]) };
    const graph = new OnnxBuilder();
    graph.node("Mul", [graph.input("x", "float32", [1]), graph.scalar("float32", 2)], { outputs: ["y"] });
    graph.output("y", "float32", [1]);
    const doubling = new Session(graph.encode(), { threads: 2 });
    doubling.prepare(feeds, { y: float32Value(y, [1]) })();
    expect(y[0]).toBe(0);
    y[0] = 1;
    const background = doubling.prepareBackground(feeds, { y: float32Value(y, [1]) });
    background.start();
    background.wait();
    expect(y[0]).toBe(0);
    doubling.release();
  });

  test("an output may alias its input", () => {
    const session = affine(3);
    const x = allocateFloat32(3);
    const value = float32Value(x, [3]);
    const call = session.prepare({ x: value }, { y: value });
    call();
    call();
    expect([...x]).toEqual([3, 3, 3]);
    session.release();
  });

  test("a graph that is not valid and a missing input fail with the runtime's message", () => {
    expect(() => new Session(new Uint8Array([1, 2, 3]), { threads: 1 })).toThrow(/compile graph/);
    const session = affine(3);
    const y = float32Value(allocateFloat32(3), [3]);
    expect(session.prepare({}, { y })).toThrow(/run graph: .*x/s);
    session.release();
  });

  test("values must have as many elements as their shape says", () => {
    expect(() => float32Value(allocateFloat32(3), [2, 2])).toThrow("[2,2] needs 4 elements, got 3");
    expect(() => new Value("int64", [2], allocateFloat32(2))).toThrow();
    const value = int64Value(allocateInt64(2), [2]);
    value.release();
    expect(() => value.handle).toThrow("released");
  });
});
