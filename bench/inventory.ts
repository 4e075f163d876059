/** What sandboxes take of a machine, counted before and after: nothing of it may be left. */

import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import type { NativeSandboxProvider } from "../src/sandbox/supervisor.ts";

/** Numbers by what they count; −1 where this user may not look. */
export interface Inventory {
  /** Below the launcher, its factory included. */
  readonly processes: number;
  /** Mounts of the host that name the state folder, and all that the factory sees. */
  readonly mounts: string;
  /** Folders below the launcher's own control groups. */
  readonly cgroups: number;
  /** Namespaces that are used by processes below the launcher, and those that its descriptors hold. */
  readonly namespaces: number;
  /** Open in this process, the launcher and its factory, in this order; without the few networks that the launcher keeps. */
  readonly descriptors: string;
  /** In the state folder: number and bytes. */
  readonly files: string;
}

const NAMESPACES = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

export function takeInventory(provider: NativeSandboxProvider, stateDir: string): Inventory {
  const below = descendants(provider.launcherPid);
  const factory = childrenOf(provider.launcherPid).find((pid) => nameOf(pid) === "ale-factory");
  const own = ["self", String(provider.launcherPid), String(factory)];
  return {
    processes: below.length,
    mounts: `${mounts("self", stateDir)} ${mounts(String(factory), "")}`,
    cgroups: groupsOf(stateDir).reduce((sum, group) => sum + countFolders(group), 0),
    namespaces: new Set(below.flatMap(namespacesOf)).size,
    descriptors: own.map(openFiles).join(" "),
    files: describeFiles(stateDir),
  };
}

/** Processes directly below `parent`, oldest first unless their numbers began anew. */
export function childrenOf(parent: number): number[] {
  return processes()
    .filter((process) => process.parent === parent)
    .map(({ pid }) => pid)
    .sort((a, b) => a - b);
}

function nameOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "";
  }
}

/** Resident memory of a process in 10⁶ bytes. */
export function residentMb(pid: number): number {
  const [, kilobytes] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return (Number(kilobytes) * 1024) / 1e6;
}

/** Of the whole machine, so other programs are in it, too: unfreed memory of kernel and tmpfs, in 10⁶ bytes. */
export function kernelMb(): { readonly slab: number; readonly tmpfs: number } {
  const text = readFileSync("/proc/meminfo", "utf8");
  const of = (name: string) => (Number(new RegExp(`^${name}: +(\\d+)`, "m").exec(text)?.[1]) * 1024) / 1e6;
  return { slab: of("SUnreclaim"), tmpfs: of("Shmem") };
}

interface Process {
  readonly pid: number;
  readonly parent: number;
}

function processes(): Process[] {
  const found: Process[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const text = readFileSync(`/proc/${name}/stat`, "utf8");
      found.push({ pid: Number(name), parent: Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[1]) });
    } catch {
      // It ended meanwhile.
    }
  }
  return found;
}

function descendants(root: number): number[] {
  const children = Map.groupBy(processes(), ({ parent }) => parent);
  const below = (pid: number): number[] =>
    (children.get(pid) ?? []).flatMap((child) => [child.pid, ...below(child.pid)]);
  return below(root);
}

function namespacesOf(pid: number): string[] {
  const links = NAMESPACES.map((kind) => `/proc/${pid}/ns/${kind}`);
  try {
    links.push(...readdirSync(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`));
  } catch {
    // Not ours to look at; its namespaces may be.
  }
  return links.flatMap((link) => {
    try {
      const target = readlinkSync(link);
      return /^[a-z_]+:\[\d+\]$/.test(target) && !target.startsWith("socket") && !target.startsWith("pipe")
        ? [target]
        : [];
    } catch {
      return [];
    }
  });
}

function mounts(pid: string, naming: string): number {
  try {
    const lines = readFileSync(`/proc/${pid}/mountinfo`, "utf8").trimEnd().split("\n");
    return lines.filter((line) => line.includes(naming)).length;
  } catch {
    return -1;
  }
}

/** Networks of sandboxes that ended, for the next ones (`launcher/networks.c`). */
const KEPT_NETWORKS = 16;

function openFiles(pid: string): number {
  try {
    const folder = `/proc/${pid}/fd`;
    const names = readdirSync(folder);
    const networks = names.filter((name) => isNetwork(join(folder, name))).length;
    return names.length - Math.min(networks, KEPT_NETWORKS);
  } catch {
    return -1;
  }
}

function isNetwork(link: string): boolean {
  try {
    return readlinkSync(link).startsWith("net:");
  } catch {
    return false; // closed meanwhile
  }
}

function groupsOf(stateDir: string): string[] {
  return readdirSync(stateDir).flatMap((name) => {
    const record = JSON.parse(readFileSync(join(stateDir, name, "record.json"), "utf8")) as { cgroups: string[] };
    return record.cgroups;
  });
}

function countFolders(folder: string): number {
  return readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory()).length;
}

function describeFiles(folder: string): string {
  let count = 0;
  let bytes = 0;
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    const status = statSync(join(folder, name), { throwIfNoEntry: false });
    count++;
    bytes += status?.isFile() ? status.size : 0;
  }
  return `${count} (${bytes} bytes)`;
}
