/** What of a sandbox's shell outlives a snapshot, read and brought back. */

import type { NativeSandbox } from "./native-sandbox.ts";
import { exportCommands, PRINT_SHELL_STATE, parseShellState, restoreShellState, type ShellState } from "./snapshots.ts";

/** Exported variables beyond `maxOutputBytes` are not carried over. */
const OPTIONS = { timeoutMs: 10_000, maxOutputBytes: 1 << 20 };

/** All but init, the shell included. */
export async function countProcesses(sandbox: NativeSandbox): Promise<number> {
  return (await sandbox.statistics()).processes ?? 0;
}

/** `undefined` where the sandbox has no shell. */
export async function readShellState(sandbox: NativeSandbox): Promise<ShellState | undefined> {
  const result = await sandbox.run(PRINT_SHELL_STATE, OPTIONS).catch((error: unknown) => {
    if (sandbox.alive) return undefined;
    throw error;
  });
  return result?.exitCode === 0 && !result.truncated ? parseShellState(result.output) : undefined;
}

/** Brings a fresh shell to `shell`, where there was one. */
export async function reopenShell(sandbox: NativeSandbox, shell: ShellState | undefined): Promise<void> {
  if (shell === undefined) return;
  await sandbox.runIn(0, restoreShellState(shell), OPTIONS);
}

/** Gives a shell the variables of its image. */
export async function exportVariables(sandbox: NativeSandbox): Promise<void> {
  if (Object.keys(sandbox.env).length > 0) await sandbox.run(exportCommands(sandbox.env), OPTIONS);
}
