/** Processes of a run: who can be killed, and whether they are gone. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Rng } from "../../../src/core/rng.ts";

/** A process, told apart from a later one with the same number by its start time. */
export interface ProcessMark {
  readonly pid: number;
  readonly start: string;
}

export type Victim = "control" | "engine" | "launcher" | "sandbox";

/** Share of kills. */
const SHARES: readonly (readonly [Victim, number])[] = [
  ["control", 0.4],
  ["engine", 0.3],
  ["launcher", 0.15],
  ["sandbox", 0.15],
];

/** Whom so many kills hit: the shares as exactly as whole numbers have them, in random order. */
export function drawVictims(kills: number, rng: Rng): Victim[] {
  const exact = SHARES.map(([victim, share]) => ({
    victim,
    count: Math.floor(share * kills),
    rest: (share * kills) % 1,
  }));
  const missing = kills - exact.reduce((sum, { count }) => sum + count, 0);
  const byRest = exact.toSorted((a, b) => b.rest - a.rest);
  const all = byRest.flatMap(({ victim, count }, i) => Array<Victim>(count + (i < missing ? 1 : 0)).fill(victim));
  for (let i = all.length - 1; i > 0; i--) {
    const other = rng.int(0, i);
    [all[i], all[other]] = [all[other] as Victim, all[i] as Victim];
  }
  return all;
}

interface LauncherRecord {
  readonly launcher?: ProcessMark;
  readonly cgroups: readonly string[];
}

/** Start time of a process in clock ticks after boot; undefined when it is gone or only waits to be reaped. */
function startOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

function isAlive({ pid, start }: ProcessMark): boolean {
  return startOf(pid) === start;
}

function childrenOf(pid: number): number[] {
  try {
    const tasks = readdirSync(`/proc/${pid}/task`);
    const texts = tasks.map((task) => readFileSync(`/proc/${pid}/task/${task}/children`, "utf8"));
    return texts.flatMap((text) => text.split(" ").filter(Boolean).map(Number));
  } catch {
    return []; // it ended meanwhile
  }
}

/** Everything below `home` and below a control process that a kill must not leave behind. */
export class Processes {
  readonly #sandboxes: string;
  readonly #seen = new Map<string, ProcessMark>();
  readonly #groups = new Set<string>();
  readonly #owners = new Set<number>();

  constructor(home: string) {
    this.#sandboxes = join(home, "sandboxes");
  }

  /** Notes all processes of a run; what was noted is looked for by `left`. */
  note(control: number): void {
    this.#owners.add(control);
    for (const record of this.#records()) for (const group of record.cgroups) this.#groups.add(group);
    const below = [control];
    for (let pid = below.pop(); pid !== undefined; pid = below.pop()) {
      const start = startOf(pid);
      if (start !== undefined) this.#seen.set(`${pid}:${start}`, { pid, start });
      below.push(...childrenOf(pid));
    }
  }

  find(victim: Exclude<Victim, "control">, control: number): number[] {
    switch (victim) {
      case "engine":
        return childrenOf(control).filter((pid) => commandOf(pid).includes("--ale-role=engine"));
      case "launcher":
        return this.#launchers();
      case "sandbox":
        return this.#launchers().flatMap(childrenOf);
    }
  }

  /** Processes that were noted and still run. */
  get alive(): number {
    return [...this.#seen.values()].filter(isAlive).length;
  }

  /** What is left on the machine after the last run, in words. */
  left(home: string): string[] {
    const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
    const parents = new Set([...this.#groups].map((group) => dirname(group)));
    const groups = [...parents].flatMap((parent) => readdirSync(parent).map((name) => join(parent, name)));
    const ours = (path: string) => [...this.#owners].some((pid) => path.includes(`/ale-${pid}-`));
    return [
      ...[...this.#seen.values()].filter(isAlive).map(({ pid }) => `process ${pid}: ${commandOf(pid)}`),
      ...mounts.filter((line) => line.includes(home)).map((line) => `mount ${line}`),
      ...groups.filter((path) => this.#groups.has(path) || ours(path)).map((path) => `control group ${path}`),
      ...this.#folders().map((name) => `folder ${join(this.#sandboxes, name)}`),
    ];
  }

  #folders(): string[] {
    return existsSync(this.#sandboxes) ? readdirSync(this.#sandboxes) : [];
  }

  #records(): LauncherRecord[] {
    return this.#folders().flatMap((name) => {
      try {
        return [JSON.parse(readFileSync(join(this.#sandboxes, name, "record.json"), "utf8"))];
      } catch {
        return []; // being made, or removed
      }
    });
  }

  #launchers(): number[] {
    const marks = this.#records().flatMap(({ launcher }) => launcher ?? []);
    return marks.filter(isAlive).map(({ pid }) => pid);
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
  } catch {
    return "";
  }
}
