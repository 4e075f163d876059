/** What archiving and restoring do to a sandbox of the service. */

import type { Alert } from "../../core/alerts.ts";
import { AleError, errorMessage } from "../../core/errors.ts";
import { needStore } from "../layer-store.ts";
import type { NativeSandbox } from "../native-sandbox.ts";
import type { NativeSandboxProvider } from "../supervisor.ts";
import { fromRecord, toRecord } from "./archive-record.ts";
import type { ArchiveStore } from "./archives.ts";
import type { Clock } from "./clock.ts";
import type { ManagedSandbox } from "./managed-sandbox.ts";

export class Archiving {
  readonly #provider: NativeSandboxProvider;
  readonly #store: ArchiveStore;

  constructor(provider: NativeSandboxProvider, store: ArchiveStore) {
    this.#provider = provider;
    this.#store = store;
  }

  /** What earlier services archived. */
  async load(clock: Clock, onAlert: (alert: Alert, sandbox: ManagedSandbox) => void): Promise<ManagedSandbox[]> {
    return (await this.#store.load()).map((record) => fromRecord(record, clock, onAlert));
  }

  /** @throws AleError("sandbox") when it cannot be written; the sandbox is stopped as before then. */
  async archive(sandbox: ManagedSandbox, reason: string, clock: Clock): Promise<void> {
    const { files, id } = sandbox;
    if (files === undefined)
      throw new AleError("usage", `sandbox ${id} never ran, so there is nothing to archive`, { hint: "delete it" });
    sandbox.move("archive", reason);
    const archivedAt = clock.now();
    try {
      sandbox.root = await this.#store.save(needStore(this.#provider), files, toRecord(sandbox, archivedAt, reason));
    } catch (error) {
      sandbox.move("archive_failed", errorMessage(error));
      throw error;
    }
    sandbox.move("archive_done", reason);
    sandbox.archivedAt = archivedAt;
    await sandbox.discard();
  }

  /** A sandbox with the files of the archive. */
  async bring(sandbox: ManagedSandbox, signal: AbortSignal): Promise<NativeSandbox> {
    if (sandbox.root === undefined) throw new AleError("internal", `sandbox ${sandbox.id} has no archive`);
    await using files = await needStore(this.#provider).open(sandbox.root, sandbox.spec.environment);
    return await this.#provider.fork(files, signal); // which keeps what it stands on
  }

  /** Of a sandbox that is no more. */
  async remove(sandbox: ManagedSandbox): Promise<void> {
    if (sandbox.root !== undefined) await this.#store.remove(sandbox.id, needStore(this.#provider));
  }

  /** Leaves the archives to other services. */
  async release(sandboxes: readonly ManagedSandbox[]): Promise<void> {
    for (const { id, root } of sandboxes) if (root !== undefined) await this.#store.release(id);
  }
}
