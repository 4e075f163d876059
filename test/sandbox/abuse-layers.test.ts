/** Attacks by way of files: the overlay's own attributes, links across layers and forks, archives that grow. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { archiveToTar, tarToArchive } from "../../src/sandbox/tar.ts";
import {
  compileProbe,
  ENVIRONMENT,
  file,
  LIMITS,
  openProvider,
  outcome,
  output,
  type TestProvider,
  text,
  until,
} from "./support.ts";

let provider: TestProvider;
let program: Uint8Array;
beforeAll(async () => {
  provider = await openProvider();
  program = await compileProbe("intrusions");
});
afterAll(() => provider?.close());

async function fresh(environment = ENVIRONMENT): Promise<NativeSandbox> {
  const sandbox = await provider.create(environment);
  await sandbox.upload("/probe", [file("intrusions", program, 0o755)]);
  return sandbox;
}

const marker = `ale-abuse-${process.pid}`;

describe("attributes that the overlay acts on", () => {
  const FOLDERS = ["/work/d", "/usr/local/d", "/srv/d"];

  test("lead nowhere, in the sandbox that sets them and in forks that stand on it", async () => {
    await using sandbox = await fresh();
    const isRoot = sandbox.isolation.startsWith("root");
    const folders = FOLDERS.filter((folder) => isRoot || !folder.startsWith("/usr"));
    for (const folder of folders) {
      await sandbox.run(`mkdir -p ${folder}; echo own > ${folder}/file`, LIMITS);
      const found = await output(sandbox, `/probe/intrusions attributes ${folder}`);
      // The kernel's own are its own; a user's are the user's, and what they do is looked at below.
      expect(found.match(/^trusted\S* works$|security\S* works$/gm)).toBeNull();
    }
    const look = (one: NativeSandbox) =>
      output(one, folders.map((folder) => `ls -A ${folder}; cat ${folder}/file; ls ${folder}/passwd 2>&1`).join("; "));
    const before = await look(sandbox);
    expect(before).not.toContain("hostname");
    await using snapshot = await sandbox.snapshot();
    await using child = await provider.fork(snapshot);
    await using deeper = await child.snapshot();
    await using grandchild = await provider.fork(deeper);
    for (const one of [sandbox, child, grandchild]) {
      const seen = await look(one);
      for (const foreign of ["hostname", "nsswitch.conf", "alternatives"]) expect(seen).not.toContain(foreign);
      // A file may be hidden from its own forks by whoever wrote it, but it is never another.
      expect(seen).not.toContain("root:x:0:0");
      expect(await outcome(one, "echo on; id -u; test -s /etc/passwd")).toEqual([0, "on\n0\n"]);
    }
  }, 60_000);

  test("do not travel in archives", async () => {
    await using sandbox = await fresh();
    await using other = await fresh();
    await sandbox.run("mkdir d; echo own > d/file; /probe/intrusions attributes /work/d", LIMITS);
    await sandbox.run("rm -f d/whiteout", LIMITS);
    await other.importFolder("/work/copy", await sandbox.exportFolder("/work/d", 1 << 20));
    const list = "import os; print([os.listxattr(p) for p in ('/work/copy', '/work/copy/file')])";
    expect(await output(other, `cat /work/copy/file; python3 -c "${list}"`)).toBe("own\n[[], []]\n");
  });
});

describe("links", () => {
  test("planted in a layer lead a fork's files nowhere but into the fork", async () => {
    await using parent = await fresh();
    await parent.run(
      `rmdir /logs; ln -s /proc/1/root/../../tmp /logs; ln -s /etc in; ln -s ../../../../tmp/${marker} out`,
      LIMITS,
    );
    await using snapshot = await parent.snapshot();
    await using first = await provider.fork(snapshot);
    await using second = await provider.fork(snapshot);
    await expect(first.upload("/work/in", [file(marker, "x")])).rejects.toMatchObject({ code: "sandbox" });
    await expect(first.upload("/work", [file(`out/${marker}`, "x")])).rejects.toMatchObject({ code: "sandbox" });
    await first.run(`echo written > /work/in/${marker}; echo written > /work/out`, LIMITS);
    expect(await output(first, `cat /etc/${marker}`)).toBe("written\n");
    for (const one of [parent, second])
      expect(await output(one, `ls /etc/${marker} /tmp/${marker} 2>&1 | grep -c 'No such'`)).toBe("2\n");
    expect([`/etc/${marker}`, `/tmp/${marker}`].filter((path) => existsSync(path))).toEqual([]);
    // What replaces /logs is removed, not followed, when the verifier's folder is placed.
    await second.replaceFolder("/logs", []);
    expect(await output(second, "stat -c %F /logs")).toBe("directory\n");
  });

  test("swapped for folders while files are placed", async () => {
    await using sandbox = await fresh();
    await sandbox.run(
      "mkdir a; ln -s /etc b; (while :; do mv a c 2>/dev/null; mv b a; mv a b; mv c a; done) >/dev/null 2>&1 & sleep 0.1",
      LIMITS,
    );
    const outcomes = { placed: 0, refused: 0 };
    for (let i = 0; i < 200; i++)
      await sandbox.upload("/work/a", [file(marker, `${i}`)]).then(
        () => outcomes.placed++,
        () => outcomes.refused++,
      );
    expect(outcomes.placed + outcomes.refused).toBe(200);
    await sandbox.killAll();
    expect(await output(sandbox, `ls /etc/${marker} 2>&1`)).toContain("No such file");
    expect(existsSync(`/etc/${marker}`)).toBe(false);
  });
});

describe("archives that grow", () => {
  /** `tar` of this machine, on files of the test's own. */
  function tarOf(...options: string[]): Uint8Array {
    const folder = mkdtempSync(join(tmpdir(), "ale-bomb-"));
    try {
      writeFileSync(join(folder, "small"), "small");
      const made = Bun.spawnSync(["sh", "-c", `truncate -s 64G sparse; tar ${options.join(" ")} -cf - .`], {
        cwd: folder,
      });
      return new Uint8Array(made.stdout);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  test("a tar of holes is refused or is what it holds, before memory is taken for what it claims", () => {
    const before = process.memoryUsage().rss;
    const bomb = tarOf("--sparse", "--format=pax");
    expect(bomb.length).toBeLessThan(1 << 20);
    let size = 0;
    try {
      size = tarToArchive(bomb).length;
    } catch (error) {
      expect(error).toMatchObject({ code: expect.stringMatching(/usage|sandbox/) });
    }
    expect(size).toBeLessThan(1 << 20);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 << 20);
  });

  test("a header that claims more than follows is refused", () => {
    const good = archiveToTar(tarToArchive(tarOf("--exclude=sparse", "--format=ustar")));
    const name = Buffer.from("small");
    const at = Buffer.from(good).indexOf(name);
    for (const claim of [
      "77777777777\0",
      "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
      "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ]) {
      const bad = Buffer.from(good);
      bad.write(claim, at + 124, "latin1");
      bad.write("        ", at + 148, "latin1");
      const sum = bad.subarray(at, at + 512).reduce((total, byte) => total + byte, 0);
      bad.write(`${sum.toString(8).padStart(6, "0")}\0 `, at + 148, "latin1");
      expect(() => tarToArchive(bad)).toThrow();
    }
  });

  test("unpacked inside, they fill one sandbox's disk and nothing else", async () => {
    await using sandbox = await fresh();
    await using neighbour = await fresh();
    await using _ = neighbour;
    const bomb =
      "head -c 300M /dev/zero | gzip -1 > b.gz; ls b.gz >/dev/null && gunzip -c b.gz > big 2>&1; echo; ls -s --block-size=1M big | cut -d' ' -f1";
    expect(Number((await output(sandbox, bomb)).trim().split("\n").at(-1))).toBeLessThanOrEqual(16);
    const many =
      "python3 -c \"import tarfile,io; t=tarfile.open('m.tar','w'); [t.addfile(tarfile.TarInfo('m/%d'%i)) for i in range(8000)]; t.close()\"; rm -f big b.gz; python3 -c \"import tarfile; tarfile.open('m.tar').extractall()\" 2>&1 | tail -1";
    expect(await output(sandbox, many)).toMatch(/No space left|^$/);
    expect((await sandbox.limitEvents()).disk).toBe(1);
    expect(await output(neighbour, "head -c 8M /dev/zero > mine; ls -s --block-size=1M mine")).toBe("8 mine\n");
    expect((await neighbour.limitEvents()).disk).toBe(0);
  });

  test("taken out, a folder is no larger than was asked for, however it grows meanwhile", async () => {
    await using sandbox = await fresh();
    await sandbox.run(
      "(while :; do head -c 1M /dev/zero >> grow; head -c 100K grow > g$RANDOM; done) >/dev/null 2>&1 & sleep 0.2",
      LIMITS,
    );
    for (let i = 0; i < 5; i++) {
      const archive = await sandbox.exportFolder("/work", 4 << 20).catch((error) => error);
      if (archive instanceof Uint8Array) expect(archive.length).toBeLessThanOrEqual((4 << 20) + (1 << 20));
      else expect(archive).toMatchObject({ code: "sandbox" });
    }
    await sandbox.killAll();
  });
});

test("files of the sandbox lie in memory that is its own: no quota row of the host's file system is touched", async () => {
  await using sandbox = await fresh();
  const [size, inodes] = (await output(sandbox, "stat -f -c '%T %b %S' /; stat -f -c %c /")).trim().split("\n") as [
    string,
    string,
  ];
  expect(size).toStartWith("tmpfs ");
  const [, blocks, block] = size.split(" ").map(Number) as [number, number, number];
  expect(blocks * block).toBeLessThanOrEqual(ENVIRONMENT.diskBytes);
  expect(Number(inodes)).toBeLessThan(100_000);
  await sandbox.run("seq 100000 | xargs touch 2>/dev/null", LIMITS);
  await using neighbour = await fresh();
  expect(await output(neighbour, "seq 1000 | xargs touch && ls | wc -l")).toBe("1000\n");
  await until("the file system is told full", 5000, async () => (await sandbox.limitEvents()).disk === 1);
  expect(text(await sandbox.readFile("/etc/hostname", 100))).toBe("sandbox\n");
});
