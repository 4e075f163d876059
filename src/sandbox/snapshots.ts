/**
 * Snapshots are layers of files that nothing writes any more. Every sandbox writes to a tmpfs of its own; to freeze one, its
 * processes are ended and the launcher keeps the tmpfs, read-only, as a lower layer for the overlays of others. So the cost
 * does not depend on how much was written, and snapshots of snapshots stack.
 */

import { AleError } from "../core/errors.ts";
import type { SandboxSnapshot } from "../core/ports.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import type { LauncherClient } from "./launcher-client.ts";

/** What one frozen sandbox wrote. The launcher forgets it when no snapshot and no sandbox stands on it any more. */
export class Layer {
  readonly id: number;
  readonly #drop: (id: number) => void;
  #users = 0;

  constructor(id: number, drop: (id: number) => void) {
    this.id = id;
    this.#drop = drop;
  }

  retain(): void {
    this.#users++;
  }

  release(): void {
    if (--this.#users === 0) this.#drop(this.id);
  }
}

/** What a new shell needs to go on where another one stopped. */
export interface ShellState {
  readonly cwd: string;
  /** Commands that export the variables, as bash prints them. */
  readonly exports: string;
}

/** Prints what `parseShellState` reads; both are builtins, so no process is needed. */
export const PRINT_SHELL_STATE = `printf '%s\\0' "$PWD"; export -p`;

export function parseShellState(output: Uint8Array): ShellState {
  const text = new TextDecoder().decode(output);
  const end = text.indexOf("\0");
  return { cwd: text.slice(0, end), exports: text.slice(end + 1) };
}

/** Commands that bring a fresh shell to `state`; a folder that cannot be entered is said by the exit code. */
export function restoreShellState({ cwd, exports }: ShellState): string {
  // Read-only variables of the new shell refuse to be set again; that is no failure.
  return `{ ${exports}\n} 2>/dev/null; cd -- '${cwd.replaceAll("'", `'\\''`)}'`;
}

export interface SnapshotContents {
  /** Newest first. */
  readonly layers: readonly Layer[];
  readonly environment: EnvironmentSpec;
  /** `undefined` where there is no shell. */
  readonly shell: ShellState | undefined;
  readonly bytes: number;
  readonly lostProcesses: number;
}

export class NativeSnapshot implements SandboxSnapshot {
  readonly id: string;
  readonly bytes: number;
  readonly lostProcesses: number;
  /** The layers live in this launcher. */
  readonly launcher: LauncherClient;
  readonly #contents: SnapshotContents;
  #disposed = false;

  constructor(launcher: LauncherClient, contents: SnapshotContents) {
    this.launcher = launcher;
    this.#contents = contents;
    this.id = `snapshot-${contents.layers[0]?.id}`;
    this.bytes = contents.bytes;
    this.lostProcesses = contents.lostProcesses;
    for (const layer of contents.layers) layer.retain();
  }

  /** @throws AleError("sandbox") when it was disposed of, or ended with its launcher. */
  get contents(): SnapshotContents {
    if (this.#disposed) throw new AleError("sandbox", `${this.id} was disposed of`);
    if (!this.launcher.alive)
      throw new AleError("sandbox", `${this.id} is gone: its launcher ended`, {
        hint: "start again from the task and replay the commands",
      });
    return this.#contents;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const layer of this.#contents.layers) layer.release();
  }
}
