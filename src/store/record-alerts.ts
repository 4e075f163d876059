/** Keeps alerts of the service's sandboxes in the store, where they outlive the service. */

import type { SandboxAlert } from "./operations.ts";
import { openStore, type Store } from "./store.ts";

/** Alerts that may wait while the store is busy; more come only from an attack on the store. */
const WAITING_LIMIT = 10_000;

export class AlertRecorder implements AsyncDisposable {
  readonly #path: string;
  /** Opened with the first alert: a service that raises none writes nothing. */
  #store: Promise<Store> | undefined;
  #waiting: SandboxAlert[] = [];
  #writing: Promise<void> | undefined;
  /** What the first write that failed met; alerts are not recorded after it. */
  failure: unknown;

  constructor(path: string) {
    this.#path = path;
  }

  /** Never waits and never throws. */
  add(alert: SandboxAlert): void {
    if (this.failure !== undefined || this.#waiting.length >= WAITING_LIMIT) return;
    this.#waiting.push(alert);
    this.#writing ??= Promise.resolve().then(() => this.#write());
  }

  async #write(): Promise<void> {
    try {
      this.#store ??= openStore(this.#path);
      const store = await this.#store;
      while (this.#waiting.length > 0) await store.appendAlerts(this.#waiting.splice(0, 500));
    } catch (error) {
      this.failure = error;
    }
    this.#writing = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writing;
    const store = await this.#store?.catch(() => undefined);
    await store?.close();
  }
}
