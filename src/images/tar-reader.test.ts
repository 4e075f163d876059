import { expect, test } from "bun:test";
import { ByteSource } from "./byte-source.ts";
import { LayerEntries } from "./layer-entries.ts";
import { Allowance } from "./limits.ts";
import { readTarItems } from "./tar-reader.ts";

const encoder = new TextEncoder();

function header(name: string, flag: string, size: number, fill: (head: Uint8Array) => void = () => {}): Uint8Array {
  const head = new Uint8Array(512);
  const text = (at: number, value: string) => head.set(encoder.encode(value), at);
  text(0, name);
  text(100, "0000644\0");
  text(108, "0000000\0");
  text(116, "0000000\0");
  text(124, `${size.toString(8).padStart(11, "0")}\0`);
  text(136, "00000000000\0");
  text(148, "        ");
  text(156, flag);
  text(257, "ustar\x0000");
  fill(head);
  text(
    148,
    `${head
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, "0")}\0`,
  );
  return head;
}

const padded = (text: string) => {
  const bytes = encoder.encode(text);
  const all = new Uint8Array(Math.ceil(bytes.length / 512) * 512);
  all.set(bytes);
  return all;
};
const record = (key: string, value: string) => {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length;
  while (`${length}`.length + rest.length !== length) length = `${length}`.length + rest.length;
  return `${length}${rest}`;
};
const octal = (head: Uint8Array, at: number, value: number) =>
  head.set(encoder.encode(`${value.toString(8).padStart(11, "0")}\0`), at);

/** One file of each form; where it is sparse, `ab`, a hole of four, `cd`, a hole of two. */
const FILES: readonly (readonly [path: string, blocks: readonly Uint8Array[]])[] = [
  ["plain", [header("plain", "0", 3), padded("abc")]],
  ["old/name", [header("name", "\0", 0, (head) => head.set(encoder.encode("old"), 345))]],
  [
    "binary",
    [
      header("binary", "0", 0, (head) => {
        head.fill(0, 124, 136);
        head[124] = 0x80;
        head[135] = 3;
      }),
      padded("abc"),
    ],
  ],
  ["n".repeat(150), [header("x", "L", 151), padded(`${"n".repeat(150)}\0`), header("short", "0", 0)]],
  [
    "gnu",
    [
      header("gnu", "S", 4, (head) => {
        for (const [i, value] of [0, 2, 6, 2].entries()) octal(head, 386 + 12 * i, value);
        octal(head, 483, 10);
      }),
      padded("abcd"),
    ],
  ],
  [
    "posix",
    (() => {
      const map = padded("2\n0\n2\n6\n2\n");
      const said = [
        ...[record("GNU.sparse.major", "1"), record("GNU.sparse.minor", "0")],
        ...[record("GNU.sparse.name", "posix"), record("GNU.sparse.realsize", "10")],
      ].join("");
      return [header("p", "x", said.length), padded(said), header("other", "0", 512 + 4), map, padded("abcd")];
    })(),
  ],
];

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

test.each([1, 7, 512, 1 << 20])("every form is read, in pieces of %d bytes", async (size) => {
  const bytes = Buffer.concat([...FILES.flatMap(([, blocks]) => blocks), new Uint8Array(1024)]);
  const found: [string, string][] = [];
  for await (const item of readTarItems(new ByteSource(pieces(bytes, size)))) {
    const parts: Uint8Array[] = [];
    // What is not read is skipped.
    if (item.path.length !== 150) for await (const part of item.content()) parts.push(part.slice());
    found.push([new TextDecoder().decode(item.path), Buffer.concat(parts).toString("latin1").replaceAll("\0", ".")]);
  }
  expect(found).toEqual([
    ...FILES.slice(0, 4).map(([path], index): [string, string] => [path, index % 2 === 0 ? "abc" : ""]),
    ["gnu", "ab....cd.."],
    ["posix", "ab....cd.."],
  ]);
});

test("places of entries: whatever is written, they lie in the layer, or are refused", async () => {
  const place = async (path: string, options = {}) => {
    const entries = new LayerEntries({
      ...{ allowance: new Allowance({ bytes: 1000, entries: 100 }), isLayer: true, splitUsr: false, ...options },
    });
    const item = {
      type: "file" as const,
      path: encoder.encode(path),
      target: new Uint8Array(0),
      mode: 0o644,
      uid: 0,
      gid: 0,
    };
    const whole = { ...item, modified: 0, size: 0, attributes: [], async *content() {} };
    const found: string[] = [];
    for await (const entry of entries.of(whole))
      found.push(`${entry[0]} ${new TextDecoder().decode(entry.subarray(40))}`);
    return found.join();
  };
  expect(await place("./a//b/./c")).toBe("1 root.up/a/b/c");
  expect(await place("/etc/passwd")).toBe("1 root.up/etc/passwd");
  expect(await place("d/.wh.gone")).toBe("6 root.up/d/gone");
  expect(await place("d/.wh..wh..opq")).toBe("7 root.up/d");
  expect(await place("d/.wh..wh.plnk")).toBe("");
  expect(await place("d/.wh.gone", { isLayer: false })).toBe("1 root.up/d/.wh.gone");
  expect(await place("usr/bin/x", { splitUsr: true })).toBe("1 usr.up/bin/x");
  expect(await place("usr", { splitUsr: true })).toBe("");
  for (const path of ["..", "a/..", "a/../b", "/../x", "../.wh.x", ".wh...", ".wh..", "d/.wh.", ".wh..wh..opq"])
    await expect(place(path)).rejects.toThrow("the archive has");
});
