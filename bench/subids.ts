/**
 * What subordinate ids cost an ordinary user's sandboxes, beside the user's one id: `bun run bench subids [--rounds 100] [--json]`
 *
 * Starting a launcher, a sandbox from nothing to its first output, and a fork to its first output; both sides take turns, and
 * who begins changes with each round. Needs an ordinary user with ranges in /etc/subuid and /etc/subgid.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { EnvironmentSpec } from "../src/core/types.ts";
import { createSandboxProvider, type NativeSandboxProvider } from "../src/sandbox/supervisor.ts";
import { median } from "./peers.ts";

const { values } = parseArgs({
  options: { rounds: { type: "string", default: "100" }, json: { type: "boolean", default: false } },
});
const rounds = Number(values.rounds);
const LAUNCHERS = 10;
const LIMITS = { timeoutMs: 20_000, maxOutputBytes: 1024 };
const ENVIRONMENT: EnvironmentSpec = {
  ...{ profile: "host", workdir: "/work", cpus: 1, memoryBytes: 64 << 20, diskBytes: 16 << 20, pids: 32 },
};

const folder = await mkdtemp(join(tmpdir(), "ale-subids-bench-"));
const SIDES = ["off", "auto"] as const;
const open = (subids: (typeof SIDES)[number]) =>
  createSandboxProvider({ maskPaths: [], stateDir: join(folder, subids), subids });

const samples = new Map<string, Record<(typeof SIDES)[number], number[]>>();

async function measure(name: string, turns: number, work: (side: (typeof SIDES)[number]) => Promise<number>) {
  const taken = { off: [] as number[], auto: [] as number[] };
  for (let turn = 0; turn < turns; turn++)
    for (const side of turn % 2 === 0 ? SIDES : SIDES.toReversed()) taken[side].push(await work(side));
  samples.set(name, taken);
}

async function firstOutput(make: () => ReturnType<NativeSandboxProvider["create"]>): Promise<number> {
  const started = performance.now();
  await using sandbox = await make();
  const { exitCode } = await sandbox.run("echo ready", LIMITS);
  if (exitCode !== 0) throw new Error(`echo ended with ${exitCode}`);
  return performance.now() - started;
}

try {
  await measure("launcher", LAUNCHERS, async (side) => {
    const started = performance.now();
    await using _ = await open(side);
    return performance.now() - started;
  });
  await using single = await open("off");
  await using own = await open("auto");
  if (!own.isolation.includes("subids")) throw new Error(`no subordinate ids here: ${own.isolation}; see ale doctor`);
  const providers = { off: single, auto: own };
  await measure("cold", rounds, (side) => firstOutput(() => providers[side].create(ENVIRONMENT)));
  const snapshots = {
    off: await (await single.create(ENVIRONMENT)).snapshot(),
    auto: await (await own.create(ENVIRONMENT)).snapshot(),
  };
  await measure("fork", rounds, (side) => firstOutput(() => providers[side].fork(snapshots[side])));
  const rows = [...samples].map(([name, { off, auto }]) => {
    const [one, subids] = [median(off), median(auto)];
    return { name, rounds: off.length, singleMs: one, subidsMs: subids, ratio: subids / one };
  });
  if (values.json) console.log(JSON.stringify(rows, null, 2));
  else
    for (const { name, singleMs, subidsMs, ratio } of rows)
      console.log(
        `${name}: ${singleMs.toFixed(2)} ms with one id, ${subidsMs.toFixed(2)} ms with subordinate ids, ${ratio.toFixed(2)} times`,
      );
} finally {
  await rm(folder, { recursive: true, force: true });
}
