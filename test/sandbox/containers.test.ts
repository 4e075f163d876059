/**
 * Sandboxes as containers of podman and docker. What is tested of the launcher's sandboxes is tested of these by the same files; here is
 * what differs, and how they end. As root, and (as-user.test.ts) as an ordinary user.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import type { ContainerEngineName } from "../../src/sandbox/backends/container-engine.ts";
import { createContainerProvider } from "../../src/sandbox/backends/container-provider.ts";
import { grade } from "../../src/sandbox/grading.ts";
import { SandboxFiles } from "../../src/sandbox/sandbox-files.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import type { NativeSandboxProvider } from "../../src/sandbox/supervisor.ts";
import { writeTar } from "../../src/sandbox/tar.ts";
import { checkSuite } from "../../src/tasks/check.ts";
import { loadSuite } from "../../src/tasks/suite.ts";
import { ENVIRONMENT, LIMITS, outcome, output, text, until } from "./support.ts";

const REPOSITORY = resolve(import.meta.dir, "../..");
const root = process.getuid?.() === 0;
const environment = { ...ENVIRONMENT, pids: 48 };

/** Why there are no containers of this engine here, or `undefined`. */
function reasonToSkip(engine: ContainerEngineName): string | undefined {
  if (Bun.which(engine) === null) return `${engine} is not installed`;
  const { exitCode } = Bun.spawnSync([engine, "version"], { cwd: "/", timeout: 30_000 });
  return exitCode === 0 ? undefined : `${engine} does not answer`;
}
const ENGINES = (["podman", "docker"] as const).filter((engine) => {
  const reason = reasonToSkip(engine);
  if (reason !== undefined) console.log(`skipped: sandboxes as containers: ${reason}`);
  return reason === undefined;
});

function isStatic(program: string): boolean {
  const { exitCode } = Bun.spawnSync(["ldd", program]);
  return exitCode !== 0;
}

/** Names of all containers there are. */
function containersOf(engine: ContainerEngineName): string[] {
  const { stdout } = Bun.spawnSync([engine, "ps", "--all", "--format={{.Names}}"], { cwd: "/", timeout: 60_000 });
  return stdout.toString().split("\n");
}

