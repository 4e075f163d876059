/** Files in and out: nothing an agent plants leads elsewhere. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { ENVIRONMENT, file, LIMITS, openProvider, output, type TestProvider, text } from "./support.ts";

let provider: TestProvider;
let sandbox: NativeSandbox;
beforeAll(async () => {
  provider = await openProvider();
  sandbox = await provider.create(ENVIRONMENT);
});
afterAll(() => provider?.close());

/** Everything about a folder that a task can depend on. */
const LISTING = `find . -mindepth 1 -printf '%P %y %m %s %l %T@\\n' | sort; find . -type f -exec sha256sum {} + | sort`;

describe("upload", () => {
  test("makes parents, sets modes, keeps bytes", async () => {
    const bytes = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7919) & 255);
    await sandbox.upload("/work/in/deep", [
      file("a/b/c.sh", "echo run\n", 0o755),
      file("bin", bytes, 0o600),
      file("e", ""),
    ]);
    expect(
      await output(sandbox, "cd /work/in/deep; find . -type f -printf '%P %m %s\\n' | sort; ./a/b/c.sh; cd /work"),
    ).toBe("a/b/c.sh 755 9\nbin 600 300000\ne 644 0\nrun\n");
    expect(await sandbox.readFile("/work/in/deep/bin", 1 << 20)).toEqual(bytes);
  });

  test("replaces files that are there", async () => {
    await sandbox.upload("/work/again", [file("x", "one")]);
    await sandbox.upload("/work/again", [file("x", "two", 0o700)]);
    expect(await output(sandbox, "cat /work/again/x; stat -c %a /work/again/x")).toBe("two700\n");
  });

  test.each(["../escape", "/absolute", "a/../../b", "..", "a/", ""])("refuses the name %j", async (path) => {
    await expect(sandbox.upload("/work/names", [file(path, "x")])).rejects.toMatchObject({ code: "sandbox" });
  });

  test("does not follow links that the agent planted", async () => {
    await sandbox.run(
      "mkdir -p /work/p; ln -s /tmp /work/p/link; ln -s /tmp/target /work/p/file; ln -s /tmp /work/dirlink",
      LIMITS,
    );
    await expect(sandbox.upload("/work/p", [file("link/x", "x")])).rejects.toThrow("link/x");
    await expect(sandbox.upload("/work/dirlink", [file("x", "x")])).rejects.toMatchObject({ code: "sandbox" });
    await sandbox.upload("/work/p", [file("file", "x")]);
    expect(await output(sandbox, "ls -A /tmp; stat -c %F /work/p/file")).toBe("regular file\n");
  });

  test("replaceFolder removes what was planted", async () => {
    await sandbox.run(
      "mkdir -p /r/a/b; touch /r/a/b/c; ln -s /work /r/l; mkdir /elsewhere; touch /elsewhere/kept; ln -s /elsewhere /s",
      LIMITS,
    );
    await sandbox.replaceFolder("/r", [file("only", "1")]);
    await sandbox.replaceFolder("/s", [file("only", "1")]);
    expect(await output(sandbox, "find /r /s /elsewhere | sort")).toBe(
      "/elsewhere\n/elsewhere/kept\n/r\n/r/only\n/s\n/s/only\n",
    );
  });
});

describe("readFile", () => {
  test("bytes, or null", async () => {
    await sandbox.run(
      "printf 'a\\0b' > /work/f; mkdir -p /work/d; mkfifo /work/fifo; ln -s /etc/passwd /work/l; ln -s /etc /work/dl",
      LIMITS,
    );
    expect(text(await sandbox.readFile("/work/f", 100))).toBe("a\0b");
    expect(await sandbox.readFile("/work/none", 100)).toBeNull();
    expect(await sandbox.readFile("/work/f/none", 100)).toBeNull();
    expect(text(await sandbox.readFile("/etc/hostname", 100))).toBe("sandbox\n");
  });

  test.each([
    ["/work/l", "symbolic link"],
    ["/work/dl/passwd", "symbolic link"],
    ["/work/d", "not a regular file"],
    ["/work/fifo", "not a regular file"],
    ["/dev/zero", "not a regular file"],
    ["/proc/self/exe", "symbolic link"],
    ["/proc/self/root/etc/passwd", "symbolic link"],
    ["/work/../etc/passwd", null],
  ])("%s", async (path, why) => {
    const reading = sandbox.readFile(path, 10_000);
    if (why === null) expect(text(await reading)).toStartWith("root:");
    else await expect(reading).rejects.toThrow(why);
  });

  test("a size limit", async () => {
    await sandbox.run("head -c 1000 /dev/zero > /work/k", LIMITS);
    expect((await sandbox.readFile("/work/k", 1000))?.length).toBe(1000);
    await expect(sandbox.readFile("/work/k", 999)).rejects.toThrow("larger than 999 bytes");
  });

  test("relative paths are refused", async () => {
    await expect(sandbox.readFile("etc/passwd", 10)).rejects.toThrow("must be absolute");
  });
});

