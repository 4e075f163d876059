/**
 * How much of the memory frozen layers may take. When they take more, those that no running sandbox stands on are moved to
 * disk, the oldest first; what stands on them later reads them from there.
 */

import { AleError } from "../core/errors.ts";
import type { Layer } from "./snapshots.ts";

export class LayerBudget {
  readonly limitBytes: number;
  readonly #spill: (layer: Layer) => Promise<void>;
  /** In memory, the oldest first. */
  readonly #layers = new Set<Layer>();
  #turn: Promise<void> = Promise.resolve();
  #problem: string | undefined;

  /** `spill` moves a layer to disk, or rejects and leaves it where it is. */
  constructor(limitBytes: number, spill: (layer: Layer) => Promise<void>) {
    this.limitBytes = limitBytes;
    this.#spill = spill;
  }

  add(layer: Layer): void {
    this.#layers.add(layer);
  }

  remove(layer: Layer): void {
    this.#layers.delete(layer);
  }

  /** With their launcher, all of them ended. */
  clear(): void {
    this.#layers.clear();
  }

  /** In memory. */
  get bytes(): number {
    return [...this.#layers].reduce((sum, layer) => sum + layer.bytes, 0);
  }

  get count(): number {
    return this.#layers.size;
  }

  /** Moves layers to disk until the rest fits, or none is left that can go. */
  settle(): Promise<void> {
    this.#turn = this.#turn.then(() => this.#settle());
    return this.#turn;
  }

  async #settle(): Promise<void> {
    this.#problem = undefined;
    for (const layer of [...this.#layers]) {
      if (this.bytes <= this.limitBytes) return;
      if (layer.live || layer.dropped || layer.bytes === 0) continue;
      try {
        await this.#spill(layer);
        if (layer.path !== undefined) this.#layers.delete(layer);
      } catch (error) {
        this.#problem = error instanceof Error ? error.message : String(error);
        return; // with a full disk, the next would fail, too
      }
    }
  }

  /**
   * Before more is kept.
   * @throws AleError("sandbox") when the memory for it is used up and nothing can go to disk.
   */
  async makeRoom(): Promise<void> {
    if (this.bytes > this.limitBytes) await this.settle();
    if (this.bytes <= this.limitBytes) return;
    const mb = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MB`;
    const why = this.#problem === undefined ? "running sandboxes stand on them" : this.#problem;
    throw new AleError(
      "sandbox",
      `frozen files take ${mb(this.bytes)} of memory, more than the ${mb(this.limitBytes)} they may, and cannot go to disk: ${why}`,
      { hint: "delete snapshots or sandboxes that are not needed" },
    );
  }
}
