/** What an agent can try against the parts that the service adds, and sandboxes that come and go at random moments. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { Rng } from "../../src/core/rng.ts";
import type { ManagedSandbox } from "../../src/sandbox/service/managed-sandbox.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { ENVIRONMENT, LIMITS, openProvider, type TestProvider, text, until } from "./support.ts";

let provider: TestProvider;
let service: SandboxService;
const environment = { ...ENVIRONMENT, pids: 64 };
beforeAll(async () => {
  provider = await openProvider();
  const capacity = { memoryBytes: 2 ** 34, cpus: 1000, diskBytes: 2 ** 34, count: 24 };
  service = new SandboxService({ provider, capacity });
});
afterAll(async () => {
  await service?.close();
  await provider?.close();
});

const inFolder = { ...LIMITS, cwd: "/work" };
const run = async (sandbox: ManagedSandbox, command: string) =>
  text((await sandbox.exec(["sh", "-c", command], inFolder)).output);

async function withSandbox(work: (sandbox: ManagedSandbox) => Promise<void>): Promise<void> {
  const sandbox = await service.create({ environment });
  try {
    await work(sandbox);
  } finally {
    await service.delete(sandbox.id);
  }
}

test("pausing holds a fork storm", () =>
  withSandbox(async (sandbox) => {
    await sandbox.openShell("s");
    await sandbox.runInShell(
      "s",
      "storm() { while :; do (sleep 0.01; :) & sleep 0.005; done; }; storm >/dev/null 2>&1 &",
      LIMITS,
    );
    await Bun.sleep(200);
    await service.pause(sandbox.id);
    const cpu = async () => (await sandbox.statistics()).cpuSeconds ?? 0;
    const before = await cpu();
    await Bun.sleep(300);
    expect((await cpu()) - before).toBeLessThan(0.1); // asking costs a little itself
    await service.resume(sandbox.id);
    await service.stop(sandbox.id);
  }));

test("a broken user database gives no users, and nothing else", () =>
  withSandbox(async (sandbox) => {
    const broken = [
      "printf ':::::\\nx:x\\n:0:0\\nann:x:99999999999:1::/:/x\\n' > /etc/passwd",
      "head -c 1000000 /dev/urandom > /etc/passwd",
      "rm /etc/passwd; ln -s /dev/zero /etc/passwd",
      "rm /etc/passwd; mkfifo /etc/passwd",
      "rm /etc/passwd; mkdir /etc/passwd",
    ];
    for (const command of broken) {
      await run(sandbox, command);
      await expect(sandbox.exec(["id"], { ...inFolder, user: "ann" })).rejects.toThrow(/no user ann/);
      expect(await run(sandbox, "echo on")).toBe("on\n");
    }
  }));

test("how much there can be of each kind is limited", () =>
  withSandbox(async (sandbox) => {
    for (let i = 0; i < 15; i++) await sandbox.openShell(`s${i}`);
    await expect(sandbox.openShell("more")).rejects.toThrow("the most there can be");
    const terminal = { argv: ["cat"], cwd: "/", rows: 24, columns: 80 };
    for (let i = 0; i < 16; i++) await sandbox.openTerminal(terminal);
    await expect(sandbox.openTerminal(terminal)).rejects.toThrow("16 terminals are open already");
    const many = Array.from({ length: 3000 }, (_, i) => `a${i}`);
    await expect(sandbox.exec(["true", ...many], inFolder)).rejects.toThrow("too many arguments");
    await sandbox.closeShell("s3");
    expect((await sandbox.openShell("again")).number).toBe(4);
  }));

test("floods on consoles and terminals end, or wait, and take no memory to speak of", () =>
  withSandbox(async (sandbox) => {
    await sandbox.openShell("s");
    const flood = await sandbox.runInShell("s", "yes", { ...LIMITS, maxOutputBytes: 1000, interactive: true });
    expect(flood).toMatchObject({ status: "output_limit", exitCode: null });
    expect(flood.output.length).toBeLessThan(1200);
    expect(text((await sandbox.runInShell("s", "echo on", LIMITS)).output)).toBe("on\n");
    const terminal = await sandbox.openTerminal({ argv: ["yes"], cwd: "/", rows: 24, columns: 80 });
    await Bun.sleep(300);
    expect((await terminal.read(0)).output.length).toBeLessThan(200_000);
  }));

test("a shell that is killed with a program in front is told, and usable", () =>
  withSandbox(async (sandbox) => {
    await sandbox.openShell("s");
    const ask = { ...LIMITS, interactive: true, expect: [/> $/] };
    await sandbox.runInShell("s", "printf '> '; read -r x; kill -9 $$", ask);
    expect((await sandbox.runInShell("s", "go", { ...LIMITS, interactive: true })).status).toBe("shell_died");
    expect(text((await sandbox.runInShell("s", "echo on", LIMITS)).output)).toBe("on\n");
    const abort = new AbortController();
    const waiting = sandbox.runInShell("s", "sleep 30", { ...LIMITS, interactive: true, signal: abort.signal });
    setTimeout(() => abort.abort(), 100);
    await expect(waiting).rejects.toMatchObject({ code: "interrupted" });
    expect(text((await sandbox.runInShell("s", "echo on", LIMITS)).output)).toContain("on\n");
  }));

/** Control groups of this provider's sandboxes, wherever they are mounted. */
function groups(): string[] {
  const found: string[] = [];
  const record = readdirSync(provider.stateDir).filter((name) => name.startsWith("ale-"));
  for (const controller of ["memory", "pids", "cpu", "unified"])
    for (const name of record) {
      const own = Bun.spawnSync(["find", join("/sys/fs/cgroup", controller), "-type", "d", "-path", `*/${name}/s*`]);
      found.push(...own.stdout.toString().split("\n").filter(Boolean));
    }
  return found;
}

