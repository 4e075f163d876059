/** A full disk pauses a run until somebody has made room. */

import { errorMessage, isDiskFull } from "../core/errors.ts";
import { beginWait } from "../core/waits.ts";
import type { RunOptions } from "./api.ts";

/** How often a refused write is tried again. */
const POLL_MS = 2_000;

export class DiskRoom {
  readonly #options: Pick<RunOptions, "hub" | "experiment" | "signal">;
  /** When the present pause ends by itself. */
  #until: number | undefined;
  #waiting: Promise<void> | undefined;
  #closed = false;

  constructor(options: Pick<RunOptions, "hub" | "experiment" | "signal">) {
    this.#options = options;
  }

  /** Does what writes to the disk, again while it is refused for want of room. */
  async write<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        const result = await work();
        this.found();
        return result;
      } catch (error) {
        if (!isDiskFull(error)) throw error;
        await this.wait(error);
      }
    }
  }

  /**
   * Pauses before a refused write is tried again. @throws `error` once the pause has lasted `checkpoint.waitForRoom` minutes
   * or the run is stopped, and at once after `close`.
   */
  wait(error: unknown): Promise<void> {
    this.#waiting ??= this.#pause(error).finally(() => {
      this.#waiting = undefined;
    });
    return this.#waiting;
  }

  /** From now on nothing waits: a refused write fails at once. */
  close(): void {
    this.#closed = true;
  }

  /** A write went through. */
  found(): void {
    if (this.#until === undefined) return;
    this.#until = undefined;
    this.#options.hub.emit({ type: "log", level: "info", message: "there is room on the disk again; the run goes on" });
  }

  async #pause(error: unknown): Promise<void> {
    const { hub, experiment, signal } = this.#options;
    if (signal.aborted || this.#closed) throw error;
    if (this.#until === undefined) {
      this.#until = Date.now() + experiment.checkpoint.waitForRoom * 60_000;
      hub.emit({ type: "log", level: "warn", message: `${errorMessage(error)}: the run waits until there is room` });
    }
    if (Date.now() >= this.#until) throw error;
    const endWait = beginWait("run", "room on the disk", this.#until - Date.now());
    await Bun.sleep(POLL_MS);
    endWait();
    if (signal.aborted || this.#closed) throw error;
  }
}
