/**
 * Snapshots are layers of files that nothing writes any more. Every sandbox writes to a tmpfs of its own; to freeze one, its
 * processes are ended and the launcher keeps the tmpfs, read-only, as a lower layer for the overlays of others. So the cost
 * does not depend on how much was written, and snapshots of snapshots stack.
 */

import { AleError } from "../core/errors.ts";
import type { SandboxSnapshot } from "../core/ports.ts";
import type { EnvironmentSpec } from "../core/types.ts";
import type { LauncherClient } from "./launcher-client.ts";
import type { SandboxRoot } from "./roots.ts";

/** What one frozen sandbox wrote. The launcher forgets it when no snapshot and no sandbox stands on it any more. */
export class Layer {
  /** Of its files. */
  readonly bytes: number;
  #id: number;
  #path: string | undefined;
  readonly #given: boolean;
  readonly #drop: (layer: Layer) => void;
  #users = 0;
  #live = 0;

  /** `path`: the folder of the host it lies in; without, it lies in memory. `given`: it is part of an image. */
  constructor(id: number, bytes: number, drop: (layer: Layer) => void, path?: string, given = false) {
    this.#given = given;
    this.#id = id;
    this.bytes = bytes;
    this.#drop = drop;
    this.#path = path;
  }

  /** The launcher's number for it. */
  get id(): number {
    return this.#id;
  }

  get path(): string | undefined {
    return this.#path;
  }

  get given(): boolean {
    return this.#given;
  }

  /** Whether it was written by a sandbox and lies on disk: then it counts against the disk of whoever stands on it. */
  get counts(): boolean {
    return this.#path !== undefined && !this.#given;
  }

  /** Whether sandboxes stand on it that run, and would keep it in memory. */
  get live(): boolean {
    return this.#live > 0;
  }

  get dropped(): boolean {
    return this.#users <= 0;
  }

  /** From now on it is what lies in a folder of the host. Returns the number it had. */
  moveTo(id: number, path: string): number {
    const before = this.#id;
    this.#id = id;
    this.#path = path;
    return before;
  }

  /** `live`: for a sandbox. */
  retain(live = false): void {
    this.#users++;
    if (live) this.#live++;
  }

  release(live = false): void {
    if (live) this.#live--;
    if (--this.#users === 0) this.#drop(this);
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

/** Commands that give a shell the variables of its image. */
export function exportCommands(env: Readonly<Record<string, string>>): string {
  return Object.entries(env)
    .map(([name, value]) => `export ${name}='${value.replaceAll("'", `'\\''`)}'`)
    .join("\n");
}

export interface SnapshotContents extends SandboxRoot {
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

  /** The same files once more, to be disposed of on its own. */
  share(): NativeSnapshot {
    return new NativeSnapshot(this.launcher, this.contents);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const layer of this.#contents.layers) layer.release();
  }
}
