/** Who trains and who takes new sequences in a simulated pool. */

import type { Device } from "./device.ts";
import type { Placement } from "./setup.ts";

/** As in `device/pool-placement.ts`. */
const MEMORY = 0.5;
const TOLERANCE = 0.1;
const MOST_SLOWNESS = 1000;

export class Pool {
  readonly #devices: readonly Device[];
  readonly #placement: Placement;
  /** Devices that take part in the update that is under way. */
  #training: readonly Device[] = [];
  /** Work of all devices, what is older counting less. */
  readonly #work = { train: 0, generate: 0 };
  readonly #seen = { train: 0, generate: 0 };

  constructor(devices: readonly Device[], placement: Placement) {
    this.#devices = devices;
    this.#placement = placement;
  }

  /**
   * The devices that make the next update. `elastic`: as many as the share of training in all work, rounded up, those with the
   * fewest sequences; all of them when nothing is generated or known.
   */
  beginUpdate(): readonly Device[] {
    const devices = this.#devices;
    this.#training = devices;
    if (this.#placement.kind === "split") this.#training = devices.slice(0, this.#placement.trainers);
    if (this.#placement.kind === "elastic") {
      this.#look();
      const isKnown = this.#work.train > 0 && this.#work.generate > 0 && devices.some(({ open }) => open > 0);
      const count = isKnown ? Math.max(1, Math.ceil(this.#needed - TOLERANCE)) : devices.length;
      this.#training = devices.toSorted((a, b) => a.open - b.open).slice(0, count);
    }
    return this.#training;
  }

  endUpdate(): void {
    this.#training = [];
  }

  /** The device for a new sequence: the one that would be done with its sequences first. */
  place(): Device {
    const { kind } = this.#placement;
    const generators = kind === "split" ? this.#devices.slice(this.#placement.trainers) : this.#devices;
    const load = (device: Device) => (device.open + 1) * this.#slowness(device);
    return generators.reduce((best, device) => (load(device) < load(best) ? device : best));
  }

  /** How much longer than others a device takes to generate because it trains. */
  #slowness(device: Device): number {
    const trainers = this.#training.length;
    if (!this.#training.includes(device) || trainers === this.#devices.length) return 1;
    return 1 / Math.max(1 / MOST_SLOWNESS, 1 - this.#needed / trainers);
  }

  /** Devices that training keeps busy. */
  get #needed(): number {
    const { train, generate } = this.#work;
    return (this.#devices.length * train) / (train + generate);
  }

  #look(): void {
    for (const activity of ["train", "generate"] as const) {
      const total = this.#devices.reduce((sum, { busyMs }) => sum + busyMs[activity], 0);
      this.#work[activity] = this.#work[activity] * MEMORY + total - this.#seen[activity];
      this.#seen[activity] = total;
    }
  }
}
