/** As many sandboxes alive at once as 2000, or as this machine allows; what they take, and that all of them end. */

import { readdirSync, readFileSync } from "node:fs";
import { errorMessage } from "../../../core/errors.ts";
import type { Sandbox } from "../../../core/ports.ts";
import { rounded } from "../bench.ts";
import { checkGreeting, optionsOf, type SandboxBench } from "./cases.ts";
import { countSurvivors, descendantsOf, hardLimits, memoryNow } from "./machine.ts";
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
  const launchersOwn = new Set(descendantsOf(provider.launcherPid).keys());
  const before = memoryNow();
  const crowd: Crowd = { sandboxes: [], firstMs: [], failure: undefined };
  try {
    const started = performance.now();
    await makeCrowd(bench, crowd, most);
    const createSeconds = (performance.now() - started) / 1000;
    const after = memoryNow();
    const live = crowd.sandboxes.length;
    const answered = await askAll(crowd.sandboxes, signal);
    const theirs = [...descendantsOf(provider.launcherPid)].filter(([pid]) => !launchersOwn.has(pid));
    const endMs = await endAll(crowd.sandboxes.splice(0));
    const survivors = await countSurvivors(theirs);
    const uses = endMs.map((ms, i): Use => ({ first: crowd.firstMs[i] ?? 0, total: (crowd.firstMs[i] ?? 0) + ms }));
    report({
      ...{ name: "live-2000", backend: "native", concurrency: live },
      ...timing(uses),
      perSecond: rounded(live / createSeconds),
      ...{ live, answered, processes: theirs.length, killMs: Math.round(Math.max(...endMs)), survivors },
      megabytesEach: rounded((before.available - after.available) / live / 1e6),
      controlMegabytesEach: rounded((after.resident - before.resident) / live / 1e6),
      ...(live < WANTED && { limitedBy: crowd.failure ?? because }),
    });
  } finally {
    await Promise.all(crowd.sandboxes.map((sandbox) => sandbox.destroy().catch(() => {})));
  }
}

interface Crowd {
  readonly sandboxes: Sandbox[];
  /** From the request to the first output. */
  readonly firstMs: number[];
  /** Why there are not more. */
  failure: string | undefined;
}

/** `count` sandboxes that have all answered once, or as many as there can be. */
async function makeCrowd({ context, provider, environment }: SandboxBench, crowd: Crowd, count: number): Promise<void> {
  const { signal, note } = context;
  await inParallel(count, async (_index, stop) => {
    const begun = performance.now();
    try {
      const sandbox = await provider.create(environment, signal);
      crowd.sandboxes.push(sandbox);
      checkGreeting(await sandbox.run("echo ready", optionsOf(signal)));
      crowd.firstMs.push(performance.now() - begun);
    } catch (error) {
      signal.throwIfAborted();
      crowd.failure = errorMessage(error);
      stop();
      return;
    }
    if (crowd.firstMs.length % 500 === 0) note(`live-2000: ${crowd.firstMs.length} live`);
  });
}

async function askAll(sandboxes: readonly Sandbox[], signal: AbortSignal): Promise<number> {
  let answered = 0;
  await inParallel(sandboxes.length, async (index) => {
    checkGreeting(await (sandboxes[index] as Sandbox).run("echo ready", optionsOf(signal)));
    answered++;
  });
  return answered;
}

/** Milliseconds until each was gone. */
function endAll(sandboxes: readonly Sandbox[]): Promise<number[]> {
  const started = performance.now();
  return Promise.all(sandboxes.map((sandbox) => sandbox.destroy().then(() => performance.now() - started)));
}

async function findLimit(): Promise<Limit> {
  const { files, processes } = await hardLimits();
  const free = (path: string) => {
    try {
      const text = readFileSync(path, "utf8").trim();
      return text === "max" ? Number.POSITIVE_INFINITY : Number(text);
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
    ...["/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"].map((path) => ({
      most: free(path) / PROCESSES_EACH,
      because: `${free(path)} processes are allowed (${path})`,
    })),
    {
      most: free("/proc/sys/user/max_user_namespaces") / 2,
      because: "no more user namespaces are allowed (user.max_user_namespaces)",
    },
    { most: memoryNow().available / BYTES_EACH, because: "there is too little memory" },
  ];
  const least = limits.reduce((a, b) => (b.most < a.most ? b : a));
  return { most: Math.max(1, Math.floor(least.most)), because: least.because };
}

async function inParallel(count: number, work: (index: number, stop: () => void) => Promise<void>): Promise<void> {
  let next = 0;
  const stop = () => {
    next = count;
  };
  const worker = async () => {
    while (next < count) await work(next++, stop);
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count) }, worker));
}
