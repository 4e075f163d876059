import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createMemoryFile } from "./memory-file.ts";
import { cacheBases, cachedPath, cacheNative, type NativeFile } from "./native-cache.ts";

const CONTENT = new TextEncoder().encode("#!/bin/sh\necho here\n");

let base = "";
let reads = 0;
const file: NativeFile = {
  name: "tool",
  size: CONTENT.length,
  sha256: new Bun.CryptoHasher("sha256").update(CONTENT).digest("hex"),
  read: () => {
    reads++;
    return CONTENT;
  },
};

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "ale-cache-"));
  reads = 0;
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

describe("cache of native files", () => {
  test("writes once, and the copy runs", () => {
    const path = cacheNative(base, file);
    expect(path).toBe(cachedPath(base, file));
    expect(Bun.spawnSync([path]).stdout.toString()).toBe("here\n");
    expect(cacheNative(base, file)).toBe(path);
    expect(reads).toBe(1);
    expect(readdirSync(dirname(path)).sort()).toEqual(["tool", "tool.verified"]);
  });

  test("a verified copy is not hashed again, one whose note is gone is", () => {
    const path = cacheNative(base, file);
    const note = readFileSync(`${path}.verified`, "utf8");
    rmSync(`${path}.verified`);
    cacheNative(base, file);
    expect(readFileSync(`${path}.verified`, "utf8")).toBe(note);
    expect(reads).toBe(1);
  });

  test.each([
    ["other bytes of the same length, with the old times", (path: string) => alter(path, flip(CONTENT))],
    ["cut off", (path: string) => alter(path, CONTENT.subarray(0, 5))],
    ["writable by others", (path: string) => chmodSync(path, 0o777)],
    ["not executable", (path: string) => chmodSync(path, 0o600)],
    ["deleted", (path: string) => rmSync(path)],
    [
      "a folder",
      (path: string) => {
        rmSync(path);
        mkdirSync(join(path, "x"), { recursive: true });
      },
    ],
    [
      "a link to elsewhere",
      (path: string) => {
        writeFileSync(join(base, "elsewhere"), CONTENT, { mode: 0o700 });
        rmSync(path);
        symlinkSync(join(base, "elsewhere"), path);
      },
    ],
  ])("replaces a copy that is %s", (_, spoil) => {
    const path = cacheNative(base, file);
    spoil(path);
    cacheNative(base, file);
    expect(reads).toBe(2);
    expect(readFileSync(path)).toEqual(Buffer.from(CONTENT));
    const { mode } = statSync(path);
    expect(mode & 0o777).toBe(0o700);
  });

  test("a folder that everybody may write to is refused", () => {
    chmodSync(base, 0o777);
    expect(() => cacheNative(base, file)).toThrow("other users may change");
    expect(existsSync(cachedPath(base, file))).toBe(false);
  });

  test("a sticky folder such as /tmp will do", () => {
    chmodSync(base, 0o1777);
    expect(cacheNative(base, file)).toBe(cachedPath(base, file));
  });

  test("folders are tried in the documented order, each once", () => {
    const user = process.getuid?.();
    const last = join(tmpdir(), `ale-${user}`, "cache");
    expect(cacheBases({ ALE_CACHE_DIR: "/a", XDG_CACHE_HOME: "/x", HOME: "/h" })).toEqual([
      "/a",
      "/x/ale",
      "/h/.cache/ale",
      last,
    ]);
    expect(cacheBases({ XDG_CACHE_HOME: "/h/.cache", HOME: "/h" })).toEqual(["/h/.cache/ale", last]);
    expect(cacheBases({ HOME: "" })).toEqual([last]);
  });
});

describe("native files in memory", () => {
  test("can be read and executed, also by a child", () => {
    const path = createMemoryFile("tool", readFileSync("/bin/true"));
    expect(readFileSync(path)).toEqual(readFileSync("/bin/true"));
    expect(Bun.spawnSync([path]).exitCode).toBe(0);
  });
});

function flip(bytes: Uint8Array): Uint8Array {
  return bytes.map((byte, index) => (index === 12 ? byte ^ 1 : byte));
}

function alter(path: string, bytes: Uint8Array): void {
  const { atime, mtime } = statSync(path);
  Bun.sleepSync(15); // Change times of older kernels tick every few milliseconds.
  writeFileSync(path, bytes);
  utimesSync(path, atime, mtime);
}
