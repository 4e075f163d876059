/** Sandboxes where version 2 of control groups is all there is. `bun test` in the machine of ../kernel.test.ts, as root and as a user. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { NativeSandbox } from "../../../src/sandbox/native-sandbox.ts";
import { reapOrphans } from "../../../src/sandbox/registry.ts";
import {
  compileProbe,
  ENVIRONMENT,
  file,
  LIMITS,
  openProvider,
  output,
  type TestProvider,
  until,
} from "../../sandbox/support.ts";

const MIB = 2 ** 20;
/** A machine without acceleration is slow. */
const LONG = 60_000;
let provider: TestProvider;
let probe: Uint8Array;
beforeAll(async () => {
  provider = await openProvider();
  probe = await compileProbe();
});
afterAll(() => provider?.close());

/** The launcher's one group. */
function launcherGroup(): string {
  const [folder = ""] = readdirSync(provider.stateDir);
  const [group, ...more] = JSON.parse(readFileSync(join(provider.stateDir, folder, "record.json"), "utf8")).cgroups;
  expect(more).toEqual([]);
  return group;
}

/** A sandbox, its group, and how to read a file of its group. */
async function make(
  environment = ENVIRONMENT,
): Promise<{ sandbox: NativeSandbox; group: string; read(name: string): string }> {
  const before = new Set(readdirSync(launcherGroup()));
  const sandbox = await provider.create(environment);
  const name = readdirSync(launcherGroup()).find((entry) => /^s\d+$/.test(entry) && !before.has(entry));
  const group = join(launcherGroup(), name ?? "none");
  return { sandbox, group, read: (entry) => readFileSync(join(group, entry), "utf8").trim() };
}

const value = (text: string, key: string) => Number(new RegExp(`^${key} (\\d+)$`, "m").exec(text)?.[1]);

test("the level", () => {
  expect(provider.isolation).toBe(`${process.getuid?.() === 0 ? "root" : "user"}+userns+seccomp+cgroup2`);
});

test("limits are the group's", async () => {
  const { sandbox, read } = await make({ ...ENVIRONMENT, cpus: 0.5 });
  await using _ = sandbox;
  expect(read("memory.max")).toBe(String(ENVIRONMENT.memoryBytes + ENVIRONMENT.diskBytes));
  expect(read("memory.swap.max")).toBe("0");
  expect(read("pids.max")).toBe(String(ENVIRONMENT.pids + 2));
  expect(read("cpu.max")).toBe("50000 100000");
});

test("memory: what takes too much is killed and counted, and the sandbox goes on", async () => {
  const { sandbox, read } = await make();
  await using _ = sandbox;
  await sandbox.upload("/probe", [file("probe", probe, 0o755)]);
  expect((await sandbox.run("/probe/probe hog anonymous 512", LIMITS)).exitCode).toBe(137);
  const kills = value(read("memory.events"), "oom_kill");
  expect(kills).toBeGreaterThan(0);
  expect((await sandbox.limitEvents()).memory).toBe(kills);
  const { memoryKills, memoryPeakBytes = 0 } = await sandbox.statistics();
  expect(memoryKills).toBe(kills);
  expect(memoryPeakBytes).toBe(Number(read("memory.peak")));
  expect(memoryPeakBytes).toBeGreaterThan(ENVIRONMENT.memoryBytes - MIB);
  expect(memoryPeakBytes).toBeLessThanOrEqual(ENVIRONMENT.memoryBytes + ENVIRONMENT.diskBytes);
  expect(await output(sandbox, "echo on")).toBe("on\n");
});

test("processes: no more than allowed, and counted", async () => {
  const { sandbox, read } = await make();
  await using _ = sandbox;
  // Not bash's own jobs: it waits and tries again.
  await sandbox.run("sh -c 'for i in $(seq 60); do sleep 60 & done' 2>/dev/null", LIMITS);
  expect(Number(read("pids.current"))).toBeLessThanOrEqual(ENVIRONMENT.pids + 2);
  expect(Number(read("pids.current"))).toBeGreaterThan(ENVIRONMENT.pids - 4);
  expect(value(read("pids.events"), "max")).toBeGreaterThan(0);
  expect((await sandbox.limitEvents()).pids).toBeGreaterThan(0);
});

test("processor: a fifth of one is a fifth", async () => {
  const { sandbox, read } = await make({ ...ENVIRONMENT, cpus: 0.2 });
  await using _ = sandbox;
  const used = () => value(read("cpu.stat"), "usage_usec") / 1e6;
  const [before, started] = [used(), performance.now()];
  await sandbox.run("timeout 3 sh -c 'while :; do :; done'", LIMITS);
  const share = (used() - before) / ((performance.now() - started) / 1000);
  expect(share).toBeGreaterThan(0.1);
  expect(share).toBeLessThan(0.25);
  expect(value(read("cpu.stat"), "nr_throttled")).toBeGreaterThan(5);
});

test("paused is frozen by the kernel, resumed goes on", async () => {
  const { sandbox, read } = await make();
  await using _ = sandbox;
  await sandbox.run("(while :; do :; done) &", LIMITS);
  await sandbox.pause();
  expect(read("cgroup.freeze")).toBe("1");
  await until("the group is frozen", LONG, () => value(read("cgroup.events"), "frozen") === 1);
  const used = () => value(read("cpu.stat"), "usage_usec");
  const before = used();
  await Bun.sleep(500);
  expect(used() - before).toBeLessThan(20_000);
  await sandbox.resume();
  expect(value(read("cgroup.events"), "frozen")).toBe(0);
  await until("the loop goes on", LONG, () => used() - before > 200_000);
  expect(await output(sandbox, "echo on")).toBe("on\n");
});

test("destroyed while frozen, nothing is left", async () => {
  const { sandbox, group, read } = await make();
  await sandbox.run("sleep 1000 & setsid sleep 1000 &", LIMITS);
  await sandbox.pause();
  const pids = read("cgroup.procs").split("\n");
  expect(pids.length).toBeGreaterThan(2);
  await sandbox.destroy();
  expect(existsSync(group)).toBe(false);
  for (const pid of pids) expect(existsSync(`/proc/${pid}`)).toBe(false);
});

test("what a killed Ale left in its groups is ended at once, frozen or not", async () => {
  const stateDir = mkdtempSync(join(tmpdir(), "ale-orphans-"));
  const name = `ale-${process.pid}-1-1`; // of a start time that no process has
  const left = join(dirname(launcherGroup()), name);
  mkdirSync(join(left, "s1"), { recursive: true });
  mkdirSync(join(stateDir, name));
  writeFileSync(
    join(stateDir, name, "record.json"),
    JSON.stringify({ owner: { pid: process.pid, start: "1" }, cgroups: [left] }),
  );
  await using child = Bun.spawn(["sleep", "1000"]);
  writeFileSync(join(left, "s1", "cgroup.procs"), String(child.pid));
  writeFileSync(join(left, "s1", "cgroup.freeze"), "1");
  expect(await reapOrphans(stateDir)).toBe(1);
  await child.exited;
  expect(child.signalCode).toBe("SIGKILL");
  expect(existsSync(left)).toBe(false);
});
