import { expect, test } from "bun:test";
import { archiveFiles } from "./archive-files.ts";

/** An entry of an archive as a sandbox sends it. */
function entry(kind: number, path: string | Uint8Array, content = "", mode = 0o644): Uint8Array {
  const name = typeof path === "string" ? new TextEncoder().encode(path) : path;
  const body = new TextEncoder().encode(content);
  const bytes = new Uint8Array(40 + name.length + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, kind);
  view.setUint32(4, mode, true);
  view.setUint32(24, name.length, true);
  view.setBigUint64(32, BigInt(body.length), true);
  bytes.set(name, 40);
  bytes.set(body, 40 + name.length);
  return bytes;
}

const FILE = 1;
const FOLDER = 2;
const LINK = 3;
const read = (...entries: Uint8Array[]) => archiveFiles(Buffer.concat(entries), "/out", { maxFiles: 2, maxBytes: 10 });

test("files come sorted, with nothing of their mode but whether they can be run", () => {
  expect(read(entry(FILE, "b", "2", 0o4755), entry(FOLDER, "a"), entry(FILE, "a/c", "1", 0o600))).toMatchObject([
    { path: "a/c", mode: 0o644 },
    { path: "b", mode: 0o755 },
  ]);
});

test.each<[string, Uint8Array[]]>([
  ["is a link", [entry(LINK, "x", "/etc/passwd")]],
  ["leads out of it", [entry(FILE, "../x")]],
  ["leads out of it", [entry(FILE, "a/./b")]],
  ["leads out of it", [entry(FILE, "/etc/x")]],
  ["leads out of it", [entry(FILE, "a//b")]],
  ["characters that cannot be shown", [entry(FILE, "a\u001b[2J")]],
  ["characters that cannot be shown", [entry(FILE, "a\\b")]],
  ["is not UTF-8", [entry(FILE, Uint8Array.of(0xff, 0xfe))]],
  ["more than 200 characters", [entry(FILE, "x".repeat(201))]],
  ["more than 2 files", [entry(FILE, "a"), entry(FILE, "b"), entry(FILE, "c")]],
  ["more than 10 bytes", [entry(FILE, "a", "12345678901")]],
])("what %s is refused", (why, entries) => {
  expect(() => read(...entries)).toThrow(why);
});
