/**
 * What is left on the machine while sandboxes live: a folder per launcher, control groups, the launcher itself. Each
 * launcher is recorded in `stateDir`, so that a later `ale` finds and removes what a killed one left.
 */

import { mkdir, readdir, readFile, rename, rmdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import { removeTree } from "./remove-tree.ts";

/** A process, told apart from a later one with the same number by its start time in clock ticks after boot. */
export interface ProcessMark {
  readonly pid: number;
  readonly start: string;
}

export interface LauncherRecord {
  /** Also the name of its control groups. */
  readonly name: string;
  readonly folder: string;
  launcher: number | undefined;
  cgroups: readonly string[];
  save(): Promise<void>;
}

interface StoredRecord {
  readonly owner: ProcessMark;
  readonly launcher?: ProcessMark;
  readonly cgroups: readonly string[];
}

const NAME = /^ale-(\d+)-(\d+)-\d+$/;
let counter = 0;

/** Field 22 of /proc/<pid>/stat, or `undefined` when no such process runs; one that waits to be reaped does not. */
async function startTime(pid: number): Promise<string | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export async function isAlive(mark: ProcessMark): Promise<boolean> {
  return (await startTime(mark.pid)) === mark.start;
}

/** This process, to be told apart from others later. */
export async function ownMark(): Promise<ProcessMark> {
  const start = await startTime(process.pid);
  if (start !== undefined) return { pid: process.pid, start };
  throw new AleError("sandbox", "/proc is not readable", { hint: "mount it: mount -t proc proc /proc" });
}

/** A new name for something on the machine that ends with this process; it says whose it is. */
export async function ownedName(): Promise<string> {
  const { pid, start } = await ownMark();
  return `ale-${pid}-${start}-${++counter}`;
}

/** Whether a name is one of `ownedName`'s, of a process that has ended. */
export async function isOrphan(name: string): Promise<boolean> {
  const [, pid, start] = NAME.exec(name) ?? [];
  return pid !== undefined && start !== undefined && !(await isAlive({ pid: Number(pid), start }));
}

/** Notes a launcher that is about to start. */
export async function recordLauncher(stateDir: string): Promise<LauncherRecord> {
  const owner = await ownMark();
  const name = await ownedName();
  const folder = join(stateDir, name);
  const record: LauncherRecord = {
    name,
    folder,
    launcher: undefined,
    cgroups: [],
    async save() {
      const pid = record.launcher;
      const launcherStart = pid === undefined ? undefined : await startTime(pid);
      const launcher =
        pid === undefined || launcherStart === undefined ? {} : { launcher: { pid, start: launcherStart } };
      const stored: StoredRecord = { owner, ...launcher, cgroups: record.cgroups };
      await writeFile(join(folder, "record.partial"), JSON.stringify(stored));
      await rename(join(folder, "record.partial"), join(folder, "record.json"));
    },
  };
  try {
    await mkdir(folder, { recursive: true });
    await record.save();
  } catch (error) {
    throw new AleError("sandbox", `the sandboxes' state folder ${stateDir} cannot be written: ${errorMessage(error)}`, {
      hint: "set ALE_HOME to a folder you may write to",
      cause: error,
    });
  }
  return record;
}

/** Removes what a launcher that has ended leaves. */
export async function forgetLauncher(record: LauncherRecord): Promise<void> {
  for (const group of record.cgroups) await removeGroup(group);
  await removeTree(record.folder);
}

/** Ends the processes of a control group and removes it with the groups below it. */
async function removeGroup(path: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(path);
  } catch {
    return;
  }
  await writeFile(join(path, "cgroup.kill"), "1").catch(() => {}); // v2 only
  for (const name of names) if (/^s\d+$/.test(name)) await removeGroup(join(path, name));
  for (let attempt = 0; attempt < 50; attempt++) {
    const pids = await readFile(join(path, "cgroup.procs"), "utf8").catch(() => "");
    for (const pid of pids.split("\n")) if (pid !== "") kill(Number(pid));
    const gone = await rmdir(path).then(
      () => true,
      (error) => error?.code === "ENOENT",
    );
    if (gone) return;
    await Bun.sleep(10);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // gone already, or not ours
  }
}

async function readRecord(folder: string): Promise<StoredRecord | undefined> {
  try {
    return JSON.parse(await readFile(join(folder, "record.json"), "utf8")) as StoredRecord;
  } catch {
    return undefined;
  }
}

/** Control groups of launchers whose process is gone, next to `groups`: a launcher may die before it is recorded. */
export async function reapGroupsBeside(groups: readonly string[]): Promise<number> {
  let count = 0;
  for (const parent of new Set(groups.map((group) => dirname(group)))) {
    for (const name of await readdir(parent).catch(() => [])) {
      if (!(await isOrphan(name))) continue;
      await removeGroup(join(parent, name));
      count++;
    }
  }
  return count;
}

/**
 * Removes what killed processes left: launchers that still run, control groups, folders. Leaves alone what belongs to a
 * process that lives. Returns how many launchers were cleaned up after.
 */
export async function reapOrphans(stateDir: string): Promise<number> {
  let count = 0;
  for (const name of await readdir(stateDir).catch(() => [])) {
    if (!(await isOrphan(name))) continue;
    const folder = join(stateDir, name);
    const record = await readRecord(folder);
    if (record?.launcher !== undefined && (await isAlive(record.launcher))) kill(record.launcher.pid);
    for (const group of record?.cgroups ?? []) await removeGroup(group);
    await reapGroupsBeside(record?.cgroups ?? []);
    await removeTree(folder);
    count++;
  }
  return count;
}