test("sandboxes that come, change and go at random moments leave nothing behind", async () => {
  const rng = new Rng("churn");
  const pick = <T>(all: readonly T[]): T => rng.pick(all);
  const commands = [
    "true",
    "sleep 5",
    "yes >/dev/null",
    "sleep 9 & exit 3",
    "kill -9 -1",
    "head -c 100000 /dev/zero > f",
  ];
  const actions: readonly ((sandbox: ManagedSandbox) => Promise<unknown>)[] = [
    (sandbox) => sandbox.exec(["sh", "-c", pick(commands)], { ...inFolder, timeoutMs: 50 }),
    (sandbox) =>
      sandbox.openShell(pick(["a", "b"])).then((shell) => shell.run(pick(commands), { ...LIMITS, timeoutMs: 50 })),
    (sandbox) =>
      sandbox.startCommand({ argv: ["sh", "-c", pick(commands)], cwd: "/", timeoutMs: 1000, maxLogBytes: 1000 }),
    (sandbox) => sandbox.openTerminal({ argv: ["sh"], cwd: "/", rows: 9, columns: 9 }),
    (sandbox) => service.pause(sandbox.id).then(() => service.resume(sandbox.id)),
    (sandbox) => service.stop(sandbox.id).then(() => service.restart(sandbox.id)),
    (sandbox) => service.fork(sandbox.id).then((forked) => service.delete(forked.sandbox.id)),
    (sandbox) => service.delete(sandbox.id),
  ];
  const life = async () => {
    const sandbox = await service.create({ environment, queueMs: 60_000 });
    const steps = Array.from({ length: rng.int(1, 4) }, () => pick(actions)(sandbox).catch(() => {}));
    if (rng.int(0, 1) === 0) await Promise.all(steps);
    else await Bun.sleep(rng.int(0, 30));
    await service.delete(sandbox.id);
    await Promise.all(steps);
  };
  for (let round = 0; round < 6; round++) await Promise.all(Array.from({ length: 10 }, life));
  for (const left of service.list()) await service.delete(left.id); // forks whose parents were deleted meanwhile
  expect(service.admission.used).toMatchObject({ count: 0, memoryBytes: 0, diskBytes: 0 });
  expect(service.admission.waiting).toBe(0);
  await until("no process is left", 10_000, () => {
    const children = Bun.spawnSync(["pgrep", "-c", "-P", String(provider.launcherPid)])
      .stdout.toString()
      .trim();
    return children === "1"; // the factory
  });
  await until("no control group is left", 10_000, () => groups().length === 0);
  await withSandbox(async (sandbox) => expect(await run(sandbox, "echo on")).toBe("on\n"));
}, 120_000);
