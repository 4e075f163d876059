/** An environment's limits in the words of the launcher, and what of an environment depends on what a sandbox stands on. */

import { resolve } from "node:path";
import { AleError } from "../core/errors.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import type { NativeSandbox } from "./native-sandbox.ts";
import { NetworkPolicy } from "./network/policy.ts";
import type { SandboxRoot } from "./roots.ts";

const MIN_MEMORY = 16 << 20;
const MIN_DISK = 1 << 20;

/**
 * Limits of an environment, as the launcher takes them.
 * @throws AleError("sandbox") naming the field that is out of bounds.
 */
export function limitSettings(environment: EnvironmentSpec): [string, string | number][] {
  const { workdir, cpus, memoryBytes, diskBytes, pids, network } = environment;
  if (network !== undefined) void new NetworkPolicy(network); // refuses rules that are none
  if (!workdir.startsWith("/") || resolve(workdir) !== workdir || workdir === "/")
    throw new AleError("sandbox", `environment.workdir must be an absolute folder such as /work, not "${workdir}"`);
  const refuse = (what: string, least: string) => {
    throw new AleError("sandbox", `environment.${what} is too small for a sandbox`, { hint: `at least ${least}` });
  };
  if (!(memoryBytes >= MIN_MEMORY)) refuse("memory_mb", "16");
  if (!(diskBytes >= MIN_DISK)) refuse("storage_mb", "1");
  if (!(pids >= 4)) refuse("pids", "4");
  if (!(cpus > 0)) refuse("cpus", "0.01");
  return [
    ["workdir", workdir],
    ["memory", Math.floor(memoryBytes)],
    ["disk", Math.floor(diskBytes)],
    ["inodes", Math.min(1 << 20, Math.max(2048, Math.floor(diskBytes / 8192)))],
    ["pids", Math.floor(pids)],
    ["cpu", Math.max(10, Math.floor(cpus * 1000))],
  ];
}

/** A sandbox has at least so much disk beside what it stands on. */
const LEAST_DISK = 1 << 20;

/** What frozen layers hold counts wherever it lies; the launcher subtracts what is in memory. */
export function diskLeft(diskBytes: number, { layers }: SandboxRoot): number {
  const onDisk = layers.reduce((sum, layer) => sum + (layer.counts ? layer.bytes : 0), 0);
  return onDisk === 0 ? diskBytes : Math.max(LEAST_DISK, diskBytes - onDisk);
}

/** What stands on a sandbox's files may reach what that one may reach now, which need not be what it was made with. */
export function environmentNow({ environment, network }: NativeSandbox): EnvironmentSpec {
  return { ...environment, network: network.spec };
}
