/** Sandboxes of the service: states, files kept while stopped, forks with shells, limits of time and room. */

import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import type { Clock } from "../../src/sandbox/service/clock.ts";
import type { ManagedSandbox, TimeToLive } from "../../src/sandbox/service/managed-sandbox.ts";
import { UnknownSandbox } from "../../src/sandbox/service/requests.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { ENVIRONMENT, LIMITS, openProvider, TestClock, type TestProvider, text, until } from "./support.ts";

let provider: TestProvider;
let service: SandboxService;
const services: SandboxService[] = [];
const CAPACITY = { memoryBytes: 1 << 30, cpus: 64, diskBytes: 1 << 30, count: 32 };
const environment = { ...ENVIRONMENT, pids: 64 };

function open(options: { ttl?: TimeToLive; clock?: Clock; capacity?: typeof CAPACITY } = {}): SandboxService {
  const made = new SandboxService({ provider, capacity: CAPACITY, ...options });
  services.push(made);
  return made;
}

beforeAll(async () => {
  provider = await openProvider();
  service = open();
});
afterEach(() => Promise.all(services.splice(1).map((other) => other.close())));
afterAll(async () => {
  await service?.close();
  await provider?.close();
});

const inFolder = { ...LIMITS, cwd: "/work" };
const run = async (sandbox: ManagedSandbox, command: string) =>
  text((await sandbox.exec(["sh", "-c", command], inFolder)).output);

test("stopped, a sandbox keeps its files and nothing else; restarted, it has them again", async () => {
  const sandbox = await service.create({ environment, id: "box" });
  await run(sandbox, "echo kept > file; sleep 60 & true");
  await service.stop("box");
  expect(sandbox.state).toBe("stopped");
  expect(service.admission.used).toMatchObject({ count: 0, memoryBytes: 0, diskBytes: environment.diskBytes });
  await expect(run(sandbox, "true")).rejects.toThrow("sandbox box is stopped");
  await service.stop("box");
  for (let round = 0; round < 3; round++) {
    await service.restart("box");
    expect(await run(sandbox, "cat file; pgrep -c sleep")).toBe("kept\n0\n");
    await service.stop("box");
  }
  await expect(service.pause("box")).rejects.toThrow("cannot be paused: it is stopped");
  await service.delete("box");
  await service.delete("box");
  expect(() => service.get("box")).toThrow(UnknownSandbox);
  expect(service.find("box")?.life.history.map(({ event }) => event)).toEqual([
    ...["ready", "stop", "restart", "ready", "stop", "restart", "ready", "stop", "restart", "ready", "stop", "delete"],
  ] as never);
  expect(service.admission.used).toMatchObject({ count: 0, diskBytes: 0 });
});

test("paused, it refuses work; resumed, it goes on", async () => {
  const sandbox = await service.create({ environment });
  await sandbox.openShell("default");
  await sandbox.runInShell("default", "X=1; cd /tmp", LIMITS);
  await service.pause(sandbox.id);
  await expect(sandbox.runInShell("default", "true", LIMITS)).rejects.toThrow("is paused");
  await expect(service.pause(sandbox.id)).rejects.toThrow("cannot be paused: it is paused");
  await service.resume(sandbox.id);
  expect(text((await sandbox.runInShell("default", "echo $X $PWD", LIMITS)).output)).toBe("1 /tmp\n");
  await service.pause(sandbox.id);
  await service.stop(sandbox.id);
  await service.delete(sandbox.id);
});

test("a fork has the files and shells; what could not come along is told", async () => {
  const parent = await service.create({ environment, labels: { team: "a" } });
  await parent.openShell("one", { env: { E: "given" } });
  await parent.openShell("two");
  await parent.runInShell("one", "cd /tmp; export V='a b'; echo parent > /work/f; sleep 60 &", LIMITS);
  const busy = parent.runInShell("two", "sleep 30", LIMITS);
  await Bun.sleep(100);
  const { sandbox: child, lostProcesses, freshShells } = await service.fork(parent.id, { id: "child" });
  expect((await busy).status).toBe("shell_died");
  expect([freshShells, lostProcesses, child.spec.labels]).toEqual([["two"], 2, { team: "a" }]);
  for (const sandbox of [parent, child]) {
    expect(text((await sandbox.runInShell("one", 'pwd; echo "$V $E"; cat /work/f', LIMITS)).output)).toBe(
      "/tmp\na b given\nparent\n",
    );
    expect((await sandbox.runInShell("two", "true", LIMITS)).exitCode).toBe(0);
  }
  await child.runInShell("one", "echo child > /work/f", LIMITS);
  expect(await run(parent, "cat f")).toBe("parent\n");
  await service.delete(parent.id);
  expect(await run(child, "cat f")).toBe("child\n");
  await service.delete("child");
});

