/** The files of a sandbox at one moment, for forks, snapshots and images. */

import { NativeSnapshot } from "../snapshots.ts";
import type { ManagedSandbox } from "./managed-sandbox.ts";
import type { NamedSnapshot } from "./named-snapshots.ts";

/**
 * Of a running or stopped sandbox. One that runs goes on: its processes end, its shells are opened again.
 * @throws AleError("usage") when it is neither.
 */
export async function freeze(sandbox: ManagedSandbox, createdAt: number): Promise<Omit<NamedSnapshot, "name">> {
  const about = { sandbox: sandbox.id, createdAt, environment: sandbox.spec.environment };
  if (sandbox.state === "stopped" && sandbox.files instanceof NativeSnapshot)
    return { ...about, files: sandbox.files.share(), shells: [], lostProcesses: 0, freshShells: [] };
  const running = sandbox.running;
  const shells = await sandbox.describeShells();
  const files = await running.snapshotFiles();
  try {
    await sandbox.reopenShells(shells);
  } catch (error) {
    await files[Symbol.asyncDispose]();
    throw error;
  }
  const lostProcesses = Math.max(0, files.lostProcesses - shells.length);
  const freshShells = shells.filter(({ state }) => state === undefined).map(({ name }) => name);
  return { ...about, files, shells, lostProcesses, freshShells };
}
