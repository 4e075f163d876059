import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Sandbox } from "../../src/core/ports.ts";
import { NamedShell } from "../../src/sandbox/shells.ts";
import { ENVIRONMENT, file, LIMITS, openProvider, outcome, output, type TestProvider, text, until } from "./support.ts";

let provider: TestProvider;
/** Which have no launcher, a /usr that cannot be changed, and snapshots that are copies (`docs/sandbox.md`). */
const inContainers = process.env.ALE_TEST_BACKEND !== undefined;
const large = { ...ENVIRONMENT, diskBytes: 640 << 20, memoryBytes: 1024 << 20 };

beforeAll(async () => {
  provider = await openProvider();
});
afterAll(() => provider.close());

const read = async (sandbox: Sandbox, path: string) => text(await sandbox.readFile(path, 1 << 16));

describe("snapshots", () => {
  test("children start from the parent's files and see nothing of one another", async () => {
    await using parent = await provider.create(ENVIRONMENT);
    await parent.upload("/work", [file("a.txt", "one"), file("run.sh", "#!/bin/sh\necho ran\n", 0o755)]);
    await output(parent, "mkdir deep; echo x > deep/x; rm /etc/nsswitch.conf; echo tool > /opt/tool; ln -s a.txt link");
    await using snapshot = await parent.snapshot();
    await using first = await provider.fork(snapshot);
    await using second = await provider.fork(snapshot);
    await output(first, "echo two > a.txt; rm deep/x; rm -rf /opt/tool");
    await output(parent, "echo three > a.txt");
    expect(await read(first, "/work/a.txt")).toBe("two\n");
    expect(await read(second, "/work/a.txt")).toBe("one");
    expect(await read(parent, "/work/a.txt")).toBe("three\n");
    expect(
      await outcome(second, "cat deep/x /opt/tool; ./run.sh; readlink link; ls /etc/nsswitch.conf 2>&1 | wc -l"),
    ).toEqual([0, "x\ntool\nran\na.txt\n1\n"]);
    expect((await outcome(second, "ls /etc/nsswitch.conf"))[0]).not.toBe(0);
    expect(await outcome(first, "ls deep; ls /opt/tool || echo gone")).toEqual([0, expect.stringContaining("gone")]);
    expect(snapshot.bytes).toBeGreaterThan(0);
  });

  test.skipIf(process.getuid?.() !== 0 || inContainers)("changes of /usr are among the files", async () => {
    await using parent = await provider.create(ENVIRONMENT);
    await output(parent, "echo tool > /usr/bin/tool; rm /usr/bin/env");
    await using snapshot = await parent.snapshot();
    await using child = await provider.fork(snapshot);
    expect(await output(child, "cat /usr/bin/tool; ls /usr/bin/env 2>/dev/null || echo gone")).toBe("tool\ngone\n");
  });

  test("the shell goes on in the same folder with the same exported variables, in parent and child", async () => {
    await using parent = await provider.create(ENVIRONMENT);
    await output(
      parent,
      `mkdir "/work/it's here"; cd "/work/it's here"; export GREETING=$'two\\nlines "quoted"'; local=1`,
    );
    await using snapshot = await parent.snapshot();
    await using child = await provider.fork(snapshot);
    for (const sandbox of [parent, child])
      expect(await output(sandbox, 'pwd; echo "$GREETING"')).toBe(`/work/it's here\ntwo\nlines "quoted"\n`);
  });

  test("processes are not carried over, and are counted", async () => {
    await using parent = await provider.create(ENVIRONMENT);
    await output(parent, "sleep 1000 & sleep 1000 & true");
    await using snapshot = await parent.snapshot();
    expect(snapshot.lostProcesses).toBe(2);
    expect(await output(parent, "ls -d /proc/[0-9]* | wc -l; jobs | wc -l")).toMatch(/^[1-5]\n0\n$/);
  });

  test("snapshots of snapshots stack, deletions and replaced folders included", async () => {
    await using sandbox = await provider.create(ENVIRONMENT);
    const kept: AsyncDisposable[] = [];
    for (let i = 0; i < 12; i++) {
      await output(sandbox, `echo ${i} > file${i}; rm -f file${i - 2}; rm -rf d; mkdir d; echo ${i} > d/${i}`);
      kept.push(await sandbox.snapshot());
    }
    expect(await output(sandbox, "echo file*; echo d/*")).toBe("file10 file11\nd/11\n");
    for (const snapshot of kept) await snapshot[Symbol.asyncDispose]();
    expect(await output(sandbox, "cat file10 d/11; echo still > here; cat here")).toBe("10\n11\nstill\n");
  });

  test("what a snapshot holds counts against the disk of those who stand on it", async () => {
    await using sandbox = await provider.create(ENVIRONMENT);
    await output(sandbox, "head -c 12M /dev/zero > big");
    await using _ = await sandbox.snapshot();
    expect((await sandbox.run("head -c 8M /dev/zero > more", LIMITS)).exitCode).not.toBe(0);
    expect((await sandbox.run("rm more; head -c 2M /dev/zero > more", LIMITS)).exitCode).toBe(0);
  });

  test("the parent may be destroyed; the snapshot may not be used after it was disposed of", async () => {
    const parent = await provider.create(ENVIRONMENT);
    await output(parent, "echo kept > file");
    const snapshot = await parent.snapshot();
    await parent.destroy();
    await using child = await provider.fork(snapshot);
    await snapshot[Symbol.asyncDispose]();
    expect(await read(child, "/work/file")).toBe("kept\n");
    await expect(provider.fork(snapshot)).rejects.toThrow("was disposed of");
  });

  test("the parent may be used at once, while it goes on, whatever becomes of the snapshot", async () => {
    await using parent = await provider.create(ENVIRONMENT);
    await output(parent, "echo kept > file; export A=1");
    for (let round = 0; round < 6; round++) {
      const snapshot = await parent.snapshot();
      await snapshot[Symbol.asyncDispose]();
      const [ran, executed, found] = await Promise.all([
        output(parent, `echo $A; cat file; echo ${round} >> rounds`),
        parent.exec(["cat", "file"], { ...LIMITS, cwd: "/work" }),
        read(parent, "/work/file"),
        parent.upload("/work", [file(`up${round}`, "x")]),
        parent.limitEvents(),
      ]);
      expect([ran, text(executed.output), found]).toEqual(["1\nkept\n", "kept\n", "kept\n"]);
    }
    expect(await output(parent, "cat rounds; ls up* | wc -l")).toBe("0\n1\n2\n3\n4\n5\n6\n");
    const [next] = await Promise.all([parent.snapshot(), parent.statistics()]);
    await parent.destroy(); // while it goes on
    await using child = await provider.fork(next);
    await next[Symbol.asyncDispose]();
    expect(await read(child, "/work/file")).toBe("kept\n");
  });

  test("who waits for a command hears that it ended", async () => {
    await using parent = await provider.create(ENVIRONMENT);
    const shell = await NamedShell.open(parent, 1, "one", { cwd: "/work" });
    const running = shell.run("echo begun; sleep 60", LIMITS);
    await until("it runs", 10_000, async () => (await parent.statistics()).processes === 3);
    await using _ = await parent.snapshot();
    expect(await running).toMatchObject({ status: "shell_died", exitCode: 137 });
  });

  test.skipIf(inContainers)("a parent whose launcher ends while it goes on is gone, which is told once", async () => {
    const own = await openProvider();
    const parent = await own.create(ENVIRONMENT);
    const told: string[] = [];
    parent.onGone((reason) => told.push(reason));
    await parent.snapshot();
    process.kill(own.launcherPid, "SIGKILL");
    await until("it is told", 10_000, () => told.length > 0);
    await expect(parent.run("true", LIMITS)).rejects.toThrow(/is gone/);
    expect(told).toEqual([expect.stringMatching(/SIGKILL/)]);
    await own.close();
  });

  test.skipIf(inContainers)("the cost does not depend on the size", async () => {
    const fork = async (bytes: string): Promise<number> => {
      await using parent = await provider.create(large);
      expect((await outcome(parent, `head -c ${bytes} /dev/zero > big`))[0]).toBe(0);
      const started = performance.now();
      await using snapshot = await parent.snapshot();
      await using child = await provider.fork(snapshot);
      await output(child, "true");
      const ms = performance.now() - started;
      expect(await output(child, "stat -c %s big")).toBe(
        `${Number.parseInt(bytes, 10) << (bytes.endsWith("M") ? 20 : 10)}\n`,
      );
      return ms;
    };
    const [small, big] = [await fork("4K"), Math.min(await fork("512M"), await fork("512M"))]; // other programs run, too
    console.log(`snapshot, fork, first command: ${small.toFixed(1)} ms at 4 kB, ${big.toFixed(1)} ms at 512 MB`);
    expect(big).toBeLessThan(small * 10 + 50);
  });
});