test("unused, it is stopped, then deleted; used, it is not", async () => {
  const clock = new TestClock();
  const own = open({ clock, ttl: { idleMs: 1000, totalMs: 10_000, stoppedMs: 5000 } });
  const sandbox = await own.create({ environment });
  for (let i = 0; i < 4; i++) {
    clock.pass(800);
    await run(sandbox, "true");
  }
  expect(sandbox.state).toBe("running");
  const working = run(sandbox, "sleep 0.5; echo done");
  clock.pass(1500);
  expect(await working).toBe("done\n");
  expect(sandbox.state).toBe("running");
  clock.pass(1001);
  await until("it is stopped", 5000, () => sandbox.state === "stopped");
  expect(sandbox.life.history.at(-1)?.reason).toBe("idle");
  await own.restart(sandbox.id);
  for (let i = 0; i < 13 && sandbox.state === "running"; i++) {
    clock.pass(800);
    if (i < 12) await run(sandbox, "true").catch(() => {});
  }
  await until("its time is over", 5000, () => sandbox.state === "stopped");
  expect(sandbox.life.history.at(-1)?.reason).toBe("expired");
  clock.pass(5001);
  await until("it is deleted", 5000, () => own.list().length === 0);
  expect(sandbox.life.history.at(-1)).toMatchObject({ event: "delete", reason: "kept long enough" });
});

test("without room a sandbox waits its turn, or fails in time", async () => {
  const own = open({ capacity: { ...CAPACITY, count: 1 } });
  const first = await own.create({ environment });
  await expect(own.create({ environment, queueMs: 50 })).rejects.toThrow("found no room within 50 ms");
  const second = own.create({ environment, id: "second", queueMs: 20_000 });
  await Bun.sleep(50);
  expect(own.get("second").state).toBe("pending");
  await own.delete(first.id);
  expect((await second).state).toBe("running");
  const third = own.create({ environment, id: "third", queueMs: 20_000 });
  await own.delete("third");
  await expect(third).rejects.toThrow();
  await expect(own.create({ environment, id: "second" })).rejects.toThrow("already");
  await expect(own.create({ environment, id: "../x" })).rejects.toThrow("cannot be the name");
});

test("one that ends by itself is failed, and its room is free again", async () => {
  const own = open();
  const sandbox = await own.create({ environment });
  await sandbox.native?.destroy();
  const other = await own.create({ environment });
  process.kill(provider.launcherPid, "SIGKILL");
  await until("it is told", 5000, () => other.state === "failed");
  await expect(run(other, "true")).rejects.toThrow("is failed");
  await own.delete(other.id);
  await own.delete(sandbox.id);
  expect(own.admission.used.count).toBe(0);
  const again = await own.create({ environment });
  expect(await run(again, "echo on")).toBe("on\n");
});

test("a command in the background is followed, logged and ended", async () => {
  const own = open();
  const sandbox = await own.create({ environment });
  const base = { cwd: "/work", timeoutMs: Number.POSITIVE_INFINITY, maxLogBytes: 1 << 20 };
  const quick = await sandbox.startCommand({ ...base, argv: ["sh", "-c", "echo out; echo err >&2; exit 3"] });
  expect((await quick.ended)?.exitCode).toBe(3);
  expect(quick).toMatchObject({ state: "ended", logPath: "/var/log/ale/c1.log" });
  expect(text(await sandbox.withFiles((files) => files.read(quick.logPath)))).toBe("out\nerr\n");
  const long = await sandbox.startCommand({ ...base, argv: ["sh", "-c", "echo started; sleep 60"] });
  await until(
    "it writes",
    5000,
    async () => text(await sandbox.withFiles((files) => files.read(long.logPath)).catch(() => null)) === "started\n",
  );
  expect(long.state).toBe("running");
  long.kill();
  await long.ended;
  expect(long).toMatchObject({ state: "failed", error: "it was ended" });
  const missing = await sandbox.startCommand({ ...base, argv: ["nonesuch"] });
  await missing.ended;
  expect(missing.error).toContain("there is no program nonesuch");
  expect(sandbox.log.entries.map(({ where, exitCode }) => [where, exitCode])).toEqual([["command", 3]]);
});
