/** Files read, written and changed for whoever drives the sandbox: through links, and never out of it. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { FileMissing, SandboxFiles } from "../../src/sandbox/sandbox-files.ts";
import { ENVIRONMENT, LIMITS, manyUsers, openProvider, output, type TestProvider, text } from "./support.ts";

let provider: TestProvider;
let sandbox: NativeSandbox;
let files: SandboxFiles;
beforeAll(async () => {
  provider = await openProvider();
  sandbox = await provider.create(ENVIRONMENT);
  files = new SandboxFiles(sandbox);
});
afterAll(() => provider?.close());

const bytes = (value: string) => new TextEncoder().encode(value);

test("what is written is read, whatever the bytes and however many", async () => {
  const content = new Uint8Array(3_000_000).map((_, i) => (i * 7) % 256);
  await files.write("/work/deep/er/data.bin", content);
  expect(Buffer.compare(await files.read("deep/er/data.bin"), content)).toBe(0);
  expect(await files.readPart("deep/er/data.bin", 2_999_990, 100)).toMatchObject({ size: 3_000_000 });
  await files.write("deep/er/data.bin", bytes("short"));
  expect(text(await files.read("/work/deep/er/data.bin"))).toBe("short");
  await files.write("empty", new Uint8Array(0));
  expect(await files.read("empty")).toHaveLength(0);
  await expect(files.read("deep/er/data.bin", 4)).rejects.toThrow("larger than 4 bytes");
  await expect(files.read("nonesuch")).rejects.toBeInstanceOf(FileMissing);
});

test("modes stay, or are what was asked for", async () => {
  await files.write("script", bytes("#!/bin/sh\necho ran\n"), 0o755);
  await files.write("script", bytes("#!/bin/sh\necho again\n"));
  expect(await output(sandbox, "./script; stat -c %a script")).toBe("again\n755\n");
  expect(await files.stat("script")).toMatchObject({ kind: "file", mode: 0o755, uid: 0, size: 21 });
});

test.each([
  [1, 2, "one\ntwo\n"],
  [2, 2, "two\n"],
  [3, undefined, "three\nfour"],
  [4, 99, "four"],
  [9, 12, ""],
])("lines %j to %j", async (first, last, expected) => {
  await files.write("lines", bytes("one\ntwo\nthree\nfour"));
  expect(text(await files.readLines("lines", first, last, 1000))).toBe(expected);
});

test("line ranges are checked, and capped", async () => {
  await expect(files.readLines("lines", 0, 1, 100)).rejects.toThrow("count from 1");
  await expect(files.readLines("lines", 3, 2, 100)).rejects.toThrow("before the first");
  await files.write("long", bytes("x".repeat(500_000)));
  await expect(files.readLines("long", 1, 1, 1000)).rejects.toThrow("larger than 1000 bytes");
});

test("links are followed inside, and lead nowhere else", async () => {
  await output(
    sandbox,
    "ln -s script alias; ln -s /etc/../../../../work/lines far; ln -s loop loop; ln -s /proc/1/root/etc/hostname magic",
  );
  expect(text(await files.read("alias"))).toContain("again");
  expect(text(await files.read("far"))).toContain("one");
  await files.write("far", bytes("through"));
  expect(text(await files.read("lines"))).toBe("through");
  expect(await files.stat("alias", false)).toMatchObject({ kind: "link" });
  expect(await files.stat("alias")).toMatchObject({ kind: "file" });
  await expect(files.read("loop")).rejects.toThrow("symbolic link");
  await expect(files.read("magic")).rejects.toThrow();
  expect(text(await files.read("../../../../../etc/hostname"))).toBe("sandbox\n");
});

test("what is no regular file is refused at once", async () => {
  await output(sandbox, "mkfifo fifo; mkdir -p folder; ln -s /proc/self/mem mem; ln -s /proc/self/environ environ");
  for (const path of ["fifo", "folder", "/dev/zero", "/proc/cpuinfo", "mem", "environ"]) {
    await expect(files.read(path)).rejects.toThrow(/not a regular file|Permission denied/);
    await expect(files.write(path, bytes("x"))).rejects.toThrow();
  }
  expect(await files.stat("folder")).toMatchObject({ kind: "folder" });
  expect(await files.stat("fifo")).toMatchObject({ kind: "other" });
});

test("a full disk and what may not be written are said", async () => {
  await expect(files.write("huge", new Uint8Array(ENVIRONMENT.diskBytes))).rejects.toThrow("No space left");
  await sandbox.exec(["rm", "-f", "huge"], { ...LIMITS, cwd: "/work" });
  await files.write("huge", bytes("fits"));
});

test("modes of files and of whole folders, links left alone", async () => {
  await output(
    sandbox,
    "mkdir -p tree/a/b; touch tree/f tree/a/b/g; touch lines; chmod 644 lines; ln -s /work/lines tree/out",
  );
  await files.change({ path: "tree/f", mode: 0o600 });
  await files.change({ path: "tree", mode: 0o750, recursive: true });
  expect(await output(sandbox, "stat -c %a tree tree/f tree/a/b tree/a/b/g lines | tr '\\n' ' '")).toBe(
    "750 750 750 750 644 ",
  );
  await expect(files.change({ path: "nonesuch", mode: 0o600 })).rejects.toBeInstanceOf(FileMissing);
  await expect(files.change({ path: "/", mode: 0o600 })).rejects.toThrow();
});

test.skipIf(!manyUsers)("owners by name and number", async () => {
  await output(
    sandbox,
    "echo 'ann:x:1000:1001::/home/ann:/bin/sh' >> /etc/passwd; mkdir -p own/below; touch own/below/f; ln -s /etc/hostname own/l",
  );
  await files.change({ path: "own", owner: "ann", recursive: true });
  expect(await output(sandbox, "stat -c %u:%g own own/below/f /etc/hostname | tr '\\n' ' '")).toBe(
    "1000:1001 1000:1001 0:0 ",
  );
  await files.change({ path: "own/below/f", owner: "7:8" });
  await files.change({ path: "own/below/f", owner: ":9" });
  expect(await output(sandbox, "stat -c %u:%g own/below/f")).toBe("7:9\n");
  await expect(files.change({ path: "own", owner: "bob" })).rejects.toThrow("no user bob");
});
