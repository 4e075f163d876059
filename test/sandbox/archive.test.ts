/** Archives of sandboxes, which outlive the service, and named snapshots, which do not. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { removeTree } from "../../src/sandbox/remove-tree.ts";
import { ArchiveStore } from "../../src/sandbox/service/archives.ts";
import type { ManagedSandbox, TimeToLive } from "../../src/sandbox/service/managed-sandbox.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { createSandboxProvider, type LayeredSandboxProvider } from "../../src/sandbox/supervisor.ts";
import { isRoot } from "./image-support.ts";
import { ENVIRONMENT, LIMITS, TestClock, text } from "./support.ts";

const environment = { ...ENVIRONMENT, pids: 64 };
const CAPACITY = { memoryBytes: 1 << 30, cpus: 64, diskBytes: 1 << 30, count: 32 };

interface Scene extends AsyncDisposable {
  readonly service: SandboxService;
  readonly provider: LayeredSandboxProvider;
}

interface SceneOptions {
  readonly ttl?: TimeToLive;
  readonly clock?: TestClock;
  readonly frozenBytes?: number;
}

async function open(home: string, { frozenBytes, ...options }: SceneOptions = {}): Promise<Scene> {
  const provider = await createSandboxProvider({
    ...{ maskPaths: [], stateDir: join(home, "sandboxes") },
    ...(frozenBytes === undefined ? {} : { frozenBytes }),
  });
  const service = new SandboxService({ provider, capacity: CAPACITY, archives: new ArchiveStore(home), ...options });
  await service.loadArchives();
  return {
    ...{ service, provider },
    async [Symbol.asyncDispose]() {
      await service.close();
      await provider.close();
    },
  };
}

let home: string;
beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "ale-archive-test-"));
});
afterAll(() => removeTree(home)); // with folders that nobody may enter

let count = 0;
const freshHome = () => {
  const path = join(home, `home-${count++}`);
  mkdirSync(path);
  return path;
};

const run = async (sandbox: ManagedSandbox, command: string) =>
  text((await sandbox.exec(["sh", "-c", command], { ...LIMITS, cwd: "/work" })).output);
const events = (sandbox: ManagedSandbox) => sandbox.life.history.map(({ event }) => event);

describe("archives", () => {
  test("archived, a sandbox takes no memory; restored by the next service, it has its files", async () => {
    const own = freshHome();
    const usr = isRoot ? "echo tool > /usr/bin/my-tool; rm /usr/bin/env;" : "";
    {
      await using first = await open(own);
      const { service, provider } = first;
      const ttl = { stoppedMs: 5000, totalMs: Number.POSITIVE_INFINITY };
      const sandbox = await service.create({ id: "box", environment, labels: { team: "a" }, ttl });
      await run(
        sandbox,
        `${usr} echo kept > file; ln file hard; mkdir d; chmod 0 d; touch -d @1000 old; rm /etc/hosts; sleep 99 &`,
      );
      await service.stop("box");
      await service.restart("box");
      await run(sandbox, "rm old; echo second > second; mkfifo pipe");
      await service.stop("box");
      expect(provider.frozen.count).toBe(2);
      await expect(service.restore("box")).rejects.toThrow("cannot be restored: it is stopped");
      await service.archive("box");
      expect([sandbox.state, provider.frozen.count, provider.frozen.bytes]).toEqual(["archived", 0, 0]);
      expect(service.admission.used).toMatchObject({ count: 0, diskBytes: 0, memoryBytes: 0 });
      await expect(service.restart("box")).rejects.toMatchObject({ hint: "from here it can be deleted, restored" });
      await expect(run(sandbox, "true")).rejects.toMatchObject({ hint: "restore it first" });
      await expect(service.takeSnapshot("box", "x")).rejects.toThrow("is archived");
    }
    {
      await using second = await open(own);
      const { service } = second;
      const sandbox = service.get("box");
      expect([sandbox.state, sandbox.spec.labels, sandbox.spec.ttl]).toMatchObject([
        ...["archived", { team: "a" }, { stoppedMs: 5000, totalMs: Number.POSITIVE_INFINITY }],
      ]);
      await service.restore("box");
      const look = `cat file hard second; stat -c '%h %a' file d; ls | tr '\\n' ' '; ls /etc/hosts 2>/dev/null; pgrep -c sleep`;
      expect(await run(sandbox, look)).toBe("kept\nkept\nsecond\n2 644\n2 0\nd file hard second 0\n");
      if (isRoot)
        expect(await run(sandbox, "my-tool 2>&1; cat /usr/bin/my-tool; ls /usr/bin/env || true")).toContain("tool\n");
      expect(events(sandbox)).toEqual([
        ...["ready", "stop", "restart", "ready", "stop", "archive", "archive_done", "restore", "ready"],
      ] as never);
      await service.delete("box");
      expect(readdirSync(join(own, "archives"))).toEqual([]);
    }
  });

  test("archived again, it keeps what it stood on; a fork outlives it", async () => {
    const own = freshHome();
    await using scene = await open(own);
    const { service } = scene;
    const sandbox = await service.create({ id: "box", environment });
    await run(sandbox, "echo 1 > one");
    for (let round = 2; round < 5; round++) {
      await service.stop("box");
      await service.archive("box");
      await service.restore("box");
      await run(sandbox, `echo ${round} >> one; echo ${round} > file${round}`);
    }
    const { sandbox: child } = await service.fork("box", { id: "child" });
    await service.stop("box");
    await service.archive("box");
    expect(readdirSync(join(own, "archives/box/layers"))).toHaveLength(5); // the fork cut one in two
    await service.delete("box");
    expect(await run(child, "cat one file2 file4 | tr '\\n' ' '")).toBe("1 2 3 4 2 4 ");
    expect(existsSync(join(own, "archives/box/record.json"))).toBe(false);
    await service.delete("child");
    await using next = await open(own);
    expect([next.service.list(), existsSync(join(own, "archives/box"))]).toEqual([[], false]);
  });

  test("unused, it is stopped, archived and at last deleted", async () => {
    const clock = new TestClock();
    const ttl = { idleMs: 1000, totalMs: 1e9, stoppedMs: 1000, archiveMs: 3000, archivedMs: 10_000 };
    await using scene = await open(freshHome(), { clock, ttl });
    const { service } = scene;
    const sandbox = await service.create({ environment });
    const settle = async (state: string) => {
      for (let i = 0; i < 400 && sandbox.state !== state; i++) await Bun.sleep(10);
      expect(sandbox.state).toBe(state as never);
    };
    expect(service.expiryOf(sandbox)).toMatchObject({ how: "idle" });
    clock.pass(1000);
    await settle("stopped");
    expect(service.expiryOf(sandbox)).toEqual({ at: clock.now() + 3000, how: "archived" });
    clock.pass(2999);
    await Bun.sleep(20);
    expect(sandbox.state).toBe("stopped");
    clock.pass(1);
    await settle("archived");
    expect(sandbox.lastReason).toBe("idle");
    await Bun.sleep(20);
    clock.pass(10_000);
    await settle("deleted");
  });

  test.skipIf(!isRoot)("with a full disk it stays as it is, and nothing is left over", async () => {
    const own = freshHome();
    const mounted = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", own]).exitCode === 0;
    if (!mounted) return console.log("skipped: a full disk: tmpfs cannot be mounted here");
    try {
      await using scene = await open(own);
      const { service } = scene;
      const sandbox = await service.create({ id: "box", environment });
      await run(sandbox, "head -c 9M /dev/urandom > big; cksum big > sum");
      await service.stop("box");
      await expect(service.archive("box")).rejects.toThrow(/could not be archived: the disk is full/);
      expect([sandbox.state, events(sandbox).at(-1), readdirSync(join(own, "archives"))]).toEqual([
        ...(["stopped", "archive_failed", []] as const),
      ] as never);
      await service.restart("box");
      expect(await run(sandbox, "cksum big | cmp - sum && echo same")).toBe("same\n");
    } finally {
      Bun.spawnSync(["umount", "-l", own]);
    }
  });

  test("killed at any moment, there is the old archive or the new one", async () => {
    const own = freshHome();
    let least = 0;
    for (let round = 0; round < 4; round++) {
      const script = join(import.meta.dir, "archive-child.ts");
      const child = Bun.spawn(["/proc/self/exe", script, own], { stdout: "pipe", stderr: "inherit" });
      let told = "";
      const reading = (async () => {
        for await (const part of child.stdout) told += new TextDecoder().decode(part);
      })();
      for (let i = 0; i < 3000 && told.split("\n").length < 3; i++) await Bun.sleep(10);
      await Bun.sleep(Math.random() * 300);
      child.kill("SIGKILL");
      await child.exited;
      await reading;
      const numbers = told.trim().split("\n").map(Number);
      least = Math.max(least, ...numbers);
      await using scene = await open(own);
      const sandbox = await scene.service.restore("box");
      const [first, last, many] = (await run(sandbox, "cat first /opt/last; sort -u many"))
        .trim()
        .split("\n")
        .map(Number);
      expect([first, first, first]).toEqual([first, last, many]);
      expect(first).toBeGreaterThanOrEqual(least);
      expect(first).toBeLessThanOrEqual(least + 1);
      const layers = readdirSync(join(own, "archives/box/layers"));
      expect(layers).toHaveLength(sandbox.root?.layers.length ?? -1);
    }
  }, 120_000);

  test("what another service has is left to it, for as long as it lives", async () => {
    const own = freshHome();
    {
      await using scene = await open(own);
      await scene.service.create({ id: "box", environment });
      await scene.service.stop("box");
      await scene.service.archive("box");
    }
    const other = Bun.spawn(["sleep", "60"]);
    const stat = readFileSync(`/proc/${other.pid}/stat`, "utf8");
    const start = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
    writeFileSync(join(own, "archives/box/owner.json"), JSON.stringify({ pid: other.pid, start }));
    await using scene = await open(own);
    expect(scene.service.list()).toEqual([]);
    await scene.service.create({ id: "box", environment });
    await scene.service.stop("box");
    await expect(scene.service.archive("box")).rejects.toThrow("another service has an archive of the name box");
    other.kill("SIGKILL");
    await other.exited;
    await using next = await open(own);
    expect(next.service.list().map(({ id }) => id)).toEqual(["box"]);
  });

  test("when the launcher is killed, archives stay, and what was frozen takes no memory", async () => {
    await using scene = await open(freshHome());
    const { service, provider } = scene;
    for (const id of ["kept", "lost"]) {
      const sandbox = await service.create({ id, environment });
      await run(sandbox, `echo ${id} > f`);
      await service.stop(id);
    }
    await service.archive("kept");
    expect(provider.frozen.count).toBe(1);
    const before = provider.launcherPid;
    process.kill(before, "SIGKILL");
    for (let i = 0; i < 500 && provider.launcherPid === before; i++) await Bun.sleep(10);
    expect(provider.frozen.count).toBe(0);
    expect(await run(await service.restore("kept"), "cat f")).toBe("kept\n");
    await expect(service.restart("lost")).rejects.toThrow("its launcher ended");
  });

  test("half an archive of a killed service is removed", async () => {
    const own = freshHome();
    mkdirSync(join(own, "archives/half/layers/1/root.up"), { recursive: true });
    writeFileSync(join(own, "archives/half/owner.json"), JSON.stringify({ pid: 999_999, start: "1" }));
    await using scene = await open(own);
    expect([scene.service.list(), readdirSync(join(own, "archives"))]).toEqual([[], []]);
  });
});

describe("named snapshots", () => {
  test("any number of sandboxes start from one, with its shells; it can be taken of a stopped one, too", async () => {
    await using scene = await open(freshHome());
    const { service } = scene;
    const parent = await service.create({ id: "parent", environment });
    await parent.openShell("main");
    await parent.runInShell("main", "cd /tmp; export V=1; echo base > /work/f; sleep 99 &", LIMITS);
    const taken = await service.takeSnapshot("parent", "base");
    expect([taken.lostProcesses, taken.freshShells]).toEqual([1, []]);
    await expect(service.takeSnapshot("parent", "base")).rejects.toThrow("there is a snapshot base already");
    await run(parent, "echo later > f");
    await service.delete("parent");
    const children = await Promise.all(
      Array.from({ length: 5 }, (_, i) => service.create({ id: `c${i}`, environment, snapshot: "base" })),
    );
    for (const [i, child] of children.entries()) {
      expect(text((await child.runInShell("main", "cat /work/f; echo $V $PWD", LIMITS)).output)).toBe("base\n1 /tmp\n");
      await run(child, `echo ${i} > f`);
    }
    expect(await run(children[3] as ManagedSandbox, "cat f")).toBe("3\n");
    await service.stop("c3");
    await service.takeSnapshot("c3", "three");
    await service.snapshots.delete("base");
    expect(service.snapshots.list().map(({ name }) => name)).toEqual(["three"]);
    expect(() => service.start({ environment, snapshot: "base" })).toThrow('there is no snapshot "base"');
    await service.delete("c3");
    const again = await service.create({ environment, snapshot: "three" });
    expect(await run(again, "cat f")).toBe("3\n");
  });

  test("what takes too much memory goes to disk, and is read from there", async () => {
    const own = freshHome();
    await using scene = await open(own, { frozenBytes: 6 << 20 });
    const { service, provider } = scene;
    for (const name of ["a", "b", "c"]) {
      const sandbox = await service.create({ id: name, environment });
      await run(
        sandbox,
        `head -c 4M /dev/urandom > big; ln big hard; cksum big > sum; echo ${name} > name; rm /etc/hosts`,
      );
      await service.stop(name);
    }
    expect(provider.frozen.count).toBe(1); // the last one
    expect(provider.frozen.bytes).toBeLessThanOrEqual(6 << 20);
    const spilled = () => {
      const [launcher] = readdirSync(join(own, "sandboxes")).filter((name) => name.startsWith("ale-"));
      const folder = join(own, "sandboxes", launcher ?? "", "layers");
      return existsSync(folder) ? readdirSync(folder) : [];
    };
    expect(spilled()).toHaveLength(2);
    for (const name of ["a", "b", "c"]) {
      const sandbox = await service.restart(name);
      expect(
        await run(
          sandbox,
          "cat name; cksum big | cmp - sum && stat -c %h hard; ls /etc/hosts 2>/dev/null || echo gone",
        ),
      ).toBe(`${name}\n2\ngone\n`);
      // On disk or not, what it holds counts against its disk: 16 MB in all.
      expect(await run(sandbox, "head -c 14M /dev/zero > more && echo fits || echo full")).toBe("full\n");
    }
    for (const name of ["a", "b", "c"]) await service.delete(name);
    for (let i = 0; i < 200 && spilled().length > 0; i++) await Bun.sleep(10);
    expect([spilled(), provider.frozen.count]).toEqual([[], 0]);
  });

  test("when nothing can go to disk, more is refused, and the sandbox goes on", async () => {
    await using scene = await open(freshHome(), { frozenBytes: 2 << 20 });
    const { service } = scene;
    const sandbox = await service.create({ environment });
    await run(sandbox, "head -c 3M /dev/zero > big");
    await service.takeSnapshot(sandbox.id, "one");
    await expect(service.takeSnapshot(sandbox.id, "two")).rejects.toThrow(
      /frozen files take .* running sandboxes stand/,
    );
    expect(await run(sandbox, "stat -c %s big")).toBe(`${3 << 20}\n`);
  });
});
