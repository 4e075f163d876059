/** Process controls of Linux that JavaScript has no name for. */

import { dlopen } from "bun:ffi";
import { readFileSync } from "node:fs";

const PR_SET_PDEATHSIG = 1;
const SIGKILL = 9;

/**
 * Asks the kernel to kill this process when the thread that started it ends, so that `kill -9` of the control process leaves
 * nothing behind (prctl(2), PR_SET_PDEATHSIG). Ends the process at once when the parent is already gone.
 */
export function dieWithParent(): void {
  const parent = process.ppid;
  const libc = dlopen("libc.so.6", { prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" } });
  libc.symbols.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  libc.close();
  if (process.ppid !== parent) process.exit(1);
}

/** Memory of this process in bytes: resident now, and the most that ever was (proc_pid_status(5)). */
export function residentMemory(): { readonly now: number; readonly peak: number } {
  const status = readFileSync("/proc/self/status", "utf8");
  const bytes = (field: string) => 1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1]);
  return { now: bytes("VmRSS"), peak: bytes("VmHWM") };
}

/** Files that say how much memory a control group may use and uses, in versions 2 and 1. */
const GROUP_FILES = [
  ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"],
  ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"],
] as const;

/** Bytes this machine can still give: what the kernel calls available, or less where a control group sets a limit. */
export function availableMemory(): number {
  const read = (path: string) => {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return undefined;
    }
  };
  const kilobytes = /^MemAvailable:\s+(\d+) kB/m.exec(read("/proc/meminfo") ?? "")?.[1];
  let available = kilobytes === undefined ? Number.POSITIVE_INFINITY : 1024 * Number(kilobytes);
  for (const [limit, usage] of GROUP_FILES) {
    // a limit of "max" is none
    const left = Number(read(limit) ?? Number.NaN) - Number(read(usage) ?? Number.NaN);
    if (Number.isFinite(left)) available = Math.min(available, Math.max(0, left));
  }
  return available;
}
