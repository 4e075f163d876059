/** What this machine allows, has left, and runs. */

import { readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { freemem } from "node:os";

const SURVIVOR_MS = 2000;

/** The most files and processes that this process may allow its children. */
export async function hardLimits(): Promise<{ readonly files: number; readonly processes: number }> {
  const text = await readFile("/proc/self/limits", "utf8");
  const most = (name: string) => {
    const [, hard] = new RegExp(`^${name} +\\S+ +(\\S+)`, "m").exec(text) ?? [];
    return hard === undefined || hard === "unlimited" ? Number.POSITIVE_INFINITY : Number(hard);
  };
  return { files: most("Max open files"), processes: most("Max processes") };
}

/** Bytes that the machine has left, and that this process holds. */
export function memoryNow(): { readonly available: number; readonly resident: number } {
  Bun.gc(true);
  const [, kilobytes] = /^MemAvailable: +(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8")) ?? [];
  return {
    available: kilobytes === undefined ? freemem() : Number(kilobytes) * 1024,
    resident: process.memoryUsage.rss(),
  };
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
export function descendantsOf(root: number): Map<number, string> {
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
export async function countSurvivors(known: readonly (readonly [number, string])[]): Promise<number> {
  const end = performance.now() + SURVIVOR_MS;
  for (;;) {
    const all = processes();
    const left = known.filter(([pid, start]) => all.get(pid)?.start === start).length;
    if (left === 0 || performance.now() > end) return left;
    await Bun.sleep(50);
  }
}
