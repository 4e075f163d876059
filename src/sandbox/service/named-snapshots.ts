/** Snapshots with names: the files and shells of a sandbox at one moment, from which any number of sandboxes can start. */

import { AleError } from "../../core/errors.ts";
import type { SandboxSnapshot } from "../../core/ports.ts";
import type { EnvironmentSpec, NetworkSpec } from "../../core/types.ts";
import type { NativeSandbox } from "../native-sandbox.ts";
import type { NativeSandboxProvider } from "../supervisor.ts";
import type { ShellRecord } from "./managed-sandbox.ts";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

export interface NamedSnapshot {
  readonly name: string;
  /** Name of the sandbox it was taken of. */
  readonly sandbox: string;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  readonly environment: EnvironmentSpec;
  readonly shells: readonly ShellRecord[];
  readonly files: SandboxSnapshot;
  /** Processes of the sandbox, which ended there, too. */
  readonly lostProcesses: number;
  /** Shells that were running a command, and start afresh. */
  readonly freshShells: readonly string[];
}

export class UnknownSnapshot extends AleError {
  constructor(name: string) {
    super("usage", `there is no snapshot ${JSON.stringify(name)}`, { hint: "ale sandbox snapshots lists them" });
    this.name = "UnknownSnapshot";
  }
}

export class NamedSnapshots implements AsyncDisposable {
  readonly #snapshots = new Map<string, NamedSnapshot>();
  /** Being taken. */
  readonly #reserved = new Set<string>();

  /** The oldest first. */
  list(): NamedSnapshot[] {
    return [...this.#snapshots.values()];
  }

  /** @throws UnknownSnapshot. */
  get(name: string): NamedSnapshot {
    const snapshot = this.#snapshots.get(name);
    if (snapshot !== undefined) return snapshot;
    throw new UnknownSnapshot(name);
  }

  /** @throws AleError("usage") when the name is taken, or is none. */
  async add(name: string, take: () => Promise<Omit<NamedSnapshot, "name">>): Promise<NamedSnapshot> {
    if (!NAME.test(name))
      throw new AleError("usage", `${JSON.stringify(name)} cannot be the name of a snapshot`, {
        hint: "letters, digits, . _ and -, at most 128",
      });
    if (this.#snapshots.has(name) || this.#reserved.has(name))
      throw new AleError("usage", `there is a snapshot ${name} already`, { hint: "delete it, or take another name" });
    this.#reserved.add(name);
    try {
      const snapshot = { name, ...(await take()) };
      this.#snapshots.set(name, snapshot);
      return snapshot;
    } finally {
      this.#reserved.delete(name);
    }
  }

  /** Sandboxes that stand on it stay. @throws UnknownSnapshot. */
  async delete(name: string): Promise<void> {
    const snapshot = this.get(name);
    this.#snapshots.delete(name);
    await snapshot.files[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { name } of this.list()) await this.delete(name);
  }
}

/** A sandbox with a snapshot's files that may reach what `network` says, whatever its origin might. */
export async function forkWith(
  provider: NativeSandboxProvider,
  files: SandboxSnapshot,
  network: NetworkSpec,
  signal: AbortSignal,
): Promise<NativeSandbox> {
  const native = await provider.fork(files, signal);
  try {
    await native.network.change(network);
    return native;
  } catch (error) {
    await native.destroy();
    throw error;
  }
}
