/** Who trains and who takes new sequences in a simulated pool. */

import { ElasticPlacement } from "../../src/device/pool-placement.ts";
import type { Device } from "./device.ts";
import type { Placement } from "./setup.ts";

export class Pool {
  readonly #devices: readonly Device[];
  readonly #placement: Placement;
  /** Devices that take part in the update that is under way. */
  #training: readonly Device[] = [];
  readonly #elastic: ElasticPlacement;

  constructor(devices: readonly Device[], placement: Placement) {
    this.#devices = devices;
    this.#placement = placement;
    this.#elastic = new ElasticPlacement(devices.length);
  }

  /** The devices that make the next update; of an elastic pool those with the fewest sequences. */
  beginUpdate(): readonly Device[] {
    const devices = this.#devices;
    this.#training = devices;
    if (this.#placement.kind === "split") this.#training = devices.slice(0, this.#placement.trainers);
    if (this.#placement.kind === "elastic") {
      const open = devices.reduce((sum, device) => sum + device.open, 0);
      const times = devices.map(({ busyMs }, rank) => {
        return [rank, { trainMs: busyMs.train, generateMs: busyMs.generate }] as const;
      });
      const count = this.#elastic.decide(open, new Map(times));
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
    return this.#placement.kind === "elastic" && this.#training.includes(device) ? this.#elastic.slowness : 1;
  }
}
