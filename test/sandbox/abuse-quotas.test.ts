/**
 * What the kernel counts per user, taken by one sandbox as far as it goes: inotify instances, message queues, pending signals,
 * descriptors in flight, pipe pages, keys. Measured before and meanwhile, in a neighbour and on the host.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { compileProbe, ENVIRONMENT, file, LIMITS, openProvider, output, SUBIDS, type TestProvider } from "./support.ts";

const environment = { ...ENVIRONMENT, memoryBytes: 256 << 20, pids: 64 };
const HOLD =
  "/probe/quotas hold > /work/held 2>&1 & for i in $(seq 200); do grep -q ^held /work/held && break; sleep 0.1; done";
const isRoot = process.getuid?.() === 0;
/** Of inotify, that one sandbox may have: its own, or an eighth of half of the user's. */
const OF_USER = Number(readFileSync("/proc/sys/fs/inotify/max_user_instances", "utf8"));
const INSTANCES = isRoot ? 32 : Math.min(32, Math.max(4, Math.floor(OF_USER / 16)));

let provider: TestProvider;
let folder: string;
let program: Uint8Array;
beforeAll(async () => {
  provider = await openProvider();
  program = await compileProbe("quotas");
  folder = mkdtempSync(join(tmpdir(), "ale-quotas-"));
  writeFileSync(join(folder, "quotas"), program, { mode: 0o755 });
});
afterAll(async () => {
  await provider?.close();
  rmSync(folder, { recursive: true, force: true });
});

async function fresh(): Promise<NativeSandbox> {
  const sandbox = await provider.create(environment);
  await sandbox.upload("/probe", [file("quotas", program, 0o755)]);
  return sandbox;
}

function parse(text: string): Record<string, number> {
  const lines = text
    .trim()
    .split("\n")
    .map((line) => line.split(" "));
  return Object.fromEntries(
    lines.filter(([, count]) => count !== undefined).map(([name, count]) => [name, Number(count)]),
  );
}

const tryIn = async (sandbox: NativeSandbox) => parse(await output(sandbox, "/probe/quotas try"));
/** With the limit on open files that programs usually have. */
const tryOnHost = () =>
  parse(Bun.spawnSync(["prlimit", "--nofile=1024", join(folder, "quotas"), "try"]).stdout.toString());

test("one sandbox takes all it can of what is counted per user; the host and its neighbours go on", async () => {
  await using hog = await fresh();
  await using neighbour = await fresh();
  const before = { host: tryOnHost(), neighbour: await tryIn(neighbour) };
  await hog.run(HOLD, LIMITS);
  const held = parse(await output(hog, "cat /work/held"));
  expect(held.inotify).toBe(INSTANCES);
  const after = { host: tryOnHost(), neighbour: await tryIn(neighbour) };
  await using latecomer = await fresh();
  const late = await tryIn(latecomer);
  // Whole pipes are a matter of speed: from 16384 pages of a user on, new ones are smaller.
  const counts = ({ wholepipes: _, ...rest }: Record<string, number>) => rest;
  expect(counts(after.host)).toEqual(counts(before.host));
  const shared = isRoot ? ["inflight"] : ["inflight", "mqueue", "sigpending"];
  if (SUBIDS > 0) expect(provider.isolation).toStartWith("user+subids+");
  if (SUBIDS > 0 || provider.isolation.startsWith("root+userns+")) {
    // Ids of its own: nothing is shared that one sandbox alone could use up.
    expect(held.inflight).toBeGreaterThan(3000);
    expect(held.wholepipes).toBeGreaterThan(200);
    expect([after.neighbour, late, after.host]).toEqual([before.neighbour, before.neighbour, before.host]);
    shared.length = 0;
  }
  for (const [name, count] of Object.entries(counts(before.neighbour))) {
    if (shared.includes(name)) continue;
    expect([name, after.neighbour[name], late[name]]).toEqual([name, count, count]);
  }
  const told = [...shared, "wholepipes"].map((name) => `${name} ${before.neighbour[name]} → ${after.neighbour[name]}`);
  console.log(`${provider.isolation}: shared among sandboxes of one user: ${told.join(", ")}`);
  // As an ordinary user others may find no message queue while one holds its share; it never gets more than that.
  if (!provider.isolation.startsWith("root")) {
    const [queues, signals] = ["MSGQUEUE", "SIGPENDING"].map((name) => {
      const printed = Bun.spawnSync(["prlimit", `--${name.toLowerCase()}`, "--raw", "--noheadings", "-o", "SOFT"]);
      return Number(printed.stdout.toString());
    }) as [number, number];
    expect(held.mqueue).toBeLessThanOrEqual(queues / 8 / 81_920);
    expect(held.sigpending).toBeLessThanOrEqual(signals / 32);
  }
}, 60_000);

test("several that hold all they can leave their neighbours, and those that come later, files to watch", async () => {
  await using neighbour = await fresh();
  const hogs = await Promise.all(Array.from({ length: 4 }, fresh));
  await Promise.all(hogs.map((sandbox) => sandbox.run(HOLD, LIMITS)));
  for (const hog of hogs) expect(parse(await output(hog, "cat /work/held")).inotify).toBe(INSTANCES);
  await using latecomer = await fresh();
  const [near, late] = await Promise.all([neighbour, latecomer].map(tryIn));
  expect([near?.inotify, late?.inotify, tryOnHost().inotify]).toEqual([3, 3, 3]);
  await Promise.all(hogs.map((sandbox) => sandbox.destroy()));
}, 60_000);

test("what was taken is given back with the sandbox", async () => {
  await using sandbox = await fresh();
  const found = await tryIn(sandbox);
  expect(found).toMatchObject({ inotify: 3, mqueue: expect.any(Number), inflight: 3, pipes: 3 });
});

test("more sandboxes than the host has instances can each watch files", async () => {
  const count = 24;
  const sandboxes = await Promise.all(Array.from({ length: count }, fresh));
  const holds = sandboxes.map((sandbox) =>
    sandbox.run(
      "/probe/quotas hold > /work/held 2>&1 & for i in $(seq 200); do grep -q ^inotify /work/held && break; sleep 0.1; done",
      LIMITS,
    ),
  );
  await Promise.all(holds);
  const held = await Promise.all(sandboxes.map(async (sandbox) => parse(await output(sandbox, "cat /work/held"))));
  const total = held.reduce((sum, { inotify = 0 }) => sum + inotify, 0);
  if (isRoot) expect(total).toBe(count * INSTANCES);
  // Half of an ordinary user's stay with the user's own programs.
  expect(tryOnHost().inotify).toBe(3);
  await Promise.all(sandboxes.map((sandbox) => sandbox.destroy()));
}, 60_000);

test("no key can be added, joined or read", async () => {
  await using sandbox = await provider.create(environment);
  await sandbox.upload("/probe", [file("probe", await compileProbe(), 0o755)]);
  const found = await output(
    sandbox,
    "/probe/probe calls | grep -E '^(keyctl|add-key) '; cat /proc/keys /proc/key-users | wc -c",
  );
  expect(found).toBe("keyctl EPERM\nadd-key EPERM\n0\n");
});
