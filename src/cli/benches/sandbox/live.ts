/** As many sandboxes alive at once as 2000, or as this machine allows; what they take, and that all of them end. */

import { readdirSync, readFileSync } from "node:fs";
import { freemem } from "node:os";
import { errorMessage } from "../../../core/errors.ts";
import type { Sandbox } from "../../../core/ports.ts";
import { rounded } from "../bench.ts";
import { checkGreeting, optionsOf, type SandboxBench } from "./cases.ts";
import { hardLimits } from "./peers.ts";
import { timing, type Use } from "./sides.ts";

const WANTED = 2000;
/** Made, or asked, at the same time. */
const AT_ONCE = 32;
/** The launcher keeps two descriptors of each; some are its own. */
const FILES_EACH = 2;
const OWN_FILES = 200;
/** Init and shell, and one that a command starts. */
const PROCESSES_EACH = 3;
const BYTES_EACH = 4e6;
const SURVIVOR_MS = 2000;

interface Limit {
  readonly most: number;
  /** Why not more. */
  readonly because: string;
}

export async function measureLive(bench: SandboxBench): Promise<void> {
  const { context, provider, environment } = bench;
  const { signal, report, note } = context;
  const { most, because } = await findLimit();
  if (most < WANTED) note(`live-2000: ${most} are made, for ${because}`);
  await provider.create(environment, signal).then((sandbox) => sandbox.destroy());
  const launcherOwn = new Set(descendantsOf(provider.launcherPid).keys());
  Bun.gc(true);
  const before = memoryNow();
  const sandboxes: Sandbox[] = [];
  const uses: Use[] = [];
  let failure = "";
  const started = performance.now();
  try {
    await inParallel(most, async (stop) => {
      const begun = performance.now();
      try {
        const sandbox = await provider.create(environment, signal);
        sandboxes.push(sandbox);
        checkGreeting(await sandbox.run("echo ready", optionsOf(signal)));
        uses.push({ first: performance.now() - begun, total: Number.NaN });
      } catch (error) {
        signal.throwIfAborted();
        failure = errorMessage(error);
        stop();
      }
      if (uses.length % 500 === 0) note(`live-2000: ${uses.length} live`);
    });
    const createSeconds = (performance.now() - started) / 1000;
    Bun.gc(true);
    const after = memoryNow();
    const live = sandboxes.length;
    let answered = 0;
    await inParallel(live, async () => {
      const sandbox = sandboxes[answered++ % live] as Sandbox;
      checkGreeting(await sandbox.run("echo ready", optionsOf(signal)));
    });
    const theirs = [...descendantsOf(provider.launcherPid)].filter(([pid]) => !launcherOwn.has(pid));
    const killing = performance.now();
    const ends = await Promise.all(
      sandboxes.splice(0).map((sandbox) => sandbox.destroy().then(() => performance.now() - killing)),
    );
    const killMs = performance.now() - killing;
    const survivors = await countSurvivors(theirs);
    report({
      ...{ name: "live-2000", backend: "native", concurrency: live },
      firstMs: timing(uses).firstMs,
      totalMs: timing(ends.map((total, i) => ({ first: 0, total: (uses[i]?.first ?? 0) + total }))).totalMs,
      perSecond: rounded(live / createSeconds),
      ...{ live, answered, processes: theirs.length, killMs: Math.round(killMs), survivors },
      megabytesEach: rounded((before.available - after.available) / live / 1e6),
      controlMegabytesEach: rounded((after.resident - before.resident) / live / 1e6),
      ...(live < WANTED && { limitedBy: failure === "" ? because : failure }),
    });
  } finally {
    await Promise.all(sandboxes.map((sandbox) => sandbox.destroy().catch(() => {})));
  }
}

async function findLimit(): Promise<Limit> {
  const { files, processes } = await hardLimits();
  const free = (path: string) => {
    try {
      return Number(readFileSync(path, "utf8"));
    } catch {
      return Number.POSITIVE_INFINITY;
    }
  };
  const running = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).length;
  const limits: readonly Limit[] = [
    { most: WANTED, because: "" },
    { most: (files - OWN_FILES) / FILES_EACH, because: `${files} open files are allowed (ulimit -Hn)` },
    { most: processes / PROCESSES_EACH, because: `${processes} processes are allowed (ulimit -Hu)` },
    {
      most: (free("/proc/sys/kernel/pid_max") - running) / PROCESSES_EACH,
      because: "there are no more process ids (kernel.pid_max)",
    },
    {
      most: free("/proc/sys/user/max_user_namespaces") / 2,
      because: "no more user namespaces are allowed (user.max_user_namespaces)",
    },
    { most: memoryNow().available / BYTES_EACH, because: "there is too little memory" },
  ];
  const least = limits.reduce((a, b) => (b.most < a.most ? b : a));
  return { most: Math.max(1, Math.floor(least.most)), because: least.because };
}

/** Bytes that the machine has left, and that this process holds. */
function memoryNow(): { readonly available: number; readonly resident: number } {
  const [, kilobytes] = /^MemAvailable: +(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8")) ?? [];
  return {
    available: kilobytes === undefined ? freemem() : Number(kilobytes) * 1024,
    resident: process.memoryUsage.rss(),
  };
}

async function inParallel(count: number, work: (stop: () => void) => Promise<void>): Promise<void> {
  let next = 0;
  const stop = () => {
    next = count;
  };
  const worker = async () => {
    while (next++ < count) await work(stop);
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count) }, worker));
}

/** Parent and start time of every process; one that only waits to be reaped has ended. */
function processes(): Map<number, { readonly parent: number; readonly start: string }> {
  const found = new Map<number, { readonly parent: number; readonly start: string }>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const text = readFileSync(`/proc/${name}/stat`, "utf8");
      const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
      if (fields[0] !== "Z" && fields[0] !== "X")
        found.set(Number(name), { parent: Number(fields[1]), start: fields[19] ?? "" });
    } catch {
      // It ended meanwhile.
    }
  }
  return found;
}

/** Start times of the processes below `root`, by process id. */
function descendantsOf(root: number): Map<number, string> {
  const all = processes();
  const children = Map.groupBy(all, ([, { parent }]) => parent);
  const found = new Map<number, string>();
  const visit = (pid: number) => {
    for (const [child, { start }] of children.get(pid) ?? []) {
      found.set(child, start);
      visit(child);
    }
  };
  visit(root);
  return found;
}

/** How many of these processes still run; some may take a moment to disappear. */
async function countSurvivors(known: readonly (readonly [number, string])[]): Promise<number> {
  const end = performance.now() + SURVIVOR_MS;
  for (;;) {
    const all = processes();
    const left = known.filter(([pid, start]) => all.get(pid)?.start === start).length;
    if (left === 0 || performance.now() > end) return left;
    await Bun.sleep(50);
  }
}