describe("export and import", () => {
  test("a folder arrives as it was: kinds, modes, times, contents", async () => {
    const other = await provider.create(ENVIRONMENT);
    const make = [
      "mkdir -p /work/t/sub/empty /work/t/ro && cd /work/t",
      "echo hello > plain; printf '' > nothing; head -c 200000 /dev/urandom > big",
      "echo x > 'name with  spaces\nand newline'; echo y > $'\\xff\\xfe'; echo z > -dash",
      "ln -s plain good; ln -s /nowhere/at/all dangling; ln -s ../.. up",
      "echo '#!/bin/sh' > run.sh; chmod 4755 run.sh; chmod 000 nothing; echo r > ro/f; chmod 555 ro; chmod 1777 sub",
      "touch -d '2001-02-03 04:05:06.789' plain; touch -h -d '2002-01-01' good; touch -d '2003-01-01' ro sub sub/empty",
    ];
    for (const line of make) expect(await output(sandbox, line)).toBe("");
    const archive = await sandbox.exportFolder("/work/t", 1 << 20);
    await other.importFolder("/work/copy", archive);
    const listing = await output(sandbox, `cd /work/t && ${LISTING}`);
    expect(listing).toContain("plain f 644 6  981173106.7890000000");
    expect(listing).toContain("run.sh f 4755");
    expect(listing).toContain("ro d 555");
    expect(await output(other, `cd /work/copy && ${LISTING}`)).toBe(listing);
    expect(await other.exportFolder("/work/copy", 1 << 20)).toEqual(archive);
    await sandbox.run("cd /work", LIMITS);
    await other.destroy();
  });

  test("devices, fifos and sockets stay behind; hard links become files", async () => {
    const own = await provider.create(ENVIRONMENT);
    await own.run(
      "mkdir x; mkfifo x/fifo; echo 1 > x/a; ln x/a x/b; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"x/s\")'",
      LIMITS,
    );
    await own.importFolder("/copy", await own.exportFolder("/work/x", 1 << 20));
    expect(await output(own, "ls /copy | tr '\\n' ' '; stat -c %h /copy/a")).toBe("a b 1\n");
    await own.destroy();
  });

  test("caps on bytes, entries and depth", async () => {
    const own = await provider.create({ ...ENVIRONMENT, memoryBytes: 256 << 20, diskBytes: 1 << 30 });
    await own.run("mkdir s d; truncate -s 1T s/sparse; p=d; for i in $(seq 200); do p=$p/n; done; mkdir -p $p", LIMITS);
    await expect(own.exportFolder("/work/s", 1 << 20)).rejects.toThrow("larger than allowed");
    await expect(own.exportFolder("/work/d", 1 << 20)).rejects.toThrow("nested too deeply");
    await own.exec(["sh", "-c", "mkdir m; cd m; seq 100001 | xargs touch"], { ...LIMITS, cwd: "/work" });
    await expect(own.exportFolder("/work/m", 1 << 30)).rejects.toThrow("too many entries");
    await expect(own.exportFolder("/work/none", 1)).rejects.toThrow("there is no folder /work/none");
    await own.destroy();
  });

  test("a folder that is a link, or lies behind one, is refused", async () => {
    await sandbox.run("ln -s /etc /work/etclink", LIMITS);
    await expect(sandbox.exportFolder("/work/etclink", 1 << 20)).rejects.toMatchObject({ code: "sandbox" });
    const archive = await sandbox.exportFolder("/work/again", 1 << 20);
    await expect(sandbox.importFolder("/work/etclink", archive)).rejects.toMatchObject({ code: "sandbox" });
  });

  test("mounts are not walked into", async () => {
    const archive = await sandbox.exportFolder("/", 4 << 20);
    expect(text(archive)).not.toContain("proc/1/");
    expect(text(archive)).toContain("etc/passwd");
  });

  /** Archives as no exporter makes them. */
  const entry = (type: number, path: string, content: string, size = content.length) => {
    const head = new DataView(new ArrayBuffer(40));
    head.setUint8(0, type);
    head.setUint32(4, 0o644, true);
    head.setUint32(24, path.length, true);
    head.setBigUint64(32, BigInt(size), true);
    return Buffer.concat([Buffer.from(head.buffer), Buffer.from(path), Buffer.from(content)]);
  };
  const end = entry(0, "", "");

  test.each<[string, Uint8Array]>([
    ["a file through its own link", Buffer.concat([entry(3, "l", "/tmp"), entry(1, "l/x", "boo"), end])],
    ["an absolute path", Buffer.concat([entry(1, "/tmp/abs", "boo"), end])],
    ["a path upwards", Buffer.concat([entry(1, "a/../../tmp/up", "boo"), end])],
    ["an unknown kind", Buffer.concat([entry(9, "dev", ""), end])],
    ["no end", entry(1, "x", "boo")],
    ["a short file", entry(1, "x", "boo", 1000)],
    ["a NUL in a name", Buffer.concat([entry(1, "a\0b", "boo"), end])],
    ["an empty name", Buffer.concat([entry(1, "", "boo"), end])],
    ["garbage", Buffer.from("garbage".repeat(1000))],
    ["nothing", new Uint8Array(0)],
  ])("%s is refused", async (_name, archive) => {
    const own = await provider.create(ENVIRONMENT);
    await expect(own.importFolder("/work/in", archive)).rejects.toMatchObject({ code: "sandbox" });
    expect(await output(own, "find /tmp")).toBe("/tmp\n");
    await own.destroy();
  });

  test("an archive larger than the disk fails, and the sandbox lives", async () => {
    const own = await provider.create(ENVIRONMENT);
    const archive = Buffer.concat([entry(1, "big", "", 64 << 20), Buffer.alloc(64 << 20), end]);
    await expect(own.importFolder("/work/in", archive)).rejects.toThrow("No space left");
    expect((await own.limitEvents()).disk).toBe(1);
    expect(await output(own, "rm -r /work/in; echo on")).toBe("on\n");
    await own.destroy();
  });
});