describe.each([...ENGINES])("%s", (engine) => {
  let provider: NativeSandboxProvider;
  beforeAll(async () => {
    provider = await createContainerProvider({ engine, maskPaths: ["/usr/share/doc"] });
  });
  afterAll(() => provider?.close());

  test("the level is what was found in one", async () => {
    // docker's daemon decides about user namespaces, for all its containers.
    const userns = engine === "podman" ? "userns\\+" : "(userns\\+)?";
    const limits = root ? "cgroup[12]" : "(cgroup[12]|rlimits)";
    expect(provider.isolation).toMatch(
      new RegExp(`^${engine}:${root ? "root" : "user"}\\+${userns}seccomp\\+${limits}$`),
    );
    await using sandbox = await provider.create(environment);
    expect(sandbox.isolation).toBe(provider.isolation);
    // Not root on the host, as far as there are ids to be somebody else.
    const [inside, outside] = (await output(sandbox, "head -1 /proc/self/uid_map")).trim().split(/ +/);
    expect(inside).toBe("0");
    expect(outside === "0").toBe(!provider.isolation.includes("userns"));
  });

  test("nothing of the host's: no network, one init that cannot be looked into, masked folders, read-only programs", async () => {
    await using sandbox = await provider.create(environment);
    expect(
      await output(sandbox, "awk 'NR>2{print $1}' /proc/net/dev; cat /proc/1/environ 2>&1; ls /usr/share/doc"),
    ).toBe("lo:\ncat: /proc/1/environ: Permission denied\n");
    expect((await outcome(sandbox, "touch /usr/x /x 2>&1"))[0]).toBe(1);
    expect(await output(sandbox, "grep -E '^(NoNewPrivs|Seccomp_filters|CapEff)' /proc/self/status")).toMatch(
      /^CapEff:\t00000000800405fb\nNoNewPrivs:\t1\nSeccomp_filters:\t2\n$/,
    );
  });

  test("every byte gets through, those that mean detach to podman, too", async () => {
    await using sandbox = await provider.createBare(environment);
    const content = Uint8Array.from({ length: 3_000_000 }, (_, i) => (i % 7 === 0 ? 16 : i % 7 === 1 ? 17 : i & 0xff));
    const files = new SandboxFiles(sandbox);
    await files.write("bytes", content);
    expect(Buffer.compare(await files.read("bytes"), content)).toBe(0);
  });

  test("one podman process carries everything", async () => {
    await using sandbox = await provider.create(environment);
    const counts = await Promise.all(
      Array.from({ length: 24 }, async (_, i) => {
        const result = await sandbox.exec(["cat"], {
          ...{ ...LIMITS, cwd: "/", stdin: new TextEncoder().encode(`${i}`) },
        });
        return Number(text(result.output));
      }),
    );
    expect(counts).toEqual(Array.from({ length: 24 }, (_, i) => i));
  });

  test("limits: disk, memory, processes; the sandbox goes on", async () => {
    await using sandbox = await provider.create(environment);
    expect(
      (await outcome(sandbox, "head -c 40m /dev/zero > fill; wc -c < fill; head -c 1m /dev/zero > /tmp/x"))[1],
    ).toContain(`${ENVIRONMENT.diskBytes}\n`);
    await sandbox.run("rm fill; head -c 300m /dev/zero | tail | wc -c", LIMITS);
    // Without another process, time enough for a watcher where nothing else limits them.
    const moment = "e=${EPOCHREALTIME/./}; while [ $((${EPOCHREALTIME/./} - e)) -lt 500000 ]; do :; done";
    const forks = `for i in $(seq 200); do sleep 2 & done 2>/dev/null; ${moment}; jobs -r | wc -l; wait`;
    expect(Number(await output(sandbox, forks, { ...LIMITS, timeoutMs: 60_000 }))).toBeLessThanOrEqual(48);
    expect(await outcome(sandbox, "echo on")).toEqual([0, "on\n"]);
    const events = await sandbox.limitEvents();
    expect(events.disk).toBe(1);
    if (provider.isolation.includes("cgroup")) {
      expect(events.pids).toBeGreaterThan(0);
      expect(events.memory).toBeGreaterThan(0);
    }
    const { processes, diskLimitBytes } = await sandbox.statistics();
    expect(processes).toBeLessThan(60);
    expect(diskLimitBytes).toBe(ENVIRONMENT.diskBytes);
  });

  test("snapshots keep every file that can be written, and the shell's state", async () => {
    await using sandbox = await provider.create(environment);
    await sandbox.run("mkdir a; cd a; echo 1 > f; ln -s f l; echo 2 > /etc/own; export V=3; sleep 99 &", LIMITS);
    await using snapshot = await sandbox.snapshot();
    expect(snapshot.lostProcesses).toBe(1);
    await sandbox.run("echo changed > f", LIMITS);
    for (const of of [await provider.fork(snapshot), await provider.fork(snapshot)]) {
      expect(await outcome(of, 'cat f l /etc/own; echo "$V $PWD"; pgrep -c sleep')).toEqual([
        1,
        "1\n1\n2\n3 /work/a\n0\n",
      ]);
      await of.destroy();
    }
    expect(await outcome(sandbox, 'cat f; echo "$V $PWD"')).toEqual([0, "changed\n3 /work/a\n"]);
  });

  test("an image of one's own: all of it can be written, and snapshots keep that, too", async () => {
    const image = `localhost/ale-test/${process.pid}:1`;
    const busybox = Bun.which("busybox");
    if (busybox === null || !isStatic(busybox)) return console.log("skipped: busybox-static is not installed");
    const program = new Uint8Array(await Bun.file(busybox).arrayBuffer());
    const nothing = new Uint8Array(0);
    const tar = writeTar([
      { kind: "folder", path: "bin", mode: 0o755, content: nothing },
      { kind: "file", path: "bin/busybox", mode: 0o755, content: program },
      ...["sh", "cat", "echo", "ls", "mkdir"].map((name) => ({
        ...({ kind: "link", path: `bin/${name}`, mode: 0o777, content: Buffer.from("busybox") } as const),
      })),
      ...["tmp", "work"].map((path) => ({ kind: "folder", path, mode: 0o755, content: nothing }) as const),
      { kind: "file", path: "work/shipped", mode: 0o644, content: Buffer.from("with the image\n") },
    ]);
    Bun.spawnSync([engine, "import", "-", image], { stdin: tar, cwd: "/" });
    try {
      await using own = await createContainerProvider({ engine, image, maskPaths: [] });
      await using sandbox = await own.create(environment);
      expect(await outcome(sandbox, "cat shipped; ls /; mkdir /new; echo 1 > /new/f")).toEqual([
        0,
        expect.stringContaining("with the image\nbin\n"),
      ]);
      await using snapshot = await sandbox.snapshot();
      await using fork = await own.fork(snapshot);
      expect(await outcome(fork, "cat /new/f shipped")).toEqual([0, "1\nwith the image\n"]);
    } finally {
      Bun.spawnSync([engine, "rmi", image], { cwd: "/" });
    }
  });

  test("tasks of the shell suite: the solution scores 1, nothing done scores 0", async () => {
    const suite = loadSuite(resolve(REPOSITORY, "tasks/shell"));
    const options = { samples: 3, concurrency: 2, signal: new AbortController().signal };
    const rows = await checkSuite(suite, provider, grade, options, () => {});
    expect(rows.map(({ oracle, noop, error }) => ({ oracle, noop, error }))).toEqual(
      Array(3).fill({ oracle: 1, noop: 0, error: undefined }),
    );
  });

  test("the service's sandboxes: named shells, pause, stop and restart with files kept", async () => {
    const capacity = { memoryBytes: 1 << 30, cpus: 64, diskBytes: 1 << 30, count: 8 };
    await using service = new SandboxService({ provider, capacity });
    const box = await service.create({ environment, id: "box" });
    await box.openShell("one");
    await box.runInShell("one", "echo kept > f; (i=0; while :; do echo $((i++)) > n; done) &", LIMITS);
    const count = async () =>
      Number(text(await box.withFiles((files) => files.read("/work/n")).catch(() => null)) || 0);
    await until("the counter counts", 5000, async () => (await count()) > 0);
    await service.pause("box");
    const used = async () => (await box.statistics()).cpuSeconds ?? 0;
    const before = await used();
    await Bun.sleep(200);
    expect((await used()) - before).toBeLessThan(0.1);
    await service.resume("box");
    expect(text((await box.exec(["cat", "f"], { ...LIMITS, cwd: "/work" })).output)).toBe("kept\n");
    await service.stop("box");
    await service.restart("box");
    expect(text(await box.withFiles((files) => files.read("f")))).toBe("kept\n");
  });

  test("destroyed, closed or killed with Ale, nothing of a container is left", async () => {
    const sandbox = await provider.create(environment);
    await sandbox.run("setsid sleep 1234 & (trap '' TERM; sleep 1234) &", LIMITS);
    const before = containersOf(engine).length;
    await sandbox.destroy();
    expect(containersOf(engine).length).toBe(before - 1);
    await expect(sandbox.run("true", LIMITS)).rejects.toThrow("is destroyed");
    const script = `
      const { createContainerProvider } = await import("${REPOSITORY}/src/sandbox/backends/container-provider.ts");
      const provider = await createContainerProvider({ engine: "${engine}", maskPaths: [] });
      const sandbox = await provider.create(${JSON.stringify(environment)});
      await sandbox.run("setsid sleep 4321 &", { timeoutMs: 9999, maxOutputBytes: 99 });
      process.kill(process.pid, "SIGKILL");`;
    const child = Bun.spawn(["/proc/self/exe", "-e", script], { stderr: "inherit", env: process.env });
    await child.exited;
    expect(child.signalCode).toBe("SIGKILL");
    await until(
      "the killed process's container is gone",
      60_000,
      () => !containersOf(engine).some((name) => name.includes(`-${child.pid}-`)),
    );
  }, 120_000);
});

/** Which tests of the launcher's sandboxes hold for containers, which have a read-only root and /sys; `snapshots` says itself what is different. */
const ALSO_HERE = {
  session: "^(?!.*observations are the same in every sandbox)",
  shells: "",
  snapshots: "",
  grading: "right is 1, wrong is 0|modes differ",
  isolation: "^(?!.*(processes and groups are not there|harmless devices|in a root folder))",
} as const;

const [engine] = ENGINES;
test.skipIf(engine === undefined || !root).each(Object.entries(ALSO_HERE))(
  "%s holds for containers",
  async (suite, pattern) => {
    const child = Bun.spawn(
      ["/proc/self/exe", "test", "--timeout=60000", `--test-name-pattern=${pattern}`, `test/sandbox/${suite}.test.ts`],
      { cwd: REPOSITORY, env: { ...process.env, ALE_TEST_BACKEND: engine }, stdout: "ignore", stderr: "pipe" },
    );
    const report = await new Response(child.stderr).text();
    if ((await child.exited) !== 0) console.error(report);
    expect(report).toMatch(/^ *0 fail$/m);
    expect(Number(/^ *(\d+) pass$/m.exec(report)?.[1])).toBeGreaterThan(3);
  },
  300_000,
);
