/** Which process works on a run. A process id alone could mean another process later, so the start time goes with it. */

import { readFileSync } from "node:fs";

/** `pid:start` of a process, or undefined when there is none; start is field 22 of /proc/pid/stat, in clock ticks since boot. */
export function processIdentity(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name, field 2, stands in parentheses and may hold anything.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const zombie = fields[0] === "Z" || fields[0] === "X";
    return zombie ? undefined : `${pid}:${fields[19] ?? ""}`;
  } catch {
    return undefined;
  }
}

/** Does the process that `processIdentity` named still run? */
export function isAlive(owner: string | null): boolean {
  if (owner === null) return false;
  const pid = Number(owner.split(":")[0]);
  return Number.isInteger(pid) && pid > 0 && processIdentity(pid) === owner;
}
